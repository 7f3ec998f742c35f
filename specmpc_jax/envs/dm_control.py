"""The DeepMind Control Suite and TD-MPC2's tasks on its bodies, with seeded episodes.

Conventions are TD-MPC2's (spec section 9): observations concatenated in the
suite's own order, actions scaled to [-1, 1], action repeat 2, 1000 environment
steps an episode.
"""

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from specmpc_jax.envs import custom_tasks
from specmpc_jax.envs.protocol import EnvironmentSpec, Transition
from specmpc_jax.envs.rendering import import_suite, rendering_errors
from specmpc_jax.errors import UserError, nearest_names

ENVIRONMENT_STEPS = 1000

# Domains that TD-MPC2 calls by another name than the suite.
_DOMAIN_NAMES = {"ball_in_cup": "cup", "point_mass": "pointmass"}
# Camera 0 shows the whole scene in most domains.
_CAMERAS = {"quadruped": 2}
# The suite reads the terrain of this task through a rendering context.
_NEEDS_CONTEXT = ("quadruped", "escape")


def task_names() -> tuple[str, ...]:
    """Canonical names of all tasks, such as "cup-catch": the suite's, then TD-MPC2's."""
    return tuple(canonical_name(*pair) for pair in _task_pairs())


def make(task: str, **options: Any) -> "DMControlEnvironment":
    """Makes the environment of a task; options are those of `DMControlEnvironment`."""
    return DMControlEnvironment(task, **options)


def find_task(task: str) -> tuple[str, str]:
    """Finds the (domain, task) of a name, as the suite writes them.

    Names are `<domain>-<task>`; upper case and underscores are accepted, and so
    are the suite's own names of the domains that TD-MPC2 renames.

    Raises:
      UserError: if there is no such task; names the nearest ones.
    """
    pairs = {}
    for domain, name in _task_pairs():
        pairs[_normalised(f"{domain}-{name}")] = (domain, name)
        pairs[canonical_name(domain, name)] = (domain, name)
    pair = pairs.get(_normalised(task))
    if pair is None:
        nearest = nearest_names(_normalised(task), task_names())
        raise UserError(f"task {task!r} is unknown; nearest names: {nearest}")
    return pair


