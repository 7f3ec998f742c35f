"""Tasks on MJX against the suite: observations, rewards, steps, starts, perturbed worlds."""

import subprocess
import sys
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import tiny_agent
from specmpc_jax.config import Perturbation
from specmpc_jax.envs import registry
from specmpc_jax.envs.dm_control import DMControlEnvironment
from specmpc_jax.errors import UserError
from specmpc_jax.evaluation import device_rollout, rollout

mjx = pytest.importorskip("mujoco.mjx")

from specmpc_jax.envs.mjx import (  # noqa: E402
    MjxEnvironment,
    MjxLanes,
    perturbed,
    starts_of_seeds,
    task_names,
)
from specmpc_jax.envs.mjx.domain import random_joints  # noqa: E402
from specmpc_jax.envs.mjx.physics import touching  # noqa: E402
from specmpc_jax.envs.mjx.rewards import tolerance  # noqa: E402

NAMES = (
    "acrobot-swingup acrobot-swingup-sparse cartpole-balance cartpole-balance-sparse "
    "cartpole-swingup cartpole-swingup-sparse cheetah-run cup-catch finger-spin finger-turn-easy "
    "finger-turn-hard hopper-hop hopper-stand humanoid-run humanoid-run-pure-state humanoid-stand "
    "humanoid-walk pendulum-swingup reacher-easy reacher-hard walker-run walker-stand walker-walk"
).split()
# Compiling the physics takes minutes for most; a system without constraints is quick.
QUICK = "pendulum-swingup"


@pytest.fixture(autouse=True, scope="module")
def promotion() -> Iterator[None]:
    """MJX itself adds arrays of unequal rank."""
    with jax.numpy_rank_promotion("allow"):
        yield


def host_states(task: str, count: int, seed: int = 0) -> Iterator[DMControlEnvironment]:
    """The suite's environment in states along a random episode."""
    environment = DMControlEnvironment(task, action_repeat=1)
    random = np.random.default_rng(seed)
    environment.reset(seed)
    for _ in range(count):
        for _ in range(5):
            environment.step(random.uniform(-1, 1, environment.spec.action_dim))
        yield environment
    environment.close()


def suite_view(environment: DMControlEnvironment) -> tuple[np.ndarray, float]:
    """The suite's observation and reward of its present state, without a step."""
    suite = environment.suite_environment
    seen = suite.task.get_observation(suite.physics)
    observation = np.concatenate([np.ravel(value) for value in seen.values()])
    return observation, suite.task.get_reward(suite.physics)


def test_the_import_leaves_stdout_to_results():
    command = [sys.executable, "-c", "import specmpc_jax.envs.mjx"]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b""


def test_names():
    assert sorted(task_names()) == NAMES


@pytest.mark.parametrize("task", NAMES)
def test_observations_and_rewards_are_the_suites(task: str):
    """On MuJoCo's own numbers of random states, in float32."""
    environment = MjxEnvironment(task)
    rewards = []
    for host in host_states(task, 20):
        physics = host.suite_environment.physics
        physics.forward()  # touch sensors of this state, not of the step that led to it
        data = mjx.put_data(environment.physics.host, physics.data.ptr)
        goal = jnp.asarray(environment.domain.goal_of(physics))
        observation, reward = suite_view(host)
        np.testing.assert_allclose(
            environment.domain.observe(data, goal), observation, rtol=2e-5, atol=2e-5
        )
        assert float(environment.domain.reward(data, goal)) == pytest.approx(reward, abs=2e-5)
        rewards.append(reward)
    assert environment.spec.observation_shape == observation.shape
    assert all(0 <= reward <= 1 for reward in rewards)


@pytest.mark.parametrize("shape", ["gaussian", "linear", "quadratic"])
def test_tolerance_is_the_suites(shape: str):
    from dm_control.utils import rewards

    x = np.linspace(-4, 4, 81)
    at_margin = 0.1 if shape == "gaussian" else 0.0
    for margin in (0.0, 1.5):
        expected = rewards.tolerance(x, (-1, 0.5), margin, shape, at_margin)
        np.testing.assert_allclose(
            tolerance(x, -1.0, 0.5, margin, shape, at_margin), expected, atol=1e-6
        )


def test_unknown_shape_of_tolerance():
    with pytest.raises(ValueError, match="gaussian, linear or quadratic"):
        tolerance(jnp.ones(1), margin=1.0, shape="cubic")


