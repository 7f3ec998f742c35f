"""Replay of whole episodes in host memory, sampled as slices of H+1 observations.

Row t of an episode holds its t-th observation together with the action that
led there, and what that action brought; an episode of T steps takes T+1 rows.
Rows form a ring, so an episode may run over its end. Arrays are allocated
once, and the operating system hands out their pages as they fill.
"""

import collections
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from specmpc_jax import files
from specmpc_jax.errors import UserError
from specmpc_jax.learning.batch import Batch


class Episode(NamedTuple):
    """One episode of T steps, from its reset on."""

    observation: np.ndarray  # [T+1, D], or pixels [T+1, C, 64, 64]
    action: np.ndarray  # [T, A]
    reward: np.ndarray  # [T]
    terminated: np.ndarray  # [T] 1 where the step ended the episode for good


class _Stored(NamedTuple):
    """Where an episode lies."""

    serial: int  # counts every episode ever added
    start: int  # ring index of its first row
    rows: int  # T + 1


class ReplayBuffer:
    """A ring of episodes; the oldest ones make room for new ones."""

    def __init__(
        self,
        capacity: int,
        observation_shape: tuple[int, ...],
        action_dim: int,
        *,
        horizon: int,
        observation_dtype: np.typing.DTypeLike = np.float32,
        seed: int = 0,
    ) -> None:
        """Allocates the arrays.

        Args:
          capacity: rows, one for each observation; see `rows_for_bytes`.
          observation_shape: shape of one observation.
          action_dim: size A of an action.
          horizon: H; slices hold H steps.
          observation_dtype: float32 for states, uint8 for pixels.
          seed: start of the sampler's random stream.

        Raises:
          UserError: if not even one slice fits.
        """
        if horizon < 1 or capacity < horizon + 1:
            raise UserError(
                f"a replay buffer of {capacity} rows cannot hold a slice of {horizon} steps; "
                f"it needs at least {max(horizon, 1) + 1} rows and a horizon of at least 1"
            )
        self.capacity = capacity
        self.horizon = horizon
        self._observation = np.zeros((capacity, *observation_shape), observation_dtype)
        self._action = np.zeros((capacity, action_dim), np.float32)
        self._reward = np.zeros(capacity, np.float32)
        self._terminated = np.zeros(capacity, np.float32)
        self._episodes: collections.deque[_Stored] = collections.deque()
        self._added = 0
        self._written = 0
        self._random = np.random.default_rng(seed)
        self._index_slices()

    @property
    def num_episodes(self) -> int:
        """Episodes in the buffer."""
        return len(self._episodes)

    @property
    def num_steps(self) -> int:
        """Steps in the buffer."""
        return sum(stored.rows - 1 for stored in self._episodes)

    @property
    def num_slices(self) -> int:
        """Different slices that can be drawn."""
        return int(self._slices_before[-1])

    @property
    def nbytes(self) -> int:
        """Size of the arrays in bytes when full."""
        arrays = (self._observation, self._action, self._reward, self._terminated)
        return sum(array.nbytes for array in arrays)

    def add(self, episode: Episode) -> bool:
        """Stores an episode, dropping the oldest ones until it fits.

        Returns:
          Whether it was stored: episodes shorter than the horizon hold no slice and are not.

        Raises:
          UserError: if the episode is longer than the buffer or its shapes are wrong.
        """
        rows = len(episode.observation)
        self._check(episode, rows)
        if rows <= self.horizon:
            return False
        start = 0
        if self._episodes:
            start = (self._episodes[-1].start + self._episodes[-1].rows) % self.capacity
        while sum(stored.rows for stored in self._episodes) + rows > self.capacity:
            self._episodes.popleft()
        index = (start + np.arange(rows)) % self.capacity
        self._observation[index] = episode.observation
        self._action[index[1:]] = episode.action
        self._reward[index[1:]] = episode.reward
        self._terminated[index[1:]] = episode.terminated
        self._episodes.append(_Stored(self._added, start, rows))
        self._added += 1
        self._index_slices()
        return True

    def sample(self, batch_size: int, num_batches: int | None = None) -> Batch:
        """Draws slices, each one of all that there are with the same probability.

        Args:
          batch_size: B.
          num_batches: U, for a leading axis of that size; none if None.

        Returns:
          Numpy arrays `[U, H+1, B, D]`, `[U, H, B, A]`, `[U, H, B]`, `[U, H, B]`.

        Raises:
          UserError: if the buffer is empty.
        """
        if not self._episodes:
            raise UserError("the replay buffer is empty; add an episode first")
        count = batch_size * (1 if num_batches is None else num_batches)
        drawn = self._random.integers(self.num_slices, size=count)
        episode = np.searchsorted(self._slices_before, drawn, side="right") - 1
        first = self._starts[episode] + drawn - self._slices_before[episode]
        rows = (first[:, None] + np.arange(self.horizon + 1)) % self.capacity
        rows = rows.reshape(-1, batch_size, self.horizon + 1).swapaxes(1, 2)
        rows = rows[0] if num_batches is None else rows
        steps = rows[..., 1:, :]
        return Batch(
            observation=self._observation[rows],
            action=self._action[steps],
            reward=self._reward[steps],
            terminated=self._terminated[steps],
        )

    def episodes(self) -> list[Episode]:
        """Copies of all stored episodes, the oldest first."""
        return [self._read(stored) for stored in self._episodes]

    def save(self, directory: str | Path) -> dict[str, Any]:
        """Writes the episodes that are not on disk yet, each whole or not at all.

        Calls for one buffer must name the same directory. Files of dropped
        episodes stay until `prune`, so that the last saved state remains
        readable until the caller has committed to the new one.

        Returns:
          The JSON-ready state that `restore` wants.
        """
        directory = Path(directory)
        for stored in self._episodes:
            if stored.serial >= self._written:
                with files.atomic_path(_episode_path(directory, stored.serial)) as path:
                    np.savez(path, **self._read(stored)._asdict())
        self._written = self._added
        return {
            "serials": [stored.serial for stored in self._episodes],
            "added": self._added,
            "random": self._random.bit_generator.state,
        }

    def restore(self, directory: str | Path, state: Mapping[str, Any]) -> None:
        """Fills an empty buffer with what `save` wrote, the sampler's stream included.

        Raises:
          UserError: if the buffer is not empty, or a file is missing or damaged.
        """
        if self._episodes:
            raise UserError("a replay buffer is restored before anything is added to it")
        for serial in state["serials"]:
            self._added = serial
            self.add(read_episode(directory, serial))
        self._added = self._written = state["added"]
        self._random.bit_generator.state = state["random"]

    def prune(self, directory: str | Path) -> None:
        """Removes files of episodes that the buffer no longer holds."""
        kept = {_episode_path(Path(directory), stored.serial) for stored in self._episodes}
        for path in Path(directory).glob("episode_*.npz"):
            if path not in kept:
                path.unlink()

    def _check(self, episode: Episode, rows: int) -> None:
        steps = rows - 1
        observation_shape, action_shape = self._observation.shape[1:], self._action.shape[1:]
        expected = ((rows, *observation_shape), (steps, *action_shape), (steps,), (steps,))
        for name, array, shape in zip(Episode._fields, episode, expected, strict=True):
            if np.shape(array) != shape:
                raise UserError(
                    f"the episode's {name} has shape {np.shape(array)}; expected {shape}"
                )
        if rows > self.capacity:
            raise UserError(
                f"an episode of {steps} steps does not fit into a replay buffer of "
                f"{self.capacity} rows; raise buffer_size"
            )

    def _read(self, stored: _Stored) -> Episode:
        rows = (stored.start + np.arange(stored.rows)) % self.capacity
        steps = rows[1:]
        return Episode(
            self._observation[rows],
            self._action[steps],
            self._reward[steps],
            self._terminated[steps],
        )

    def _index_slices(self) -> None:
        """Counts the slices before each episode, for `sample`."""
        counts = [stored.rows - self.horizon for stored in self._episodes]
        self._starts = np.array([stored.start for stored in self._episodes], np.int64)
        self._slices_before = np.cumsum([0, *counts])


def rows_for_bytes(
    nbytes: int,
    observation_shape: tuple[int, ...],
    action_dim: int,
    observation_dtype: np.typing.DTypeLike = np.float32,
) -> int:
    """Rows of a replay buffer that take at most `nbytes` bytes of memory."""
    observation = int(np.prod(observation_shape)) * np.dtype(observation_dtype).itemsize
    return nbytes // (observation + 4 * (action_dim + 2))


def read_episode(directory: str | Path, serial: int) -> Episode:
    """Reads one episode that `ReplayBuffer.save` wrote.

    Raises:
      UserError: if its file is missing or damaged.
    """
    return _read_npz(_episode_path(Path(directory), serial))


def _episode_path(directory: Path, serial: int) -> Path:
    return directory / f"episode_{serial:08d}.npz"


def _read_npz(path: Path) -> Episode:
    try:
        with np.load(files.existing_path(path), allow_pickle=False) as stored:
            return Episode(**{name: stored[name] for name in Episode._fields})
    except (KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"replay file {path} is damaged: {error}") from error
