"""Episodes as one program do what the loop in Python does, in a toy world."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import tiny_agent, toy_batch
from specmpc_jax.controller import Controller
from specmpc_jax.envs.device import Models
from specmpc_jax.envs.protocol import EnvironmentSpec
from specmpc_jax.evaluation import device_rollout, rollout, variants
from specmpc_jax.types import Array

SEEDS = [3, 4, 5]


@flax.struct.dataclass
class Point:
    observation: Array


@dataclasses.dataclass(frozen=True)
class DeviceToy:
    """`models.ToyEnvironment` on the device; the model is what remains of the state in a step."""

    spec: EnvironmentSpec = EnvironmentSpec("toy", "state", (4,), 2, 12, 1)

    @property
    def model(self) -> Array:
        return jnp.float32(0.9)

    def reset(self, model: Array, key: Array) -> Point:
        return Point(jax.random.normal(key, (4,)))

    def resume(self, model: Array, start: Array) -> Point:
        return Point(start)

    def step(self, model: Array, state: Point, action: Array) -> tuple[Point, Array]:
        return Point(model * state.observation + jnp.tile(action, 2)), action[0]


def starts(seeds: list[int]) -> np.ndarray:
    """Where the toy's episodes begin."""
    drawn = [np.random.default_rng(seed).normal(size=4) for seed in seeds]
    return np.stack(drawn).astype(np.float32)


def controller(name: str) -> Controller:
    return variants.make_controller(tiny_agent(), variants.parse(name), {})


@pytest.mark.parametrize("name", ["3_step_adaptive30", "3_step_refine"])
def test_decides_as_the_loop_does(name: str):
    """Same seeds, same starts, same world: same decisions, actions, rewards, counts."""
    acting, key = controller(name), jax.random.key(1)
    seen, expected = [], []
    ran = device_rollout.run_episodes(
        acting, DeviceToy(), SEEDS, key, num_envs=2, starts=starts, observe=seen.append
    )
    loop = rollout.run_episodes(acting, toy_batch(2), SEEDS, key, expected.append)
    for one, other in zip(ran.episodes, loop.episodes, strict=True):
        assert one.episode_return == pytest.approx(other.episode_return, rel=1e-4, abs=1e-4)
        assert one.jerk == pytest.approx(other.jerk, rel=1e-3, abs=1e-4)
        counted = ("env_seed", "length", "planner_calls", "corrected", "mismatch_replans")
        assert [getattr(one, f) for f in counted] == [getattr(other, f) for f in counted]
    assert len(seen) == len(expected) == 24
    for one, other in zip(seen, expected, strict=True):
        lanes = other.active
        assert (one.active == lanes).all() and one.time == other.time
        for name in ("decision", "outcome", "offset", "block_end"):
            mine, theirs = getattr(one.info, name), np.asarray(getattr(other.info, name))
            assert (mine[lanes] == theirs[lanes]).all(), name
        np.testing.assert_allclose(one.action[lanes], other.action[lanes], atol=1e-4)
        np.testing.assert_allclose(
            one.info.mismatch[lanes], np.asarray(other.info.mismatch)[lanes], atol=1e-4
        )


def test_trace_holds_latents_only_if_asked():
    sizes = []
    for latents in (False, True):
        device_rollout.run_episodes(
            controller("3_step_naive"),
            DeviceToy(),
            SEEDS[:1],
            jax.random.key(0),
            num_envs=1,
            latents=latents,
            observe=lambda step: sizes.append(step.info.planned.z_real.shape),
            max_steps=2,
        )
    assert sizes == [(1, 0), (1, 0), (1, 16), (1, 16)]


def test_number_of_lanes_and_of_calls_change_no_episode(monkeypatch: pytest.MonkeyPatch):
    """Neither does it whether starts are drawn beside others."""
    acting, key = controller("3_step_naive"), jax.random.key(2)

    def returns(lanes: int) -> list[float]:
        ran = device_rollout.run_episodes(acting, DeviceToy(), SEEDS, key, num_envs=lanes)
        return [episode.episode_return for episode in ran.episodes]

    expected = returns(1)
    np.testing.assert_allclose(returns(3), expected, rtol=1e-4)
    monkeypatch.setattr(device_rollout, "STEPS_PER_CALL", 5)  # 12 steps in calls of 5, 5 and 2
    np.testing.assert_allclose(returns(2), expected, rtol=1e-4)


def test_lanes_may_have_worlds_of_their_own():
    """A lane in another world does as if it were alone in it."""
    acting, key = controller("3_step_naive"), jax.random.key(2)
    worlds = jnp.array([0.9, 0.2, 0.9])

    def returns(seeds: list[int], worlds: Array) -> list[float]:
        ran = device_rollout.run_episodes(
            acting,
            DeviceToy(),
            seeds,
            key,
            num_envs=len(seeds),
            starts=starts,
            models=lambda keys: Models(worlds, (True,)),
        )
        return [episode.episode_return for episode in ran.episodes]

    mixed = returns(SEEDS, worlds)
    np.testing.assert_allclose(mixed[1], returns(SEEDS[1:2], worlds[1:2])[0], rtol=1e-4)
    same = returns(SEEDS, jnp.full(3, 0.9))
    np.testing.assert_allclose(mixed[::2], same[::2], rtol=1e-4)
    assert abs(mixed[1] - same[1]) > 1e-3


def test_one_lane_of_models():
    models = Models({"a": jnp.arange(3.0), "b": jnp.ones(2)}, (True, False))
    one = models.of_lane(2)
    assert one["a"] == 2.0 and one["b"].shape == (2,)
    assert Models({"a": jnp.ones(2)}).of_lane(1)["a"].shape == (2,)
    assert models.axes == {"a": 0, "b": None}
