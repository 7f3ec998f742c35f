"""Several environments stepped side by side, so that one planner call serves all."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from specmpc_jax.envs.protocol import Environment, EnvironmentSpec, Rendering
from specmpc_jax.errors import UserError


class BatchTransition(NamedTuple):
    """Outcome of one agent step in every lane."""

    observation: np.ndarray  # [B, D]
    reward: np.ndarray  # [B] float64, 0 in frozen lanes
    terminated: np.ndarray  # [B] bool, keeps its value in frozen lanes
    truncated: np.ndarray  # [B] bool, keeps its value in frozen lanes
    success: np.ndarray  # [B] 1 where the task is done, 0 where not, NaN where nobody tells


class EnvironmentBatch:
    """Lanes of equally shaped environments.

    A lane whose episode has ended is frozen: it ignores its actions and repeats
    its last observation with reward 0 until it is reset. All lanes are frozen
    before the first reset. Used as a context manager it closes its lanes.
    """

    def __init__(self, environments: Sequence[Environment]) -> None:
        """Takes ownership of the environments, one a lane.

        Raises:
          UserError: if there are none, or their shapes differ.
        """
        if not environments:
            raise UserError("a batch needs at least one environment")
        shapes = {(env.spec.observation_shape, env.spec.action_dim) for env in environments}
        if len(shapes) > 1:
            raise UserError(
                "the environments of a batch need equal observation shapes and action dims, "
                f"got {sorted(shapes)}"
            )
        spec = environments[0].spec
        lanes = len(environments)
        dtype = np.uint8 if spec.observation == "rgb" else np.float32
        self._environments = list(environments)
        self._observation = np.zeros((lanes, *spec.observation_shape), dtype)
        self._terminated = np.zeros(lanes, bool)
        self._truncated = np.zeros(lanes, bool)
        self._active = np.zeros(lanes, bool)
        self._success = np.full(lanes, np.nan)

    def __len__(self) -> int:
        return len(self._environments)

    def __enter__(self) -> "EnvironmentBatch":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def spec(self) -> EnvironmentSpec:
        """Fixed facts of the first lane; shapes hold for all."""
        return self._environments[0].spec

    @property
    def environments(self) -> tuple[Rendering, ...]:
        """The lanes themselves, for rendering."""
        return tuple(self._environments)

    @property
    def active(self) -> np.ndarray:
        """Which lanes have an episode running, `[B]` bool."""
        return self._active.copy()

    def reset(self, seeds: Sequence[int | None]) -> np.ndarray:
        """Starts an episode in every lane and returns the observations `[B, D]`.

        Args:
          seeds: one seed a lane, as in `Environment.reset`.

        Raises:
          UserError: if there are not as many seeds as lanes.
        """
        if len(seeds) != len(self):
            raise UserError(f"{len(self)} lanes need as many seeds, got {len(seeds)}")
        for lane, seed in enumerate(seeds):
            self.reset_lane(lane, seed)
        return self._observation.copy()

    def reset_lane(self, lane: int, seed: int | None = None) -> np.ndarray:
        """Starts an episode in one lane and returns its observation `[D]`."""
        self._observation[lane] = self._environments[lane].reset(seed)
        self._terminated[lane] = self._truncated[lane] = False
        self._active[lane] = True
        self._success[lane] = np.nan
        return self._observation[lane].copy()

    def step(self, actions: np.ndarray) -> BatchTransition:
        """Executes one action in each active lane.

        Args:
          actions: `[B, A]` in [-1, 1]; rows of frozen lanes are not looked at.

        Raises:
          UserError: if the shape is wrong; as `Environment.step` for active lanes.
        """
        expected = (len(self), self.spec.action_dim)
        if np.shape(actions) != expected:
            raise UserError(f"actions have shape {np.shape(actions)}; expected {expected}")
        actions = np.asarray(actions)
        reward = np.zeros(len(self))
        for lane in np.flatnonzero(self._active):
            transition = self._environments[lane].step(actions[lane])
            self._observation[lane] = transition.observation
            reward[lane] = transition.reward
            self._terminated[lane] = transition.terminated
            self._truncated[lane] = transition.truncated
            self._success[lane] = transition.info.get("success", np.nan)
        self._active &= ~(self._terminated | self._truncated)
        return BatchTransition(
            self._observation.copy(),
            reward,
            self._terminated.copy(),
            self._truncated.copy(),
            self._success.copy(),
        )

    def close(self) -> None:
        """Closes every lane."""
        for environment in self._environments:
            environment.close()
