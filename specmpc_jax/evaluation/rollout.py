"""Episodes of a controller in environments stepped from Python."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from specmpc_jax.controller import Controller
from specmpc_jax.envs.batch import EnvironmentBatch
from specmpc_jax.evaluation.statistics import jerk
from specmpc_jax.speculation.decisions import Decision, Outcome
from specmpc_jax.speculation.executor import ExecutorState, StepInfo
from specmpc_jax.types import Array


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
    state: ExecutorState  # device arrays; only valid during the call


@dataclasses.dataclass
class Rollouts:
    """Episodes, and the time from observation to action of each control step."""

    episodes: list[Episode]
    latencies: list[float]  # seconds of each call but the first; one call serves all lanes
    first_latency: float = float("nan")  # seconds, compilation included


def run_episodes(
    controller: Controller,
    environments: EnvironmentBatch,
    env_seeds: Sequence[int],
    key: Array,
    observe: Callable[[Step], None] | None = None,
    advance: Callable[[int], None] | None = None,
    max_steps: int | None = None,
) -> Rollouts:
    """Runs one episode for each environment seed.

    Args:
      controller: what acts.
      environments: lanes that are stepped side by side; with a single lane the
        controller is called unbatched.
      env_seeds: environment seeds, run in order, as many at a time as there
        are lanes.
      key: not consumed; each episode folds its environment seed in, so its
        random numbers do not depend on the number of lanes.
      observe: called after each step.
      advance: called with the number of agent steps just done, over all lanes.
      max_steps: cut episodes off after so many agent steps; None runs them whole.

    Returns:
      Episodes in the order of the seeds.
    """
    lanes = len(environments)
    result = Rollouts([], [])
    for start in range(0, len(env_seeds), lanes):
        wanted = list(env_seeds[start : start + lanes])
        # A last, smaller group repeats its seeds: a smaller batch would compile anew.
        seeds = [wanted[i % len(wanted)] for i in range(lanes)]
        _run_group(
            controller, environments, seeds, len(wanted), key, result, observe, advance, max_steps
        )
    return result


def _run_group(
    controller: Controller,
    environments: EnvironmentBatch,
    seeds: list[int],
    wanted: int,
    key: Array,
    result: Rollouts,
    observe: Callable[[Step], None] | None,
    advance: Callable[[int], None] | None,
    max_steps: int | None,
) -> None:
    """Runs one episode a lane, and keeps the first `wanted` of them."""
    observation = environments.reset(seeds)
    single = len(environments) == 1
    keys = jax.vmap(lambda seed: jax.random.fold_in(key, seed))(np.asarray(seeds, np.uint32))
    state = controller.initial_state(keys[0] if single else keys)
    episodes = [Episode(seed) for seed in seeds[:wanted]]
    calls = int(controller.program.use_planner)
    actions: list[np.ndarray] = []
    for count in itertools.count():
        active = environments.active
        if not active[:wanted].any() or count == max_steps:
            break
        begin = time.perf_counter()
        action, state, info = controller.act(observation[0] if single else observation, state)
        action = np.asarray(action)
        elapsed = time.perf_counter() - begin
        if np.isnan(result.first_latency):
            result.first_latency = elapsed
        else:
            result.latencies.append(elapsed)
        if single:
            action = action[None]
        actions.append(action)
        transition = environments.step(action)
        outcome, decision = np.atleast_1d(info.outcome), np.atleast_1d(info.decision)
        for lane, episode in enumerate(episodes):
            if active[lane]:
                episode.episode_return += float(transition.reward[lane])
                episode.length += 1
                told = float(transition.success[lane])
                episode.success = None if np.isnan(told) else told
                episode.planner_calls += calls * int(outcome[lane] == Outcome.REPLAN)
                episode.corrected += int(outcome[lane] == Outcome.CORRECT)
                episode.mismatch_replans += int(decision[lane] == Decision.MISMATCH)
                episode.value_replans += int(decision[lane] == Decision.VALUE_POOR)
        if observe is not None:
            lifted = jax.tree.map(lambda leaf: leaf[None], (info, state)) if single else None
            info, seen = lifted or (info, state)
            kept = active & (np.arange(len(seeds)) < wanted)
            observe(Step(kept, seeds, count, action, transition.reward, info, seen))
        if advance is not None:
            advance(int(active[:wanted].sum()))
        observation = transition.observation
    for lane, episode in enumerate(episodes):
        episode.jerk = jerk(np.stack([action[lane] for action in actions[: episode.length]]))
    result.episodes.extend(episodes)
