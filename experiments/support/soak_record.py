"""What a soak test watches: latency, memory and compilations, a row for each interval."""

import ctypes
import gc
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np

# Of JAX's own events: one a traced program, and one a compiled one, from the cache or not.
_TRACE = "/jax/core/compile/jaxpr_trace_duration"
_COMPILE = "/jax/core/compile/backend_compile_duration"
COLUMNS = (
    "minutes",
    "steps",
    "episodes",
    "plans",
    "blind",
    "memory_mb",
    "arrays_mb",
    "traces",
    "compilations",
    "step_p50_ms",
    "step_p99_ms",
    "plan_p50_ms",
    "plan_p99_ms",
    "longest_ms",
)
# Of all rows, how many at the beginning and at the end are compared.
_PART = 4


class Compilations:
    """Counts what this process traces and compiles while it is open."""

    def __init__(self) -> None:
        self.traces = self.compilations = 0
        self._open = False

    def _listen(self, event: str, duration: float, **_: Any) -> None:
        del duration
        if not self._open:  # not every version of JAX lets listeners be taken back
            return
        self.traces += event == _TRACE
        self.compilations += event == _COMPILE

    def __enter__(self) -> Self:
        self._open = True
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open = False


class Recorder:
    """Gathers control steps into rows, one an interval."""

    def __init__(
        self,
        interval: float,
        compilations: Compilations,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begins now; `interval` is in seconds."""
        self.rows: list[dict[str, Any]] = []
        self.episodes = 0
        self._interval, self._compilations, self._clock = interval, compilations, clock
        self._start = self._last = clock()
        self._steps = self._blind = 0
        self._latencies: dict[bool, list[float]] = {False: [], True: []}

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return self._clock() - self._start

    def step(self, latency_ms: float, planned: bool, blind: bool) -> None:
        """Counts one control step, and ends the interval if it is over."""
        self._steps += 1
        self._blind += blind
        self._latencies[planned].append(latency_ms)
        if self._clock() - self._last >= self._interval:
            self.end_interval()

    def end_interval(self) -> None:
        """Makes a row of the steps since the last one, if there are any."""
        plain, planned = self._latencies[False], self._latencies[True]
        if not plain and not planned:
            return
        row = {
            "minutes": self.seconds / 60,
            "steps": self._steps,
            "episodes": self.episodes,
            "plans": len(planned),
            "blind": self._blind,
            "memory_mb": held_memory_mb(),
            "arrays_mb": sum(array.nbytes for array in jax.live_arrays()) / 1e6,
            "traces": self._compilations.traces,
            "compilations": self._compilations.compilations,
            **_percentiles("step", plain),
            **_percentiles("plan", planned),
            "longest_ms": max(plain + planned),
        }
        self.rows.append(row)
        self._steps = self._blind = 0
        self._latencies = {False: [], True: []}
        self._last = self._clock()


def held_memory_mb() -> float:
    """`memory_mb` of what is in use, without what Python and the allocator have yet to give back.

    Simulations are freed by the garbage collector, and glibc keeps what was freed
    for later: both make the memory of a healthy process go up and down.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
    if trim is not None:
        trim(0)
    return memory_mb()


def memory_mb() -> float:
    """Memory that this process holds, in MB; NaN where /proc does not tell."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return float("nan")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How the last quarter of the rows differs from the first.

    Returns:
      `memory_growth_mb` and `arrays_growth_mb`, `step_p50_ratio`, `plan_p50_ratio`
      (NaN where nothing was measured), and totals.
    """
    part = max(len(rows) // _PART, 1)
    first, last = rows[:part], rows[-part:]

    def median(rows: Sequence[dict[str, Any]], name: str) -> float:
        values = [row[name] for row in rows if np.isfinite(row[name])]
        return float(np.median(values)) if values else float("nan")

    summary: dict[str, Any] = {
        f"{name}_growth_mb": median(last, f"{name}_mb") - median(first, f"{name}_mb")
        for name in ("memory", "arrays")
    }
    for name in ("step_p50", "plan_p50"):
        summary[f"{name}_ratio"] = median(last, f"{name}_ms") / median(first, f"{name}_ms")
    totals = {name: sum(row[name] for row in rows) for name in ("steps", "plans", "blind")}
    ends = {name: rows[-1][name] for name in ("minutes", "episodes", "traces", "compilations")}
    return summary | totals | ends


def _percentiles(name: str, latencies: Sequence[float]) -> dict[str, float]:
    p50, p99 = np.percentile(latencies, [50, 99]) if latencies else (np.nan, np.nan)
    return {f"{name}_p50_ms": float(p50), f"{name}_p99_ms": float(p99)}
