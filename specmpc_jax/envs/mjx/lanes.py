"""MJX environments behind the interface of `EnvironmentBatch`: one program steps all lanes."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from specmpc_jax.envs.batch import BatchTransition, EnvironmentBatch
from specmpc_jax.envs.device import Models, reset_lanes, resume_lanes, step_lanes
from specmpc_jax.envs.dm_control import DMControlEnvironment
from specmpc_jax.envs.mjx.domain import Start
from specmpc_jax.envs.mjx.environment import MjxEnvironment, MjxState
from specmpc_jax.envs.protocol import EnvironmentSpec, Rendering
from specmpc_jax.errors import UserError
from specmpc_jax.types import Array


def starts_of_seeds(environment: MjxEnvironment, seeds: Sequence[int]) -> Start:
    """How the suite's episodes of some seeds begin, with a leading axis B."""
    starts = [environment.start_of_seed(seed) for seed in seeds]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *starts)


class MjxLanes(EnvironmentBatch):
    """Lanes of one task; see `EnvironmentBatch`. Episodes never terminate early."""

    def __init__(
        self,
        task: str,
        num_envs: int,
        action_repeat: int = 2,
        *,
        suite_starts: bool = False,
        models: Models | None = None,
    ) -> None:
        """Loads the task.

        Args:
          task: a name of `environment.task_names()`.
          num_envs: B.
          action_repeat: environment steps in an agent step.
          suite_starts: let an episode of a seed begin as the suite's of that seed does, which
            takes the time to load the suite's task anew; else starts are drawn on the device.
          models: of the lanes; the suite's for all if None.

        Raises:
          UserError: as `MjxEnvironment`; if `num_envs` is below 1.
        """
        if num_envs < 1:
            raise UserError(f"num_envs is {num_envs}; it must be at least 1")
        self.environment = MjxEnvironment(task, action_repeat)
        self._models = models or Models(self.environment.model)
        self._suite_starts = suite_starts
        self._lanes = num_envs
        self._random = np.random.default_rng(0)  # of resets without a seed
        self._state = _reset(self.environment, self._models, _keys([0] * num_envs))
        self._steps_left = np.zeros(num_envs, int)
        self._pictures: DMControlEnvironment | None = None

    def __len__(self) -> int:
        return self._lanes

    @property
    def spec(self) -> EnvironmentSpec:
        """Fixed facts of all lanes."""
        return self.environment.spec

    @property
    def environments(self) -> tuple[Rendering, ...]:
        """The lanes, for rendering."""
        return tuple(LaneView(self, lane) for lane in range(len(self)))

    @property
    def active(self) -> np.ndarray:
        """Which lanes have an episode running, `[B]` bool."""
        return self._steps_left > 0

    def reset(self, seeds: Sequence[int | None]) -> np.ndarray:
        """Starts an episode in every lane and returns the observations `[B, D]`."""
        if len(seeds) != len(self):
            raise UserError(f"{len(self)} lanes need as many seeds, got {len(seeds)}")
        known = [self._seed(seed) for seed in seeds]
        if self._suite_starts:
            starts = starts_of_seeds(self.environment, known)
            self._state = _resume(self.environment, self._models, starts)
        else:
            self._state = _reset(self.environment, self._models, _keys(known))
        self._steps_left[:] = self.spec.episode_length
        return np.array(self._state.observation)

    def reset_lane(self, lane: int, seed: int | None = None) -> np.ndarray:
        """Starts an episode in one lane and returns its observation `[D]`."""
        known = self._seed(seed)
        if self._suite_starts:
            start = self.environment.start_of_seed(known)
            self._state = _resume_lane(self.environment, self._models, self._state, lane, start)
        else:
            key = _keys([known])[0]
            self._state = _reset_lane(self.environment, self._models, self._state, lane, key)
        self._steps_left[lane] = self.spec.episode_length
        return np.array(self._state.observation[lane])

    def step(self, actions: np.ndarray) -> BatchTransition:
        """Executes one action `[B, A]` in each active lane."""
        expected = (len(self), self.spec.action_dim)
        if np.shape(actions) != expected:
            raise UserError(f"actions have shape {np.shape(actions)}; expected {expected}")
        active = self.active
        if not np.isfinite(np.asarray(actions)[active]).all():
            raise UserError("an action holds values that are not finite")
        self._state, reward = _step(
            self.environment, self._models, self._state, jnp.asarray(actions, jnp.float32), active
        )
        self._steps_left[active] -= 1
        return BatchTransition(
            observation=np.array(self._state.observation),
            reward=np.asarray(reward, np.float64),
            terminated=np.zeros(len(self), bool),
            truncated=self._steps_left == 0,
            success=np.full(len(self), np.nan),
        )

    def close(self) -> None:
        """Frees what was made for pictures."""
        if self._pictures is not None:
            self._pictures.close()

    def render(self, lane: int, height: int, width: int) -> np.ndarray:
        """Returns a picture of one lane's scene in the suite's own body, `[height, width, 3]`."""
        if self._pictures is None:
            self._pictures = DMControlEnvironment(self.spec.task)
            self._pictures.reset(0)
        state = jax.tree.map(lambda leaf: np.asarray(leaf[lane]), self._state)
        physics = self._pictures.suite_environment.physics
        physics.data.qpos[:] = state.data.qpos
        self.environment.domain.show_goal(physics, state.goal)
        physics.forward()
        return self._pictures.render(height, width)

    def _seed(self, seed: int | None) -> int:
        seed = int(self._random.integers(2**32)) if seed is None else seed
        if not 0 <= seed < 2**32:
            raise UserError(f"seed is {seed}; it must lie in 0..{2**32 - 1}")
        return seed


class LaneView:
    """One lane as far as pictures need it."""

    def __init__(self, lanes: MjxLanes, lane: int) -> None:
        """Looks at a lane of some lanes."""
        self._lanes, self._lane = lanes, lane

    def render(self, height: int = 384, width: int = 384) -> np.ndarray:
        """Returns a picture of the lane's scene, `[height, width, 3]` uint8."""
        return self._lanes.render(self._lane, height, width)


def _keys(seeds: Sequence[int]) -> Array:
    return jax.vmap(jax.random.key)(np.asarray(seeds, np.uint32))


_reset = jax.jit(reset_lanes, static_argnums=0)
_resume = jax.jit(resume_lanes, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _reset_lane(
    environment: MjxEnvironment, models: Models, state: MjxState, lane: int, key: Array
) -> MjxState:
    return _put(state, lane, environment.reset(models.of_lane(lane), key))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _resume_lane(
    environment: MjxEnvironment, models: Models, state: MjxState, lane: int, start: Start
) -> MjxState:
    return _put(state, lane, environment.resume(models.of_lane(lane), start))


def _put(state: MjxState, lane: int, one: MjxState) -> MjxState:
    return jax.tree.map(lambda all_lanes, new: all_lanes.at[lane].set(new), state, one)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _step(
    environment: MjxEnvironment, models: Models, state: MjxState, action: Array, active: Array
) -> tuple[MjxState, Array]:
    after, reward = step_lanes(environment, models, state, action)

    def choose(new: Array, old: Array) -> Array:
        return jnp.where(active.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, after, state), jnp.where(active, reward, 0.0)