def test_random_joints_stay_within_their_limits():
    environment = MjxEnvironment("humanoid-walk")
    host = environment.physics.host
    drawn = jax.vmap(lambda key: random_joints(environment.physics, key))(
        jax.random.split(jax.random.key(0), 50)
    )
    limited = np.flatnonzero(host.jnt_limited)
    values = np.asarray(drawn)[:, host.jnt_qposadr[limited]]
    low, high = host.jnt_range[limited].T
    assert (values >= low - 1e-6).all() and (values <= high + 1e-6).all()
    assert (values.std(0) > 0.2 * (high - low)).all()
    np.testing.assert_allclose(np.linalg.norm(drawn[:, 3:7], axis=1), 1.0, rtol=1e-5)
    assert (np.asarray(drawn[:, :3]) == host.qpos0[:3]).all()


@pytest.fixture(scope="module")
def quick() -> MjxEnvironment:
    return MjxEnvironment(QUICK)


def test_steps_follow_the_suite(quick: MjxEnvironment):
    """Fifty steps of a system without contacts drift by rounding only."""
    drift = follow(quick, steps=50)
    assert drift[0] < 1e-6 and max(drift) < 2e-3


def follow(environment: MjxEnvironment, steps: int) -> list[float]:
    """Largest difference from the suite's observation before the first and after each step."""
    host = DMControlEnvironment(environment.spec.task)
    seen = host.reset(7)
    step = jax.jit(environment.step)
    state = jax.jit(environment.resume)(environment.model, environment.start_of_seed(7))
    random = np.random.default_rng(0)
    drift = [float(np.abs(seen - state.observation).max())]
    for _ in range(steps):
        action = random.uniform(-1, 1, host.spec.action_dim)
        there = host.step(action)
        state, reward = step(environment.model, state, action)
        drift.append(float(np.abs(there.observation - state.observation).max()))
        assert float(reward) == pytest.approx(there.reward, abs=0.02 + 2 * drift[-1])
    host.close()
    return drift


@pytest.mark.slow
@pytest.mark.parametrize("task", [name for name in NAMES if name != QUICK])
def test_physics_follows_the_suite(task: str):
    """MJX's own numbers of a start, and one step on, are MuJoCo's."""
    drift = follow(MjxEnvironment(task), steps=1)
    assert drift[0] < 1e-3 and drift[1] < 0.05


def test_starts_are_drawn_from_the_suites_distribution(quick: MjxEnvironment):
    drawn = jax.vmap(lambda key: quick.domain.draw(quick.model, key).qpos)(
        jax.random.split(jax.random.key(0), 200)
    )
    suite = np.stack([quick.start_of_seed(seed).qpos for seed in range(40)])
    np.testing.assert_allclose(drawn.mean(0), suite.mean(0), atol=0.8)
    np.testing.assert_allclose(drawn.std(0), suite.std(0), rtol=0.2)
    assert np.abs(drawn).max() <= np.pi


@pytest.mark.slow
@pytest.mark.parametrize("task", ["finger-turn-easy", "cup-catch", "humanoid-stand"])
def test_starts_do_not_collide(task: str):
    environment = MjxEnvironment(task)
    states = jax.jit(jax.vmap(environment.reset, (None, 0)))(
        environment.model, jax.random.split(jax.random.key(1), 8)
    )
    assert not np.asarray(jax.vmap(touching)(states.data)).any()
    assert len(np.unique(states.observation, axis=0)) == 8


def test_scan_decides_as_the_loop_does(quick: MjxEnvironment):
    """On a task of the suite, with a world model, from the same starts."""
    agent = tiny_agent(observation_shape=(3,), action_dim=1)
    controller = agent.controller(3, tau_replan=[0.2, 0.2])
    seeds, key, seen, expected = [1, 2], jax.random.key(0), [], []
    device_rollout.run_episodes(
        controller,
        quick,
        seeds,
        key,
        num_envs=2,
        starts=lambda seeds: starts_of_seeds(quick, seeds),
        observe=seen.append,
        max_steps=12,
    )
    with MjxLanes(QUICK, 2, suite_starts=True) as lanes:
        rollout.run_episodes(controller, lanes, seeds, key, expected.append, max_steps=12)
    for one, other in zip(seen, expected, strict=True):
        assert (one.info.decision == np.asarray(other.info.decision)).all()
        np.testing.assert_allclose(one.action, other.action, atol=1e-3)
        np.testing.assert_allclose(one.reward, other.reward, atol=1e-4)
    decisions = np.stack([step.info.decision for step in seen])
    assert len(np.unique(decisions)) > 1  # some plans were dropped, or nothing was compared


