"""Latencies of several programs, measured side by side so that noise meets all alike."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from specmpc_jax.evaluation import statistics

# Below this many rounds nothing is reported, whatever the time budget says.
MINIMUM_ROUNDS = 3
# Threads of one library keep spinning for about a millisecond after its last call, which
# would slow down the next library's.
_SETTLE_S = 0.01


def interleave(
    calls: Mapping[str, Callable[[], Any]], rounds: int, time_budget_s: float
) -> dict[str, np.ndarray]:
    """Times blocked calls in rounds, each round one call of each.

    Every program is called once before. A round is begun while fewer than `rounds` are
    done and the time budget lasts, but `MINIMUM_ROUNDS` (or `rounds`, if less) in any case.

    Args:
      calls: programs by name; a call returns when its result is there.
      rounds: most rounds.
      time_budget_s: seconds after which no further round is begun.

    Returns:
      Seconds of each program's calls, as many for all.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    begin = time.perf_counter()
    for done in range(rounds):
        if done >= MINIMUM_ROUNDS and time.perf_counter() - begin > time_budget_s:
            break
        for name, call in calls.items():
            time.sleep(_SETTLE_S)
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def summary(seconds: np.ndarray) -> dict[str, float]:
    """Number of calls, then p50, p95, p99 and mean in milliseconds, of latencies in seconds."""
    mean = 1e3 * float(np.mean(seconds)) if len(seconds) else float("nan")
    return {"calls": len(seconds), **statistics.summarise_latency(seconds), "mean_ms": mean}
