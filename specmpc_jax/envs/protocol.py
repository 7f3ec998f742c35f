"""What every environment of the project looks like to the code that uses it."""

import dataclasses
from typing import Any, NamedTuple, Protocol

import numpy as np


@dataclasses.dataclass(frozen=True)
class EnvironmentSpec:
    """Fixed facts of an environment.

    `task` is the canonical task name. An agent step repeats its action for
    `action_repeat` environment steps; `episode_length` counts agent steps.
    `observation_shape` is `(D,)` for "state" (float32), `(9, 64, 64)` for "rgb"
    (uint8, channel-first).
    """

    task: str
    observation: str
    observation_shape: tuple[int, ...]
    action_dim: int
    episode_length: int
    action_repeat: int


class Transition(NamedTuple):
    """Outcome of one agent step."""

    observation: np.ndarray  # [D] float32, or uint8 frames for "rgb"
    reward: float  # summed over the action repeat
    terminated: bool  # the task ended: nothing is worth anything from here on
    truncated: bool  # the time limit was reached: the task itself would go on
    info: dict[str, Any]  # `success`, bool, where the environment tells whether the task is done


class Rendering(Protocol):
    """What has pictures of itself."""

    def render(self, height: int = 384, width: int = 384) -> np.ndarray:
        """Returns a picture of the scene, `[height, width, 3]` uint8.

        Raises:
          UserError: if this machine cannot render; says what is missing.
        """
        ...


class Environment(Rendering, Protocol):
    """One environment; actions lie in [-1, 1] and are clipped to it."""

    @property
    def spec(self) -> EnvironmentSpec:
        """Fixed facts of the environment."""
        ...

    def reset(self, seed: int | None = None) -> np.ndarray:
        """Starts an episode and returns its first observation.

        The same seed always gives the same episode, whatever happened before;
        without one the environment's own random stream goes on.

        Raises:
          UserError: if the seed is out of range.
        """
        ...

    def step(self, action: np.ndarray) -> Transition:
        """Executes one action `[A]` for `spec.action_repeat` environment steps.

        Raises:
          UserError: if the action has the wrong shape or is not finite, or if
            no episode is running.
        """
        ...

    def close(self) -> None:
        """Frees the simulation; the environment cannot be used afterwards."""
        ...