class DMControlEnvironment:
    """One task, the suite's or TD-MPC2's; see `protocol.Environment`."""

    def __init__(self, task: str, action_repeat: int = 2, seed: int = 0) -> None:
        """Loads the task.

        Args:
          task: see `find_task`.
          action_repeat: environment steps in an agent step.
          seed: start of the random stream that resets without a seed draw from.

        Raises:
          UserError: if the task is unknown or an argument is out of range.
        """
        if action_repeat < 1:
            raise UserError(f"action_repeat is {action_repeat}; it must be at least 1")
        self._domain, self._task = find_task(task)
        self._suite_environment = self._load(seed)
        self._minimum, self._scale = _action_scaling(self._suite_environment.action_spec())
        observations = self._suite_environment.observation_spec().values()
        self._spec = EnvironmentSpec(
            task=canonical_name(self._domain, self._task),
            observation="state",
            observation_shape=(sum(math.prod(entry.shape) for entry in observations),),
            action_dim=len(self._minimum),
            episode_length=math.ceil(ENVIRONMENT_STEPS / action_repeat),
            action_repeat=action_repeat,
        )
        self._steps_left = 0

    @property
    def spec(self) -> EnvironmentSpec:
        """Fixed facts of the environment."""
        return self._spec

    @property
    def suite_environment(self) -> Any:
        """The suite's own environment, replaced by every seeded reset."""
        return self._suite_environment

    def reset(self, seed: int | None = None) -> np.ndarray:
        """Starts an episode; a seed gives the first episode of a freshly loaded task."""
        if seed is not None:
            # Tasks keep state outside their random stream (models drawn or changed
            # by an episode), so only a fresh load depends on nothing but the seed.
            self._suite_environment.close()
            self._suite_environment = self._load(seed)
        self._steps_left = self._spec.episode_length
        return _flatten(self._suite_environment.reset().observation)

    def step(self, action: np.ndarray) -> Transition:
        """Executes one action `[A]`; rewards of the repeats are summed."""
        if not self._steps_left:
            raise UserError("no episode is running; call reset before step")
        control = self._control(action)
        reward = 0.0
        for _ in range(self._spec.action_repeat):
            timestep = self._suite_environment.step(control)
            reward += float(timestep.reward)
            if timestep.last():
                break
        self._steps_left = 0 if timestep.last() else self._steps_left - 1
        terminated = bool(timestep.last() and timestep.discount == 0.0)
        truncated = not self._steps_left and not terminated
        return Transition(_flatten(timestep.observation), reward, terminated, truncated, {})

    def render(self, height: int = 384, width: int = 384) -> np.ndarray:
        """Returns a picture of the scene, `[height, width, 3]` uint8."""
        camera = _CAMERAS.get(self._domain, 0)
        with rendering_errors():
            return self._suite_environment.physics.render(height, width, camera_id=camera)

    def close(self) -> None:
        """Frees the simulation and its rendering context."""
        self._suite_environment.close()

    def _load(self, seed: int) -> Any:
        if not 0 <= seed < 2**32:
            raise UserError(f"seed is {seed}; it must lie in 0..{2**32 - 1}")
        with _without_notes_on_models():
            if (self._domain, self._task) in custom_tasks.task_pairs():
                return custom_tasks.load(self._domain, self._task, int(seed))
            environment = import_suite().load(
                self._domain, self._task, task_kwargs={"random": int(seed)}
            )
        if (self._domain, self._task) == _NEEDS_CONTEXT:
            with rendering_errors():
                _ = environment.physics.contexts
        return environment

    def _control(self, action: np.ndarray) -> np.ndarray:
        action = np.asarray(action, np.float64)
        if action.shape != self._minimum.shape:
            raise UserError(
                f"action has shape {action.shape}; {self._spec.task} needs {self._minimum.shape}"
            )
        if not np.isfinite(action).all():
            raise UserError(f"action {action} holds values that are not finite")
        return self._minimum + self._scale * (np.clip(action, -1.0, 1.0) + 1.0)


@contextlib.contextmanager
def _without_notes_on_models() -> Iterator[None]:
    """Drops MuJoCo's notes, at each load, on what is deprecated in the suite's own models."""

    def is_for_users(record: logging.LogRecord) -> bool:
        return "deprecated" not in record.getMessage()

    logger = logging.getLogger("absl")  # the one that dm_control writes to
    logger.addFilter(is_for_users)
    try:
        yield
    finally:
        logger.removeFilter(is_for_users)


def _task_pairs() -> tuple[tuple[str, str], ...]:
    return (*import_suite().ALL_TASKS, *custom_tasks.task_pairs())


def canonical_name(domain: str, task: str) -> str:
    """The project's name of a suite's (domain, task), such as "cup-catch"."""
    return _normalised(f"{_DOMAIN_NAMES.get(domain, domain)}-{task}")


def _normalised(name: str) -> str:
    return name.lower().replace("_", "-")


def _flatten(observation: Mapping[str, Any]) -> np.ndarray:
    parts = [np.asarray(value, np.float32).ravel() for value in observation.values()]
    return np.concatenate(parts)


def _action_scaling(action_spec: Any) -> tuple[np.ndarray, np.ndarray]:
    """Minimum `[A]` and half range `[A]` of the suite's actions.

    Actuators without limits (lqr) report MuJoCo's largest number; they take
    [-1, 1] as it is.
    """
    import mujoco

    limited = action_spec.maximum < mujoco.mjMAXVAL
    minimum = np.where(limited, action_spec.minimum, -1.0)
    maximum = np.where(limited, action_spec.maximum, 1.0)
    return minimum, (maximum - minimum) / 2.0
