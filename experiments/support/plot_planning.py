"""Figures of the planning benchmark: latency, and share of the product-bound limit."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter, StrMethodFormatter

from experiments.support import plot_style as style
from experiments.support.planning_settings import AXES

Row = Mapping[str, Any]

_LOOKS = {
    "jax": style.Look("JAX, fused", "#0072B2", "o"),
    "jax_reference": style.Look("JAX, readable", "#56B4E9", "s"),
    "torch_eager": style.Look("PyTorch, eager", "#D55E00", "^"),
    "torch_compiled": style.Look("PyTorch, compiled", "#E69F00", "v"),
}
_AXIS_LABELS = {
    "model_size": "Parameters (millions)",
    "batch_size": "Environments in one call",
    "num_samples": "Sampled sequences",
    "iterations": "Iterations",
    "horizon": "Planning horizon (steps)",
    "action_dim": "Action dimensions",
}
# These tell series apart, not places on the x-axis.
_SERIES = ("implementation", "precision")


def varied_axes(rows: Sequence[Row]) -> list[str]:
    """Axes that a figure can have: model size always, others where they take several values."""
    return [
        axis
        for axis in _AXIS_LABELS
        if axis == "model_size" or len({row[axis] for row in rows}) > 1
    ]


def figure(rows: Sequence[Row], axis: str, base: Row) -> Figure:
    """Latency (log scale) and share of the peak over one axis of the benchmark.

    Args:
      rows: the benchmark's table.
      axis: what the x-axis is; each of its values gets a place of its own.
      base: the default row; rows that differ from it in a third axis are left out.
    """
    fixed = [name for name in AXES if name not in (axis, "precision")]
    shown = [row for row in rows if all(row[name] == base[name] for name in fixed)]
    places = sorted({row[axis] for row in shown}, key=lambda value: (value is None, value or 0))
    panels, (latency, share) = style.panels(2, columns=2)
    for members in _series(shown):
        x = [places.index(row[axis]) for row in members]
        latency.plot(x, [row["p50_ms"] for row in members], **_line(members[0]))
        latency.vlines(
            x,
            [row["p50_ms"] for row in members],
            [row["p95_ms"] for row in members],
            _look(members[0]).color,
            linewidth=1.2,
        )
        share.plot(x, [row["peak_share"] for row in members], **_line(members[0]))
    for panel in (latency, share):
        panel.set_xticks(range(len(places)), ["custom" if p is None else str(p) for p in places])
        panel.set_xlim(-0.5, len(places) - 0.5)
        panel.grid(False, axis="x")
    _logarithmic(latency)
    latency.set_ylabel("Latency (ms), median to p95")
    share.set_ylim(0, 1.05 * max(1.0, *(row["peak_share"] for row in shown)))
    share.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    share.set_ylabel("Share of the products' rate")
    return style.finish(
        panels,
        [latency, share],
        title=f"Latency of one plan ({shown[0]['device']})" if shown else "",
        xlabel=_AXIS_LABELS[axis],
        keys=[Line2D([], [], **_line(m[0]), label=_label(m[0])) for m in _series(shown)],
    )


def _series(rows: Sequence[Row]) -> list[list[Row]]:
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in _SERIES), []).append(row)
    return list(groups.values())


def _look(row: Row) -> style.Look:
    return _LOOKS[row["implementation"]]


def _label(row: Row) -> str:
    return f"{_look(row).label}, {row['precision']}"


def _line(row: Row) -> dict[str, Any]:
    """How a series is drawn: full markers and lines in float32, hollow and dashed otherwise."""
    look, plain = _look(row), row["precision"] == "float32"
    return dict(
        color=look.color,
        marker=look.marker,
        markerfacecolor=look.color if plain else "white",
        linestyle="-" if plain else "--",
        linewidth=1.3,
    )


def _logarithmic(axis: Axes) -> None:
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5), numticks=20))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
