"""Whole episodes from environments that are stepped side by side."""

from typing import NamedTuple

import numpy as np

from specmpc_jax.envs.batch import EnvironmentBatch
from specmpc_jax.errors import UserError
from specmpc_jax.learning.replay_buffer import Episode

# Streams of `derived_seed`, so that no two uses of a run's seed share numbers.
TRAINING_EPISODES, RANDOM_ACTIONS, EVALUATION_EPISODES, REPLAY = range(1, 5)


class RunningEpisode(NamedTuple):
    """The running episode of one environment."""

    observation: list[np.ndarray]
    action: list[np.ndarray]
    reward: list[float]
    terminated: list[bool]

    @classmethod
    def begin(cls, observation: np.ndarray) -> "RunningEpisode":
        """An episode of no steps."""
        return cls([observation.copy()], [], [], [])

    def append(
        self, action: np.ndarray, observation: np.ndarray, reward: float, terminated: bool
    ) -> None:
        """Adds one step and where it led."""
        self.observation.append(observation.copy())
        self.action.append(np.asarray(action, np.float32))
        self.reward.append(reward)
        self.terminated.append(terminated)

    def finish(self, task: str, episodic: bool) -> Episode:
        """The whole episode.

        Raises:
          UserError: if it terminated although the run is not episodic.
        """
        if self.terminated[-1] and not episodic:
            raise UserError(
                f"an episode of {task} terminated after {len(self.reward)} steps; train such a "
                "task with --episodic"
            )
        return Episode(
            observation=np.stack(self.observation),
            action=np.stack(self.action),
            reward=np.asarray(self.reward, np.float32),
            terminated=np.asarray(self.terminated, np.float32),
        )


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
            running.append(
                action[lane],
                self.observation[lane],
                transition.reward[lane],
                transition.terminated[lane],
            )
            if transition.terminated[lane] or transition.truncated[lane]:
                ended.append(running.finish(self._environments.spec.task, self._episodic))
                self._running[lane] = self._begin(lane)
        return ended

    def _begin(self, lane: int) -> RunningEpisode:
        seed = derived_seed(self._seed, TRAINING_EPISODES, self._episodes_started)
        self._episodes_started += 1
        self.observation[lane] = self._environments.reset_lane(lane, seed)
        self.first[lane] = True
        return RunningEpisode.begin(self.observation[lane])


def derived_seed(seed: int, stream: int, number: int) -> int:
    """The `number`-th 32-bit seed of a stream that follows from a run's seed."""
    return int(np.random.SeedSequence((seed, stream, number)).generate_state(1)[0])
