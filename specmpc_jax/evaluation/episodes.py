"""Episodes as they are counted, wherever their steps were taken."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from specmpc_jax.evaluation.statistics import jerk
from specmpc_jax.speculation.decisions import Decision, Outcome
from specmpc_jax.speculation.executor import ExecutorState, StepInfo


@dataclasses.dataclass
class Episode:
    """Outcome of one episode; counts are in agent steps.

    `success` is 1 or 0 as the environment told it at the last step, None if it never did.
    """

    env_seed: int
    episode_return: float = 0.0
    length: int = 0
    planner_calls: int = 0
    corrected: int = 0
    mismatch_replans: int = 0
    value_replans: int = 0
    jerk: float = float("nan")  # see `statistics.jerk`
    success: float | None = None


def success_rate(episodes: Sequence[Episode]) -> float | None:
    """Share of episodes that ended in success; None where the environment does not tell."""
    told = [episode.success for episode in episodes if episode.success is not None]
    return float(np.mean(told)) if told else None


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of all lanes, as an observer sees it; leading axis B everywhere."""

    active: np.ndarray  # [B] bool, lanes whose episode was running before the step
    env_seeds: Sequence[int]  # [B]
    time: int  # agent steps since the episodes began
    action: np.ndarray  # [B, A]
    reward: np.ndarray  # [B]
    info: StepInfo  # device arrays
    state: ExecutorState | None  # device arrays; only valid during the call


@dataclasses.dataclass
class Rollouts:
    """Episodes, and the time from observation to action of each control step."""

    episodes: list[Episode]
    latencies: list[float]  # seconds of each call but the first; one call serves all lanes
    first_latency: float = float("nan")  # seconds, compilation included


class Ledger:
    """Counts the steps of episodes that run side by side."""

    def __init__(self, env_seeds: Sequence[int], use_planner: bool) -> None:
        """Begins an episode for each seed; without a planner a REPLAN calls none."""
        self.episodes = [Episode(seed) for seed in env_seeds]
        self._calls = int(use_planner)
        self._actions: list[np.ndarray] = []

    def take(
        self,
        active: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        success: np.ndarray,
        outcome: np.ndarray,
        decision: np.ndarray,
    ) -> None:
        """Counts one step of the lanes that were active; all arguments have a leading axis B.

        There may be more lanes than episodes; the surplus is not looked at.
        """
        self._actions.append(action)
        for lane, episode in enumerate(self.episodes):
            if active[lane]:
                episode.episode_return += float(reward[lane])
                episode.length += 1
                told = float(success[lane])
                episode.success = None if np.isnan(told) else told
                episode.planner_calls += self._calls * int(outcome[lane] == Outcome.REPLAN)
                episode.corrected += int(outcome[lane] == Outcome.CORRECT)
                episode.mismatch_replans += int(decision[lane] == Decision.MISMATCH)
                episode.value_replans += int(decision[lane] == Decision.VALUE_POOR)

    def finish(self) -> list[Episode]:
        """The episodes, with what only whole ones tell."""
        for lane, episode in enumerate(self.episodes):
            actions = [action[lane] for action in self._actions[: episode.length]]
            episode.jerk = jerk(np.stack(actions))
        return self.episodes
