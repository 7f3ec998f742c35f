"""Episodes from environments that each go their own pace."""

from typing import NamedTuple

import numpy as np

from specmpc_jax.envs.workers import EnvironmentWorkers, Reply
from specmpc_jax.learning.collector import TRAINING_EPISODES, RunningEpisode, derived_seed
from specmpc_jax.learning.replay_buffer import Episode


class LaneRecord(NamedTuple):
    """What a lane's future depends on; episodes under way do not count as begun."""

    episodes: int = 0
    steps: int = 0


class ParallelCollector:
    """Steps lanes as their answers come, and hands out each episode when it ends.

    Episode n of a lane starts from a seed that follows from the run's seed, the lane's number
    in the whole job and n.
    """

    def __init__(
        self,
        workers: EnvironmentWorkers,
        numbers: range,
        seed: int,
        records: list[LaneRecord],
        *,
        episodic: bool,
        lockstep: bool,
    ) -> None:
        """Starts an episode in every lane.

        Args:
          workers: the lanes; the caller closes them.
          numbers: their numbers in the whole job.
          seed: the run's seed.
          records: where each lane goes on.
          episodic: whether episodes may end before their time limit.
          lockstep: whether lanes wait for each other.
        """
        self._workers, self._numbers, self._seed = workers, numbers, seed
        self._episodic, self._lockstep = episodic, lockstep
        spec, lanes = workers.spec, len(workers)
        dtype = np.uint8 if spec.observation == "rgb" else np.float32
        self.observation = np.zeros((lanes, *spec.observation_shape), dtype)
        self.first = np.zeros(lanes, bool)
        self.steps = np.array([record.steps for record in records])
        self._begun = [record.episodes for record in records]
        self._action = np.zeros((lanes, spec.action_dim), np.float32)
        self._running: list[RunningEpisode | None] = [None] * lanes
        self._ended: list[tuple[int, Episode]] = []
        for lane in range(lanes):
            self._begin(lane)

    @property
    def records(self) -> list[LaneRecord]:
        """Where each lane would go on: with an episode under way, at its start."""
        # Every lane has an episode begun: the one that runs, or that its reset will start.
        return [
            LaneRecord(begun - 1, steps)
            for begun, steps in zip(self._begun, self.steps.tolist(), strict=True)
        ]

    def wait(self) -> np.ndarray:
        """Waits until lanes want an action: all of them in lockstep, else one at least.

        Returns:
          Which ones do, `[B]` bool; `observation` and `first` say where they stand.
        """
        if self._lockstep:
            self.settle()
            return np.ones(len(self._workers), bool)
        while True:
            pending = self._workers.pending
            for reply in self._workers.receive(wait=len(pending) == len(self._workers)):
                self._take(reply)
            idle = np.ones(len(self._workers), bool)
            idle[list(self._workers.pending)] = False
            if idle.any():
                return idle

    def step(self, action: np.ndarray, chosen: np.ndarray) -> None:
        """Sends actions `[B, A]` to the chosen lanes, `[B]` bool, and does not wait."""
        for lane in np.flatnonzero(chosen):
            self._action[lane] = action[lane]
            self._workers.step(int(lane), action[lane])
            self.steps[lane] += 1
            self.first[lane] = False

    def settle(self) -> None:
        """Waits for every lane."""
        while self._workers.pending:
            for reply in self._workers.receive(everyone=True):
                self._take(reply)

    def take_episodes(self) -> list[tuple[int, Episode]]:
        """Episodes that have ended since the last call, with their lanes."""
        ended, self._ended = self._ended, []
        return ended

    def _begin(self, lane: int) -> None:
        stream = derived_seed(self._seed, TRAINING_EPISODES, self._numbers[lane])
        self._workers.reset(lane, derived_seed(stream, TRAINING_EPISODES, self._begun[lane]))
        self._begun[lane] += 1
        self._running[lane] = None

    def _take(self, reply: Reply) -> None:
        lane = reply.lane
        if reply.transition is None:
            self.observation[lane] = reply.observation
            self.first[lane] = True
            self._running[lane] = RunningEpisode.begin(self.observation[lane])
            return
        step, running = reply.transition, self._running[lane]
        assert running is not None, "a lane steps only after its reset"
        self.observation[lane] = step.observation
        running.append(self._action[lane], step.observation, step.reward, step.terminated)
        if step.terminated or step.truncated:
            self._ended.append((lane, running.finish(self._workers.spec.task, self._episodic)))
            self._begin(lane)
