"""Figures of learning curves."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from experiments.support import plot_style as style
from experiments.support.learning_curves import Curve, Run, mean_over_seeds, official_curves

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_LINES = ("-", "--", "-.", ":")
_OFFICIAL = "official TD-MPC2, 5M"
# The official curves go on for millions of steps; so far past the last run they are shown.
_BEYOND = 1.15
# What is shown of them where a run has no more than its first evaluation.
_FIRST_STEPS = 100_000


def draw(runs: Sequence[Run], *, reference: bool = True) -> Figure:
    """A panel for each task of the runs, official curves behind them."""
    tasks = list(dict.fromkeys(run.task for run in runs))
    names = list(dict.fromkeys(_label(run) for run in runs))
    figure, axes = style.panels(len(tasks), height=2.8)
    seeds: dict[str, set[int]] = {name: set() for name in names}
    official = False
    for axis, task in zip(axes, tasks, strict=True):
        own = [run for run in runs if run.task == task]
        last = max(run.curve.steps[-1] for run in own) or _FIRST_STEPS
        curves = official_curves(task) if reference else []
        if curves:
            official = True
            _draw_curves(axis, curves, color=style.GREY, linestyle="-", zorder=1)
        for name in names:
            members = [run for run in own if _label(run) == name]
            seeds[name] |= {run.seed for run in members}
            if members:
                _draw_curves(axis, [run.curve for run in members], **_look(names, name), zorder=3)
        axis.set_xlim(0, _BEYOND * last)
        axis.set_ylim(0, None)
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.locator_params(axis="x", nbins=6 if len(tasks) < 3 else 4)
        if len(tasks) > 1:
            axis.set_title(task)
    keys = [
        Line2D([], [], **_look(names, name), linewidth=1.8, label=_with_seeds(name, seeds[name]))
        for name in names
    ]
    if official:
        keys.append(Line2D([], [], color=style.GREY, linewidth=1.8, label=_OFFICIAL))
    return style.finish(
        figure,
        axes,
        title=tasks[0] if len(tasks) == 1 else "Learning curves",
        xlabel="Environment steps",
        ylabel="Episode return",
        keys=keys,
    )


def _draw_curves(axis: Axes, curves: Sequence[Curve], *, zorder: int, **look: str) -> None:
    band = mean_over_seeds(curves)
    dot = "o" if len(band.steps) == 1 else ""
    axis.plot(band.steps, band.mean, linewidth=1.8, marker=dot, zorder=zorder + 1, **look)
    if len(curves) > 1:
        axis.fill_between(
            band.steps, band.low, band.high, color=look["color"], alpha=0.2, linewidth=0, zorder=1
        )
        for curve in curves:
            axis.plot(*curve, color=look["color"], alpha=0.5, linewidth=0.6, zorder=zorder)


def _label(run: Run) -> str:
    return f"{run.name}, {run.model_size}M" if run.model_size else run.name


def _look(names: Sequence[str], name: str) -> dict[str, str]:
    place = names.index(name)
    return {"color": _COLORS[place % len(_COLORS)], "linestyle": _LINES[place % len(_LINES)]}


def _with_seeds(name: str, seeds: set[int]) -> str:
    return f"{name} ({len(seeds)} seed{'s' * (len(seeds) > 1)})"
