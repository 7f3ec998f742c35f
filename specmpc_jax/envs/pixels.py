"""Pixel observations: the last rendered frames of any environment, stacked."""

import collections
import dataclasses

import numpy as np

from specmpc_jax.envs.protocol import Environment, EnvironmentSpec, Transition


class PixelEnvironment:
    """Replaces an environment's observations by stacked frames; see `protocol.Environment`.

    Observations are `[3 * num_frames, size, size]` uint8, channel-first, oldest
    frame first (spec section 2); an episode starts with copies of its first frame.
    """

    def __init__(self, environment: Environment, num_frames: int = 3, size: int = 64) -> None:
        """Takes ownership of an environment that can render; `size` is in pixels."""
        self._environment = environment
        self._frames: collections.deque[np.ndarray] = collections.deque(maxlen=num_frames)
        self._num_frames, self._size = num_frames, size
        self._spec = dataclasses.replace(
            environment.spec,
            observation="rgb",
            observation_shape=(3 * num_frames, size, size),
        )

    @property
    def spec(self) -> EnvironmentSpec:
        """Fixed facts of the environment."""
        return self._spec

    def reset(self, seed: int | None = None) -> np.ndarray:
        """Starts an episode and returns its first frame, repeated."""
        self._environment.reset(seed)
        self._frames.extend([self._frame()] * self._num_frames)
        return np.concatenate(self._frames)

    def step(self, action: np.ndarray) -> Transition:
        """Executes one action `[A]` and returns the stacked frames."""
        transition = self._environment.step(action)
        self._frames.append(self._frame())
        return transition._replace(observation=np.concatenate(self._frames))

    def render(self, height: int = 384, width: int = 384) -> np.ndarray:
        """Returns a picture of the scene, `[height, width, 3]` uint8."""
        return self._environment.render(height, width)

    def close(self) -> None:
        """Closes the environment underneath."""
        self._environment.close()

    def _frame(self) -> np.ndarray:
        return self._environment.render(self._size, self._size).transpose(2, 0, 1)
