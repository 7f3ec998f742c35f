"""Control loops in which the environment waits for no one.

Time is cut into periods. At a period's start there is an observation; the
environment takes one step at its end, whatever has happened. An action that a
controller needs d seconds for takes up ceil(d / period) periods. It is executed
at the end of the last of them; in each period before that it is late, and the
action of the period before is held (zeros before there is one). The next
observation that the controller sees is that of the next period's start: the
ones in between are lost. An action in time is executed as if it had taken none.

Time is virtual: d is measured, and the environment's own computing costs
nothing. Only a controller that plans in the background needs real time to pass
between two actions, so its loop really waits for each period's end (`paced`).
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.typing import ArrayLike

from specmpc_jax.envs.protocol import Environment
from specmpc_jax.errors import UserError
from specmpc_jax.evaluation.statistics import summarise_latency
from specmpc_jax.speculation.decisions import Outcome
from specmpc_jax.types import Array

REALTIME_COLUMNS = (
    "mode",
    "period_ms",
    "episodes",
    "mean_return",
    "late_share",
    "p50_ms",
    "p95_ms",
    "p99_ms",
    "planner_calls_per_step",
)


class ActingController(Protocol):
    """What the loop asks of a controller; `Controller` and its kin have it."""

    def initial_state(self, key: Array) -> Any:
        """State before an episode."""
        ...

    def act(self, observation: ArrayLike, state: Any) -> tuple[Array, Any, Any]:
        """Action, next state, info."""
        ...


class Time(NamedTuple):
    """Where seconds come from and how they are waited for; tests bring their own."""

    now: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep


@dataclasses.dataclass
class RealtimeEpisode:
    """One episode; a step is a period."""

    env_seed: int
    episode_return: float = 0.0
    length: int = 0
    late: int = 0  # periods in which the last action was held
    planner_calls: int = 0
    latencies: list[float] = dataclasses.field(default_factory=list)  # seconds of each action


def periods_needed(seconds: float, period: float) -> int:
    """Periods that an action takes up, the one in which it is executed included."""
    return max(1, math.ceil(seconds / period))


def run_episode(
    controller: ActingController,
    environment: Environment,
    env_seed: int,
    key: Array,
    period: float,
    *,
    paced: bool = False,
    max_steps: int | None = None,
    clock: Time | None = None,
    advance: Callable[[int], None] | None = None,
) -> RealtimeEpisode:
    """Controls one episode at a fixed period, as the module describes.

    Args:
      controller: what acts; it has to be compiled, see `warm_up`.
      environment: reset with the seed here.
      env_seed: the episode.
      key: not consumed; the episode folds its seed in, as `rollout.run_episodes` does.
      period: seconds.
      paced: wait for each period's end in real time.
      max_steps: end after so many periods; None runs the whole episode.
      clock: time; the machine's if None.
      advance: called with the number of periods just done.

    Raises:
      UserError: if the period is not above zero.
    """
    if not period > 0:
        raise UserError(f"the period is {period} s; it must be above 0")
    clock = clock or Time()
    limit = math.inf if max_steps is None else max_steps
    episode = RealtimeEpisode(env_seed)
    observation = environment.reset(env_seed)
    state = controller.initial_state(jax.random.fold_in(key, np.uint32(env_seed)))
    held = np.zeros(environment.spec.action_dim, np.float32)
    over = False
    while not over and episode.length < limit:
        begin = clock.now()
        acted, state, info = controller.act(observation, state)
        action = np.asarray(acted)
        elapsed = clock.now() - begin
        episode.latencies.append(elapsed)
        episode.planner_calls += _planner_calls(info)
        needed, before = periods_needed(elapsed, period), episode.length
        for executed in [held] * (needed - 1) + [action]:
            transition = environment.step(executed)
            episode.episode_return += transition.reward
            episode.length += 1
            episode.late += int(executed is held)
            observation = transition.observation
            over = transition.terminated or transition.truncated
            if over or episode.length >= limit:
                break
        held = action
        if advance is not None:
            advance(episode.length - before)
        if paced and not over and episode.length < limit:
            clock.sleep(max(0.0, begin + needed * period - clock.now()))
    return episode


def warm_up(
    controller: ActingController, environment: Environment, env_seed: int, key: Array, steps: int
) -> None:
    """Acts a few steps so that everything is compiled; no time counts."""
    observation, state = environment.reset(env_seed), controller.initial_state(key)
    for _ in range(steps):
        action, state, _ = controller.act(observation, state)
        observation = environment.step(np.asarray(action)).observation


def realtime_row(
    mode: str, period_ms: float, episodes: Sequence[RealtimeEpisode]
) -> dict[str, float | str]:
    """One row in `REALTIME_COLUMNS`: shares are of all steps, percentiles of all actions."""
    steps = sum(episode.length for episode in episodes)
    latencies = np.concatenate([episode.latencies for episode in episodes])
    return {
        "mode": mode,
        "period_ms": period_ms,
        "episodes": len(episodes),
        "mean_return": float(np.mean([episode.episode_return for episode in episodes])),
        "late_share": sum(episode.late for episode in episodes) / steps,
        **summarise_latency(latencies),
        "planner_calls_per_step": sum(e.planner_calls for e in episodes) / steps,
    }


def _planner_calls(info: Any) -> int:
    """Plans begun at a step: a pipelined controller says it, for others a REPLAN is one."""
    calls = getattr(info, "planner_calls", None)
    return int(int(info.outcome) == Outcome.REPLAN) if calls is None else calls
