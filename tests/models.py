"""Models that several tests share: golden ones, and a linear toy without a network."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import golden_data
from specmpc_jax import checkpointing
from specmpc_jax.agent import Agent
from specmpc_jax.config import ModelConfig, PlannerConfig
from specmpc_jax.envs.batch import EnvironmentBatch
from specmpc_jax.envs.protocol import EnvironmentSpec, Transition
from specmpc_jax.planning import fused_model
from specmpc_jax.types import Array, Params, PlannerNoise, PlanningModel
from specmpc_jax.world_model import WorldModel

FORWARD_CASES = ("single_tiny", "mt_tiny", "episodic_tiny", "rgb_tiny", "single_1m", "episodic_1m")


class GoldenModel(NamedTuple):
    """A converted golden checkpoint with its recorded arrays."""

    config: ModelConfig
    params: Params
    arrays: dict[str, np.ndarray]
    meta: dict
    planner: PlannerConfig


def golden_model(case: str) -> GoldenModel:
    """Converts the checkpoint of a golden case; skips the test where torch is missing."""
    pytest.importorskip("torch", reason="golden checkpoints are torch files")
    from converters import load_torch

    golden = golden_data.load(case)
    # The re-keyed cases carry no settings of their own: their weights are single_tiny's.
    settings = golden.meta.get("cfg") or golden_data.load("single_tiny").meta["cfg"]
    params, config = load_torch(
        golden.path / "checkpoint.pt",
        task=",".join(settings["tasks"]),
        action_dims=tuple(settings.get("action_dims", ())),
        episode_lengths=tuple(settings.get("episode_lengths", (settings["episode_length"],))),
    )
    fields = PlannerConfig.__dataclass_fields__
    planner = PlannerConfig(**{name: settings[name] for name in fields if name in settings})
    return GoldenModel(
        config, jax.tree.map(jnp.asarray, params), golden.arrays, golden.meta, planner
    )


def _readable(config: ModelConfig, params: Params, task: Array | None) -> PlanningModel:
    return WorldModel(config).planning_model(params, task)


def _fused(config: ModelConfig, params: Params, task: Array | None) -> PlanningModel:
    return fused_model.planning_model(config, fused_model.prepare(config, params), task)


@contextlib.contextmanager
def traced_for(platform: str) -> Iterator[None]:
    """While this lasts, what is traced is what a "cpu" or an "accelerator" would run."""

    def choose(*arguments: Any, cpu: Callable[..., Any], default: Callable[..., Any]) -> Any:
        return (cpu if platform == "cpu" else default)(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.lax, "platform_dependent", choose)
        yield


# What must give the same planning functions for (config, params, task).
IMPLEMENTATIONS = {"readable": _readable, "fused": _fused}


def recorded_noise(arrays: dict[str, np.ndarray], prefix: str) -> PlannerNoise:
    """The random numbers that the official planner used in one recorded plan."""
    action_dim = arrays[f"{prefix}action"].shape[-1]
    exploration = arrays.get(f"{prefix}final_noise", np.zeros(action_dim, np.float32))
    return PlannerNoise(
        policy=jnp.asarray(arrays[f"{prefix}pi_eps"]),
        samples=jnp.asarray(arrays[f"{prefix}noise"]),
        value=jnp.asarray(arrays[f"{prefix}value_eps"]),
        members=jnp.asarray(arrays[f"{prefix}qidx"]),
        gumbel=jnp.asarray(arrays[f"{prefix}gumbel"]),
        exploration=jnp.asarray(exploration.reshape(-1)),
    )


def linear_model(dim: int = 2, discount: float = 0.9) -> PlanningModel:
    """A double-integrator-like toy: z' = 0.9 z + 0.5 a, reward -|z|^2 - 0.01 |a|^2."""

    def step(z, action):
        z = jnp.broadcast_to(z, action.shape)
        reward = -jnp.sum(jnp.square(z), -1) - 0.01 * jnp.sum(jnp.square(action), -1)
        return reward, 0.9 * z + 0.5 * action

    return PlanningModel(
        step=step,
        policy=lambda z, noise: jnp.clip(jnp.broadcast_to(-z, noise.shape) + noise, -1, 1),
        policy_mean=lambda z: jnp.clip(-z, -1, 1),
        value=lambda z, action, members: -2.0 * jnp.sum(jnp.square(z), -1),
        termination=None,
        discount=jnp.asarray(discount),
        action_mask=None,
        num_q=2,
    )


TINY_PLANNER = PlannerConfig(num_samples=16, num_elites=4, num_pi_trajs=4, iterations=2)


def tiny_config(**fields: object) -> ModelConfig:
    """A model small enough to compile and run at once; `fields` win."""
    sizes = {"enc_dim": 16, "mlp_dim": 16, "latent_dim": 16, "num_q": 3}
    shape = {"action_dim": 2, "observation_shape": (4,)}
    return ModelConfig(**{**sizes, **shape, **fields})


def tiny_agent(seed: int = 0, **fields: object) -> Agent:
    """A tiny agent with random weights and a cheap planner."""
    config = tiny_config(**fields)
    params = jax.jit(WorldModel(config).init)(jax.random.key(seed))
    # Fresh reward and Q heads are zero: all plans would be equally good, and rounding would choose.
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda x: x + 0.3 * rng.normal(size=x.shape).astype(np.float32), params)
    return Agent(params, config, TINY_PLANNER, fingerprint=checkpointing.fingerprint(params))


class ToyEnvironment:
    """A point that is pushed about; episodes end after `length` steps, or far from home."""

    def __init__(self, length: int = 12, limit: float = np.inf):
        self.spec = EnvironmentSpec("toy", "state", (4,), 2, length, 1)
        self._limit = limit

    def reset(self, seed: int | None = None) -> np.ndarray:
        """Starts at a place that the seed decides."""
        self._state = np.random.default_rng(seed).normal(size=4).astype(np.float32)
        self._time = 0
        return self._state.copy()

    def step(self, action: np.ndarray) -> Transition:
        """Moves; the reward is the action's first entry."""
        self._time += 1
        self._state = (0.9 * self._state + np.tile(action, 2)).astype(np.float32)
        gone = bool(np.abs(self._state).max() > self._limit)
        return Transition(
            self._state.copy(), float(action[0]), gone, self._time >= self.spec.episode_length, {}
        )

    def render(self, height: int = 8, width: int = 8) -> np.ndarray:
        """A picture whose colour is the time."""
        return np.full((height, width, 3), self._time, np.uint8)

    def close(self) -> None:
        """Nothing to free."""


def toy_batch(lanes: int, **options: float) -> EnvironmentBatch:
    """Lanes of the toy environment."""
    return EnvironmentBatch([ToyEnvironment(**options) for _ in range(lanes)])
