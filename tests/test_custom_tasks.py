"""TD-MPC2's tasks on the suite's bodies: golden states, start states, dynamics, imports."""

import os
import subprocess
import sys

import numpy as np
import pytest

from specmpc_jax import envs
from specmpc_jax.envs import custom_tasks
from specmpc_jax.errors import UserError
from specmpc_jax.tasks import TASK_SETS

NAMES = TASK_SETS["mt30"].names[19:]

# The recording is of MuJoCo 3.1.2. Kinematics have the same bits since; the forces that
# touch sensors measure stop a solver's iterations elsewhere (3e-14), and rewards are
# sums in another order (3e-16).
OBSERVATION_TOLERANCE = 1e-11
REWARD_TOLERANCE = 1e-14


@pytest.fixture(params=NAMES)
def environment(request):
    environment = envs.make(request.param)
    yield environment
    environment.close()


def _set_state(environment, arrays, index):
    """Sets a recorded state, target included, and runs the forward pass."""
    name, physics = environment.spec.task, environment.suite_environment.physics
    physics.data.qpos[:] = arrays[f"{name}/qpos"][index]
    physics.data.qvel[:] = arrays[f"{name}/qvel"][index]
    if f"{name}/target_pos" in arrays:
        physics.named.model.geom_pos["target"] = arrays[f"{name}/target_pos"][index]
    physics.forward()
    return physics


def test_the_names_are_those_of_the_task_sets():
    assert len(NAMES) == len(custom_tasks.task_pairs()) == 11
    names = envs.task_names()
    first = names.index(NAMES[0])
    assert names[first : first + 11] == NAMES


def test_observations_and_rewards_are_the_official_ones(environment, golden):
    arrays = golden("custom_tasks").arrays
    name, task = environment.spec.task, environment.suite_environment.task
    environment.reset(0)
    observations, rewards = [], []
    for index in range(80):
        physics = _set_state(environment, arrays, index)
        parts = task.get_observation(physics).values()
        observations.append(np.concatenate([np.ravel(part) for part in parts]))
        rewards.append(task.get_reward(physics))
    expected = arrays[f"{name}/observation"]
    np.testing.assert_allclose(observations, expected, rtol=0, atol=OBSERVATION_TOLERANCE)
    np.testing.assert_allclose(rewards, arrays[f"{name}/reward"], rtol=0, atol=REWARD_TOLERANCE)
    assert np.ptp(rewards) > 0.5


def test_seeds_repeat_bit_for_bit_whatever_came_before(environment):
    actions = np.random.default_rng(0).uniform(-1, 1, (5, environment.spec.action_dim))

    def episode(seed):
        first = environment.reset(seed)
        return np.stack([first, *(environment.step(a).observation for a in actions)])

    expected = episode(3)
    assert not np.array_equal(episode(4)[0], expected[0])
    np.testing.assert_array_equal(episode(3), expected)


def test_an_episode_is_1000_environment_steps(environment):
    """Of the task itself: its own time limit must not come first, nor later."""
    suite_environment = environment.suite_environment
    suite_environment.reset()
    control = np.zeros(environment.spec.action_dim)
    for _ in range(999):
        assert not suite_environment.step(control).last()
    timestep = suite_environment.step(control)
    assert timestep.last() and timestep.discount == 1.0


def test_the_spinning_ball_starts_inside_the_cup_nine_times_in_ten():
    environment = envs.make("cup-spin")
    inside, places = [], []
    # A seed reloads the model, which takes longer than an episode's start.
    for seed in (seed for first in range(6) for seed in (first, *[None] * 49)):
        environment.reset(seed)
        physics = environment.suite_environment.physics
        assert physics.data.ncon == 0
        inside.append(physics.in_target())
        places.append(physics.data.qpos[2:].copy())
    environment.close()
    # Mean 0.9 and three standard deviations.
    assert 0.85 < np.mean(inside) < 0.95
    outside = np.array(places)[~np.array(inside, bool)]
    assert (np.abs(outside - [0.0, 0.35]) <= [0.2, 0.15]).all()
    assert (np.ptp(outside, axis=0) > [0.3, 0.2]).all()


@pytest.mark.parametrize("name, radius", [("easy", 0.05), ("hard", 0.015)])
def test_the_reacher_has_three_links_and_the_suites_target(name, radius):
    environment = envs.make(f"reacher-three-{name}")
    environment.reset(0)
    physics = environment.suite_environment.physics
    named = physics.named
    assert named.model.geom_size["target", 0] == radius
    joints = ("shoulder0", "shoulder1", "wrist")
    np.testing.assert_array_equal(named.model.jnt_limited[list(joints)], [0, 1, 1])
    np.testing.assert_allclose(
        np.rad2deg(named.model.jnt_range[["shoulder1", "wrist"]]), [[-80, 80]] * 2
    )
    # Capsules: half of the length between the centres of their ends.
    np.testing.assert_allclose(
        named.model.geom_size[["arm0", "arm1", "hand"], 1], [0.045, 0.045, 0.05]
    )
    np.testing.assert_array_equal(named.model.actuator_trnid[list(joints), 0], [0, 1, 2])
    physics.data.qpos[:] = 0
    physics.forward()
    np.testing.assert_allclose(named.data.geom_xpos["finger"], [0.27, 0, 0.01])
    environment.close()


def test_misspelt_names_lead_here_too():
    with pytest.raises(UserError, match="nearest names: walker-walk-backwards"):
        envs.make("walker-walk-backward")
    with pytest.raises(UserError, match="nearest names: reacher-three-hard"):
        envs.make("reacher-three-hrd")
    assert envs.make("ball_in_cup-spin").spec.task == "cup-spin"


# A process without dm_control: a module that is None cannot be imported.
_WITHOUT = """
import sys
sys.modules["dm_control"] = None
from specmpc_jax import envs
from specmpc_jax.envs import custom_tasks, dm_control
from specmpc_jax.errors import UserError
try:
    envs.make("cup-spin")
except UserError as error:
    print(error)
"""


def test_the_library_imports_without_dm_control():
    root = os.path.dirname(os.path.dirname(envs.__path__[0]))
    result = subprocess.run(
        [sys.executable, "-c", _WITHOUT],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.startswith("DMControl tasks need the package dm_control"), result.stderr
