"""The figure of a soak test: memory, latency and compilations over time."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments.support import plot_style as style
from specmpc_jax import files

_PLAN, _STEP, _MEMORY = "#0072B2", "#009E73", "#000000"


def save(rows: Sequence[Mapping[str, Any]], path: Path, task: str) -> None:
    """Draws the rows of `soak.csv` into a file whose suffix says the format."""
    with style.styled(), files.atomic_path(path) as temporary:
        figure(rows, task).savefig(temporary, dpi=style.RESOLUTION)


def figure(rows: Sequence[Mapping[str, Any]], task: str) -> Figure:
    """Memory above, latencies below, each over minutes."""
    drawing = Figure(figsize=(style.TEXT_WIDTH, 4.2), layout="constrained")
    memory, latency = drawing.subplots(2, 1, sharex=True)
    minutes = [row["minutes"] for row in rows]
    memory.plot(minutes, [row["memory_mb"] for row in rows], color=_MEMORY)
    memory.set_ylabel("Memory (MB)")
    highest = max((row["memory_mb"] for row in rows), default=0.0)
    memory.set_ylim(0, 1.15 * highest if highest > 0 else 1.0)  # NaN without /proc
    for name, color, label in (("plan", _PLAN, "planning"), ("step", _STEP, "between plans")):
        for percentile, line in (("p50", "-"), ("p99", ":")):
            values = [row[f"{name}_{percentile}_ms"] for row in rows]
            latency.plot(minutes, values, line, color=color, label=f"{label}, {percentile}")
    latency.set_yscale("log")
    latency.set(ylabel="Action time (ms)", xlabel="Minutes")
    drawing.legend(loc="outside lower center", ncols=2)
    steps = sum(row["steps"] for row in rows)
    last = rows[-1]
    drawing.suptitle(
        f"{task}: {steps:,} steps, {last['episodes']} episodes, "
        f"{last['compilations']} compilations after the warm-up"
    )
    return drawing