def test_lanes_behave_as_a_batch(quick: MjxEnvironment):
    with registry.make_batch(QUICK, 2, backend="mjx", suite_starts=True) as lanes:
        host = DMControlEnvironment(QUICK)
        assert lanes.spec == host.spec and not lanes.active.any()
        first = lanes.reset([4, 5])
        np.testing.assert_allclose(first[1], host.reset(5), atol=1e-6)
        action = np.full((2, 1), 0.3)
        transition = lanes.step(action)
        there = host.step(action[1])
        np.testing.assert_allclose(transition.observation[1], there.observation, atol=1e-5)
        assert transition.reward[1] == pytest.approx(there.reward, abs=1e-4)
        # One lane begins anew and the other goes on.
        np.testing.assert_allclose(lanes.reset_lane(0, 4), first[0], atol=1e-6)
        after = lanes.step(action)
        assert not np.allclose(after.observation[0], after.observation[1], atol=1e-4)
        picture = lanes.environments[0].render(32, 48)
        assert picture.shape == (32, 48, 3) and picture.std() > 0
        for _ in range(498):
            last = lanes.step(action)
        assert last.truncated.tolist() == [False, True] and lanes.active.tolist() == [True, False]
        frozen = lanes.step(action)
        assert frozen.reward[1] == 0.0
        assert (frozen.observation[1] == last.observation[1]).all()


def test_drawn_starts_follow_from_the_seed():
    with registry.make_batch(QUICK, 2, backend="mjx") as lanes:
        first = lanes.reset([4, 4])
        assert (first[0] == first[1]).all()
        assert (lanes.reset([5, 4])[1] == first[0]).all()
        assert (lanes.reset([5, 4])[0] != first[0]).any()


def test_worlds_differ_as_much_as_asked(quick: MjxEnvironment):
    keys = jax.random.split(jax.random.key(0), 64)
    assert perturbed(quick, Perturbation(), keys).own is None
    worlds = perturbed(quick, Perturbation(mass=0.3, gain=0.1), keys)
    body = quick.physics.body("pole")
    factor = np.asarray(worlds.model.body_mass[:, body]) / float(quick.model.body_mass[body])
    assert factor.min() > np.exp(-0.3) and factor.max() < np.exp(0.3) and factor.std() > 0.1
    inertia = worlds.model.body_inertia[:, body] / quick.model.body_inertia[body]
    np.testing.assert_allclose(inertia, np.repeat(factor[:, None], 3, 1), rtol=1e-5)
    total = np.asarray(worlds.model.body_subtreemass[:, 0])
    np.testing.assert_allclose(total, np.asarray(worlds.model.body_mass).sum(1), rtol=1e-5)
    gain = worlds.model.actuator_gainprm[:, 0, 0] / quick.model.actuator_gainprm[0, 0]
    assert gain.min() > np.exp(-0.1) and gain.max() < np.exp(0.1)
    assert (worlds.model.geom_friction == quick.model.geom_friction).all()


def test_lanes_in_worlds_of_their_own(quick: MjxEnvironment):
    """One start, one action: other masses, other steps; the suite's world among them."""
    worlds = perturbed(quick, Perturbation(mass=0.5), jax.random.split(jax.random.key(0), 2))
    with MjxLanes(QUICK, 2, suite_starts=True, models=worlds) as lanes:
        lanes.reset([4, 4])
        for _ in range(10):
            seen = lanes.step(np.full((2, 1), 0.5)).observation
    assert np.abs(seen[0] - seen[1]).max() > 1e-3


@pytest.mark.parametrize("value", [-0.1, float("nan"), 6.0])
def test_impossible_perturbations(value: float):
    with pytest.raises(UserError, match="mass"):
        Perturbation(mass=value)


def test_what_cannot_be_made():
    with pytest.raises(UserError, match="does not run on MJX"):
        MjxEnvironment("dog-run")
    with pytest.raises(UserError, match="unknown"):
        MjxEnvironment("walker-fly")
    with pytest.raises(UserError, match="states only"):
        registry.make_batch(QUICK, 1, "rgb", backend="mjx")
    with pytest.raises(UserError, match="backend"):
        registry.make_batch(QUICK, 1, backend="warp")
