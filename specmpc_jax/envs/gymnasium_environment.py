"""Any Gymnasium environment with continuous actions, behind the project's protocol."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from specmpc_jax.envs.protocol import EnvironmentSpec, Transition
from specmpc_jax.envs.rendering import rendering_errors
from specmpc_jax.errors import UserError

# Where simulators say whether the task is done.
_SUCCESS_KEYS = ("success", "is_success", "solved")


class GymnasiumEnvironment:
    """A Gymnasium environment; see `protocol.Environment`.

    `info` of a transition holds `success` where the simulator tells it.
    """

    def __init__(
        self,
        task: str,
        load: Callable[[], Any],
        *,
        time_limit: int,
        action_repeat: int = 1,
        seed: int = 0,
        terminates: bool = True,
        reload: bool = False,
        success_return: float | None = None,
    ) -> None:
        """Loads the environment.

        Args:
          task: name of the task, as models remember it.
          load: makes the environment, a `gymnasium.Env`.
          time_limit: environment steps of an episode.
          action_repeat: environment steps in an agent step.
          seed: start of the random stream that resets without a seed draw from.
          terminates: whether the environment's termination ends the episode; False
            goes on to the time limit.
          reload: load anew at every seeded reset, for environments that keep state
            from one episode to the next.
          success_return: the return beyond which an episode is a success, where the
            simulator itself does not tell.

        Raises:
          UserError: if an argument is out of range, or the spaces are none that a
            TD-MPC2 agent can deal with.
        """
        if action_repeat < 1:
            raise UserError(f"action_repeat is {action_repeat}; it must be at least 1")
        self._load, self._reload = load, reload
        self._environment = load()
        self._flatten, observation_dim = _observations(task, self._environment.observation_space)
        self._minimum, self._maximum = _action_range(task, self._environment.action_space)
        self._spec = EnvironmentSpec(
            task=task,
            observation="state",
            observation_shape=(observation_dim,),
            action_dim=self._minimum.size,
            episode_length=math.ceil(time_limit / action_repeat),
            action_repeat=action_repeat,
        )
        self._time_limit, self._terminates = time_limit, terminates
        self._success_return = success_return
        self._seed: int | None = seed
        self._steps_left = 0

    @property
    def spec(self) -> EnvironmentSpec:
        """Fixed facts of the environment."""
        return self._spec

    @property
    def gymnasium_environment(self) -> Any:
        """The environment underneath; `reload` replaces it at every seeded reset."""
        return self._environment

    def reset(self, seed: int | None = None) -> np.ndarray:
        """Starts an episode; the first one without a seed takes that of the constructor."""
        if seed is not None and not 0 <= seed < 2**32:
            raise UserError(f"seed is {seed}; it must lie in 0..{2**32 - 1}")
        if seed is not None and self._reload:
            self._environment.close()
            self._environment = self._load()
        chosen = self._seed if seed is None else seed
        observation, _ = self._environment.reset(seed=None if chosen is None else int(chosen))
        self._seed = None
        self._steps_left, self._return = self._time_limit, 0.0
        return self._flatten(observation)

    def step(self, action: np.ndarray) -> Transition:
        """Executes one action `[A]`; rewards of the repeats are summed."""
        if not self._steps_left:
            raise UserError("no episode is running; call reset before step")
        control = self._control(action)
        reward, terminated, truncated = 0.0, False, False
        for _ in range(min(self._spec.action_repeat, self._steps_left)):
            observation, gain, over, cut, info = self._environment.step(control.copy())
            reward += float(gain)
            self._steps_left -= 1
            terminated, truncated = bool(over and self._terminates), bool(cut)
            if terminated or truncated:
                break
        if terminated or truncated:
            self._steps_left = 0
        self._return += reward
        truncated = not self._steps_left and not terminated
        told = self._success(info)
        return Transition(self._flatten(observation), reward, terminated, truncated, told)

    def render(self, height: int = 384, width: int = 384) -> np.ndarray:
        """Returns a picture of the scene, `[height, width, 3]` uint8, scaled to the size."""
        import PIL.Image

        if self._environment.render_mode != "rgb_array":
            raise UserError(f"{self._spec.task} draws no pictures: it has no render mode rgb_array")
        with rendering_errors():
            frame = np.asarray(self._environment.render(), np.uint8)
        if frame.shape[:2] != (height, width):
            box = PIL.Image.Resampling.BOX
            frame = np.asarray(PIL.Image.fromarray(frame).resize((width, height), box))
        return frame

    def close(self) -> None:
        """Frees the simulation."""
        self._environment.close()

    def _success(self, info: Mapping[str, Any]) -> dict[str, Any]:
        if self._success_return is not None:
            return {"success": self._return > self._success_return}
        told = [info[key] for key in _SUCCESS_KEYS if key in info]
        return {"success": bool(told[0])} if told else {}

    def _control(self, action: np.ndarray) -> np.ndarray:
        action = np.asarray(action, np.float64)
        if action.shape != (self._spec.action_dim,):
            raise UserError(
                f"action has shape {action.shape}; {self._spec.task} needs "
                f"{(self._spec.action_dim,)}"
            )
        if not np.isfinite(action).all():
            raise UserError(f"action {action} holds values that are not finite")
        half = (self._maximum - self._minimum) / 2.0
        control = self._minimum + half * (np.clip(action, -1.0, 1.0) + 1.0)
        space = self._environment.action_space
        return control.astype(space.dtype).reshape(space.shape)


def _observations(task: str, space: Any) -> tuple[Callable[[Any], np.ndarray], int]:
    """How an observation becomes flat float32, and how long it is then."""
    from gymnasium import spaces

    if not space.is_np_flattenable:
        raise UserError(f"{task} has observations {space}; they cannot be made flat")

    def flatten(observation: Any) -> np.ndarray:
        return np.asarray(spaces.flatten(space, observation), np.float32)

    return flatten, int(spaces.flatdim(space))


def _action_range(task: str, space: Any) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest action `[A]`; dimensions without limits take [-1, 1] as it is."""
    from gymnasium import spaces

    if not isinstance(space, spaces.Box):
        raise UserError(f"{task} has actions {space}; an agent's are continuous (Box)")
    limited = np.isfinite(space.low) & np.isfinite(space.high)
    minimum = np.where(limited, space.low, -1.0).astype(np.float64)
    maximum = np.where(limited, space.high, 1.0).astype(np.float64)
    return minimum.ravel(), maximum.ravel()
