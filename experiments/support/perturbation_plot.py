"""The figure of worlds that the teacher does not know: return and replans against strength."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.support import plot_style as style
from experiments.support.results import BASELINE, OPEN_LOOP, POLICY
from specmpc_jax import files
from specmpc_jax.evaluation import variants

# Of variants of one kind, the later ones are drawn with another line.
_LINES = ("-", "--", ":", "-.")


def save(rows: Sequence[Mapping[str, Any]], path: Path, task: str) -> None:
    """Draws the rows of `perturbation.csv` into a file whose suffix says the format."""
    with style.styled(), files.atomic_path(path) as temporary:
        figure(rows, task).savefig(temporary, dpi=style.RESOLUTION)


def figure(rows: Sequence[Mapping[str, Any]], task: str) -> Figure:
    """Returns with their intervals on the left, planner calls a step on the right."""
    drawing = Figure(figsize=(style.TEXT_WIDTH, 3.4), layout="constrained")
    returns, calls = drawing.subplots(1, 2)
    seen: dict[str, int] = {}
    for name in dict.fromkeys(row["variant"] for row in rows):
        members = sorted((r for r in rows if r["variant"] == name), key=lambda r: r["strength"])
        kind = _kind(name)
        number = seen[kind] = seen.get(kind, -1) + 1
        look = style.look(kind)
        line = {
            "color": look.color,
            "marker": look.marker,
            "linestyle": _LINES[number % len(_LINES)],
            "linewidth": 1.3,
        }
        _draw(returns, members, "mean_return", name, line)
        strengths = [row["strength"] for row in members]
        low, high = ([row[end] for row in members] for end in ("ci_low", "ci_high"))
        returns.fill_between(strengths, low, high, color=look.color, alpha=0.1, linewidth=0)
        _draw(calls, members, "planner_calls_per_step", None, line)
    returns.set_ylabel("Episode return")
    calls.set_ylabel("Planner calls a step")
    for axis in (returns, calls):
        axis.set_xlabel("Strength of the perturbation")
        axis.set_ylim(bottom=0)
    drawing.legend(loc="outside lower center", ncols=3)
    drawing.suptitle(f"{task}: worlds that the teacher does not know")
    return drawing


def _draw(
    axis: Axes,
    rows: Sequence[Mapping[str, Any]],
    column: str,
    label: str | None,
    line: Mapping[str, Any],
) -> None:
    axis.plot([r["strength"] for r in rows], [r[column] for r in rows], label=label, **line)


def _kind(name: str) -> str:
    """What acts between two plans of a variant, as `plot_style` knows it."""
    if name in (BASELINE, POLICY):
        return name
    return variants.parse(name).corrector or OPEN_LOOP
