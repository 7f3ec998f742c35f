"""Whole episodes from environments that are stepped side by side."""

from typing import NamedTuple

import numpy as np

from specmpc_jax.envs.batch import EnvironmentBatch
from specmpc_jax.errors import UserError
from specmpc_jax.learning.replay_buffer import Episode

# Streams of `derived_seed`, so that no two uses of a run's seed share numbers.
TRAINING_EPISODES, RANDOM_ACTIONS, EVALUATION_EPISODES = range(1, 4)


class _Lane(NamedTuple):
    """The running episode of one environment."""

    observation: list[np.ndarray]
    action: list[np.ndarray]
    reward: list[float]
    terminated: list[bool]


class Collector:
    """Steps environments and hands out each episode when it ends.

    Episode n starts from an environment seed that depends on the run's seed
    and n alone, so a resumed run sees the episodes that it would have seen.
    """

    def __init__(
        self,
        environments: EnvironmentBatch,
        seed: int,
        *,
        episodic: bool = False,
        episodes_started: int = 0,
    ) -> None:
        """Starts an episode in every lane.

        Args:
          environments: the lanes; the caller closes them.
          seed: the run's seed.
          episodic: whether episodes may end before their time limit.
          episodes_started: number of the first episode.
        """
        self._episodes_started = episodes_started
        self._environments = environments
        self._seed = seed
        self._episodic = episodic
        spec, lanes = environments.spec, len(environments)
        dtype = np.uint8 if spec.observation == "rgb" else np.float32
        self.observation = np.zeros((lanes, *spec.observation_shape), dtype)
        self.first = np.zeros(lanes, bool)
        self._running = [self._begin(lane) for lane in range(lanes)]

    @property
    def episodes_under_way(self) -> int:
        """Number of the first episode that has no step yet."""
        return self._episodes_started - int(self.first.sum())

    def step(self, action: np.ndarray) -> list[Episode]:
        """Executes one action `[B, A]` in each lane.

        `observation` `[B, D]` and `first` `[B]` then tell where the lanes are;
        a lane whose episode ended stands at the start of its next one.

        Returns:
          The episodes that ended.

        Raises:
          UserError: if an episode terminates although the run is not episodic.
        """
        transition = self._environments.step(action)
        self.observation, self.first = transition.observation, np.zeros(len(action), bool)
        ended = []
        for lane, running in enumerate(self._running):
            running.observation.append(self.observation[lane].copy())
            running.action.append(np.asarray(action[lane], np.float32))
            running.reward.append(transition.reward[lane])
            running.terminated.append(transition.terminated[lane])
            if transition.terminated[lane] or transition.truncated[lane]:
                ended.append(self._finish(running))
                self._running[lane] = self._begin(lane)
        return ended

    def _begin(self, lane: int) -> _Lane:
        seed = derived_seed(self._seed, TRAINING_EPISODES, self._episodes_started)
        self._episodes_started += 1
        self.observation[lane] = self._environments.reset_lane(lane, seed)
        self.first[lane] = True
        return _Lane([self.observation[lane].copy()], [], [], [])

    def _finish(self, running: _Lane) -> Episode:
        if running.terminated[-1] and not self._episodic:
            raise UserError(
                f"an episode of {self._environments.spec.task} terminated after "
                f"{len(running.reward)} steps; train such a task with --episodic"
            )
        return Episode(
            observation=np.stack(running.observation),
            action=np.stack(running.action),
            reward=np.asarray(running.reward, np.float32),
            terminated=np.asarray(running.terminated, np.float32),
        )


def derived_seed(seed: int, stream: int, number: int) -> int:
    """The `number`-th 32-bit seed of a stream that follows from a run's seed."""
    return int(np.random.SeedSequence((seed, stream, number)).generate_state(1)[0])
