"""Slices of recorded multi-task episodes, as a learner's source in place of replay."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from specmpc_jax.datasets.episodes import Chunk
from specmpc_jax.errors import UserError
from specmpc_jax.learning.batch import Batch
from specmpc_jax.tasks import TaskSet


class OfflineData:
    """Slices of H+1 rows, drawn uniformly; for a `Learner` in place of a replay buffer.

    Draw n depends on the seed and n alone, so a resumed run sees what it would have seen.
    """

    def __init__(
        self, chunks: Sequence[Chunk], tasks: TaskSet, *, horizon: int, seed: int = 0
    ) -> None:
        """Prepares sampling.

        Args:
          chunks: from `open_chunks`.
          tasks: the set that the tasks of the data are numbered in.
          horizon: H.
          seed: of all draws.

        Raises:
          UserError: if the data are not of this task set, or have no slice.
        """
        wanted = (max(tasks.observation_dims), max(tasks.action_dims))
        if chunks[0].dims != wanted:
            raise UserError(
                f"the data have observation and action sizes {chunks[0].dims}; {tasks.name} has "
                f"{wanted}"
            )
        if chunks[0].rows <= horizon:
            raise UserError(f"episodes of {chunks[0].rows} rows hold no {horizon} steps")
        self._chunks, self._tasks = list(chunks), tasks
        self._horizon, self._seed = horizon, seed
        self._ends = np.cumsum([chunk.num_episodes for chunk in chunks])
        self.drawn = 0

    @property
    def num_episodes(self) -> int:
        """Episodes in all chunks."""
        return int(self._ends[-1])

    @property
    def num_slices(self) -> int:
        """Different slices that can be drawn."""
        return self.num_episodes * (self._chunks[0].rows - self._horizon)

    def gather(self, episodes: np.ndarray, first: np.ndarray) -> dict[str, np.ndarray]:
        """Reads rows `first` to `first + H` of episodes `[N]`, as arrays `[N, H+1, ...]`."""
        count = len(episodes)
        observation_dim, action_dim = self._chunks[0].dims
        rows = self._horizon + 1
        found = {
            "observation": np.empty((count, rows, observation_dim), np.float32),
            "action": np.empty((count, rows, action_dim), np.float32),
            "reward": np.empty((count, rows), np.float32),
            "task": np.empty((count, rows), np.int32),
        }
        owner = np.searchsorted(self._ends, episodes, side="right")
        steps = first[:, None] + np.arange(rows)
        for number in np.unique(owner):
            chunk, own = self._chunks[number], owner == number
            index = episodes[own] - (self._ends[number] - chunk.num_episodes)
            for name, array in found.items():
                array[own] = chunk.arrays[name][index[:, None], steps[own]]
        return found

    def sample(self, batch_size: int, num_batches: int) -> Batch:
        """Draws slices, each one of all that there are with the same probability.

        Args:
          batch_size: B.
          num_batches: U.

        Returns:
          Numpy arrays as of `ReplayBuffer.sample`, with the tasks `[U, B]`.

        Raises:
          UserError: if numbers in the data are not finite, or a task is none of the set.
        """
        draws = [self._draw(self.drawn + n, batch_size) for n in range(num_batches)]
        self.drawn += num_batches
        found = self.gather(*(np.concatenate(part) for part in zip(*draws, strict=True)))
        self._check(found)

        def time_major(array: np.ndarray) -> Any:
            return array.reshape(num_batches, batch_size, *array.shape[1:]).swapaxes(1, 2)

        reward = time_major(found["reward"])[:, 1:]
        return Batch(
            observation=time_major(found["observation"]),
            action=time_major(found["action"])[:, 1:],
            reward=reward,
            terminated=np.zeros_like(reward),
            task=time_major(found["task"])[:, 0],
        )

    def _draw(self, number: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Episodes and first rows `[B]` of draw `number`."""
        random = np.random.default_rng((self._seed, number))
        places = self._chunks[0].rows - self._horizon
        slices = random.integers(self.num_slices, size=batch_size)
        return slices // places, slices % places

    def _check(self, found: Mapping[str, np.ndarray]) -> None:
        """Refuses data that an update would turn into NaNs, or that are of other tasks."""
        tasks = found["task"]
        if tasks.min() < 0 or tasks.max() >= len(self._tasks) or (tasks != tasks[:, :1]).any():
            raise UserError(
                f"the data have tasks {tasks.min()} to {tasks.max()} in a slice, or slices of "
                f"several; {self._tasks.name} has tasks 0 to {len(self._tasks) - 1}"
            )
        used = {"observation": found["observation"]}
        used |= {name: found[name][:, 1:] for name in ("action", "reward")}
        for name, values in used.items():
            if not np.isfinite(values).all():
                raise UserError(f"the data hold a {name} that is not finite")
