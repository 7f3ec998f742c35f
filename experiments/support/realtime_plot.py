"""The figure of a real-time benchmark: returns and late actions over the control period."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, NullLocator, PercentFormatter

from experiments.support import plot_style as style
from specmpc_jax import files

# Colours as in the other figures: black for planning at every step, orange for blocks.
_LOOKS = {
    "every_step": style.Look("plan every step", "#000000", "*"),
    "blocks": style.Look("blocks", "#E69F00", "o"),
    "pipelined": style.Look("blocks, planned ahead", "#0072B2", "s"),
    "deadline": style.Look("deadline", "#009E73", "D"),
}


def save(rows: Sequence[Mapping[str, Any]], path: Path, task: str) -> None:
    """Draws the rows of `realtime.json` into a file whose suffix says the format."""
    with style.styled(), files.atomic_path(path) as temporary:
        figure(rows, task).savefig(temporary, dpi=style.RESOLUTION)


def figure(rows: Sequence[Mapping[str, Any]], task: str) -> Figure:
    """Two panels over the period: mean return, and the share of late actions."""
    drawing, axes = style.panels(2, columns=2)
    keys = []
    for mode, look in _LOOKS.items():
        points = sorted((row for row in rows if row["mode"] == mode), key=lambda r: r["period_ms"])
        if not points:
            continue
        line = dict(color=look.color, marker=look.marker, linewidth=1.2)
        line["markersize"] = 10 if look.marker == "*" else 6
        for axis, column in zip(axes, ("mean_return", "late_share"), strict=True):
            axis.plot([p["period_ms"] for p in points], [p[column] for p in points], **line)
        keys.append(Line2D([], [], **line, label=look.label))
    periods = sorted({row["period_ms"] for row in rows})
    for axis in axes:
        axis.set_xscale("log", base=2)
        axis.set_xticks(periods, [f"{period:g}" for period in periods])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_minor_formatter(NullFormatter())
    axes[0].set_ylabel("Return (mean)")
    axes[0].set_ylim(bottom=0)
    axes[1].set_ylabel("Late actions")
    axes[1].set_ylim(-0.03, 1.0)
    axes[1].yaxis.set_major_formatter(PercentFormatter(1.0))
    episodes = rows[0]["episodes"]
    title = f"{task} in real time, {episodes} episode{'s' * (episodes != 1)} a point"
    return style.finish(drawing, axes, title=title, xlabel="Control period (ms)", keys=keys)
