"""Figures of an evaluation: what blocks and correctors cost in return, and save in planning.

A figure function takes the models that were evaluated on one task and returns
a matplotlib figure, or None where the results do not hold what it shows.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from experiments.support import plot_details
from experiments.support import plot_style as style
from experiments.support.results import (
    BASELINE,
    OPEN_LOOP,
    POLICY,
    Model,
    Result,
    compared_to_open_loop,
    models_by_task,
    paired_differences,
    pareto_front,
    read_results,
)
from specmpc_jax import files
from specmpc_jax.evaluation import statistics

_RETURN = "Return (mean, 95% interval)"
_HORIZON = "Execution horizon (steps)"
# How far apart, in inches, the markers of neighbouring series stand.
_MARKER_GAP = 0.1
_PERCENTILES = {
    "p50_ms": dict(marker="o", markersize=6),
    "p95_ms": dict(marker="|", markersize=12, markeredgewidth=2),
    "p99_ms": dict(marker=">", markersize=6),
}


def plot_results(
    results_csv: files.PathLike, output_dir: files.PathLike, file_format: str = "png"
) -> list[Path]:
    """Draws every figure that a results table allows, one file a plot and task.

    Args:
      results_csv: the table that `eval_corrector` wrote; `episodes.csv` beside
        it adds single episodes and paired intervals.
      output_dir: gets the files `<plot>_<task>.<file_format>`.
      file_format: `png`, `pdf` or `svg`.

    Returns:
      The files written.

    Raises:
      UserError: if the table cannot be used.
    """
    written = []
    for task, models in models_by_task(read_results(results_csv)).items():
        for name, draw in FIGURES.items():
            with style.styled():
                figure = draw(models)
                if figure is None:
                    continue
                path = Path(output_dir) / f"{name}_{_file_name(task)}.{file_format}"
                with files.atomic_path(path) as temporary:
                    figure.savefig(temporary, dpi=style.RESOLUTION)
            written.append(path)
    return written


def horizon(models: Sequence[Model]) -> Figure | None:
    """Return against execution horizon, a line for each corrector kind."""
    blocks = _series(result for model in models for result in model.blocks)
    if not blocks:
        return None
    figure, axes = style.panels(len(models), sharey=True)
    for axis, model in zip(axes, models, strict=True):
        _draw_references(axis, model)
        lengths = _horizon_axis(axis, _all(models))
        series = _series(model.blocks)
        for members, shift in zip(series, _shifts(len(series), axis, lengths), strict=True):
            _draw_series(axis, [r.exec_horizon + shift for r in members], members)
        style.name_panel(axis, model, models)
    return style.finish(
        figure,
        axes,
        title=f"{style.task(models)}: return by execution horizon",
        xlabel=_HORIZON,
        ylabel=_RETURN,
        keys=_reference_keys(models) + [style.key(m[0], _line(m[0])) for m in blocks],
    )


def paired(models: Sequence[Model]) -> Figure | None:
    """Difference to the baseline over the same environment seeds, a row for each variant."""
    shown = [
        [r for r in model.results if r.kind != BASELINE and not math.isnan(r.paired_difference)]
        for model in models
    ]
    names = style.variant_names(result for results in shown for result in results)
    if not names:
        return None
    figure, axes = style.panels(
        len(models), height=1.0 + 0.27 * len(names), sharex=True, sharey=True
    )
    for axis, model, results in zip(axes, models, shown, strict=True):
        axis.axvline(0, color="black", linestyle="--", linewidth=1)
        for result in results:
            row = names.index(style.variant_label(result))
            color = style.look(result.kind).color
            single = paired_differences(result, model.baseline)
            axis.plot(single, [row + 0.3] * len(single), "|", color=color, alpha=0.45)
            axis.hlines(row, result.paired_ci_low, result.paired_ci_high, color, linewidth=1.8)
            axis.plot(result.paired_difference, row, **style.marker(result))
        style.name_panel(axis, model, models)
        style.name_rows(axis, names)
    return style.finish(
        figure,
        axes,
        title=f"{style.task(models)}: paired difference to replanning at every step",
        xlabel="Difference in return"
        + ("\n(mean, 95% interval; ticks: episodes)" * (len(axes) < 2)),
    )


def pareto(models: Sequence[Model]) -> Figure | None:
    """Return against planner calls and against latency, with the undominated variants joined."""
    figure, axes = style.panels(2 * len(models), columns=2, sharey="row")
    for model, calls_axis, latency_axis in zip(models, axes[::2], axes[1::2], strict=True):
        calls_axis.set_ylabel(_RETURN if len(models) == 1 else f"Return, {model.label}")
        calls_axis.set_xlabel("Planner calls per agent step")
        # Of blocks the median step is one that does not plan; the mean tells what they cost.
        whole = not any(math.isnan(result.mean_ms) for result in model.results)
        latency = "mean_ms" if whole else "p50_ms"
        latency_axis.set_xlabel(f"{'Mean' if whole else 'Median'} action latency (ms)")
        _draw_costs(calls_axis, model, "planner_calls_per_step")
        _draw_costs(latency_axis, model, latency)
        _latency_axis(latency_axis, [getattr(result, latency) for result in model.results])
    front = Line2D([], [], color=style.GREY, linewidth=1.2, label="Pareto front")
    number = Line2D(
        [], [], linestyle="none", marker="$3$", color="black", label="execution horizon"
    )
    keys = [style.key(members[0]) for members in _series(_all(models))]
    title = f"{style.task(models)}: return against cost"
    return style.finish(figure, axes, title=title, keys=[*keys, front, number])


def model_size(models: Sequence[Model]) -> Figure | None:
    """Return against model size, a line for each variant, a panel for each horizon."""
    sizes = sorted({model.size for model in models if model.size is not None})
    if len(sizes) < 2:
        return None
    sized = [result for result in _all(models) if result.model_size is not None]
    horizons = sorted({r.exec_horizon for r in sized if r.in_blocks})
    figure, axes = style.panels(max(1, len(horizons)), sharey=True)
    for axis, length in zip(axes, horizons or [None], strict=True):
        axis.set_xticks(range(len(sizes)), [str(size) for size in sizes])
        axis.set_xlim(-0.5, len(sizes) - 0.5)
        axis.grid(False, axis="x")
        series = _series(r for r in sized if not r.in_blocks or r.exec_horizon == length)
        for members, shift in zip(series, _shifts(len(series), axis, [0, 1], 0.7), strict=True):
            members = sorted(members, key=lambda result: result.model_size or 0)
            _draw_series(axis, [sizes.index(r.model_size) + shift for r in members], members)
        if length is not None:
            axis.set_title(f"horizon {length}")
    return style.finish(
        figure,
        axes,
        title=f"{style.task(models)}: return by model size",
        xlabel="Parameters (millions)",
        ylabel=_RETURN,
        keys=[style.key(members[0], _line(members[0])) for members in _series(sized)],
    )


def improvement(models: Sequence[Model]) -> Figure | None:
    """What each corrector adds to open loop at the same horizon; the baseline for comparison."""
    compared = [compared_to_open_loop(model) for model in models]
    if not any(compared):
        return None
    figure, axes = style.panels(len(models), sharey=True)
    for axis, model, pairs in zip(axes, models, compared, strict=True):
        axis.axhline(0, color=style.look(OPEN_LOOP).color, linewidth=1.8)
        lengths = _horizon_axis(axis, [result for pairs in compared for result in pairs])
        open_loop = {reference.exec_horizon: reference for reference in pairs.values()}
        for length, reference in open_loop.items():
            if model.baseline:
                level = model.baseline.mean_return - reference.mean_return
                axis.plot((length - 0.4, length + 0.4), (level, level), "k--", linewidth=1.2)
        series = _series(pairs)
        for members, shift in zip(series, _shifts(len(series), axis, lengths, 1.6), strict=True):
            for result in members:
                x = result.exec_horizon + shift
                change, low, high = _change(result, pairs[result])
                axis.vlines(x, low, high, style.look(result.kind).color, linewidth=1.8)
                axis.plot(x, change, **style.marker(result))
        style.name_panel(axis, model, models)
    open_loop_key = Line2D(
        [], [], color=style.look(OPEN_LOOP).color, linewidth=1.8, label="open loop"
    )
    return style.finish(
        figure,
        axes,
        title=f"{style.task(models)}: improvement over open loop",
        xlabel=_HORIZON,
        ylabel="Return gained (mean, 95% interval)",
        keys=[*_reference_keys(models, [BASELINE]), open_loop_key]
        + [style.key(members[0]) for members in _series(r for p in compared for r in p)],
    )


def latency(models: Sequence[Model]) -> Figure | None:
    """Percentiles of the action latency, a row for each variant."""
    timed = [result for result in _all(models) if not math.isnan(result.p50_ms)]
    names = style.variant_names(timed)
    if not names:
        return None
    figure, axes = style.panels(
        len(models), height=1.0 + 0.27 * len(names), sharex=True, sharey=True
    )
    for axis, model in zip(axes, models, strict=True):
        for result in model.results:
            if result not in timed:
                continue
            row = names.index(style.variant_label(result))
            color = style.look(result.kind).color
            values = [getattr(result, name) for name in _PERCENTILES]
            axis.hlines(row, np.nanmin(values), np.nanmax(values), color, linewidth=2)
            for value, look in zip(values, _PERCENTILES.values(), strict=True):
                axis.plot(value, row, color=color, **look)
        _latency_axis(axis, [getattr(r, name) for r in timed for name in _PERCENTILES])
        style.name_panel(axis, model, models)
        style.name_rows(axis, names)
    keys = [
        Line2D([], [], linestyle="none", color=style.GREY, label=name.removesuffix("_ms"), **look)
        for name, look in _PERCENTILES.items()
    ]
    title = f"{style.task(models)}: action latency, from observation to action"
    return style.finish(figure, axes, title=title, xlabel="Latency (ms)", keys=keys)


FIGURES = {
    "horizon": horizon,
    "paired": paired,
    "pareto": pareto,
    "model_size": model_size,
    "improvement": improvement,
    "latency": latency,
    "offsets": plot_details.offsets,
    "smoothness": plot_details.smoothness,
}


def _all(models: Iterable[Model]) -> list[Result]:
    return [result for model in models for result in model.results]


def _series(results: Iterable[Result]) -> list[list[Result]]:
    """Results of one kind and threshold together, by ascending horizon."""
    groups: dict[str, list[Result]] = {}
    for result in sorted(results, key=style.rank):
        groups.setdefault(style.series_label(result), []).append(result)
    return sorted(groups.values(), key=lambda members: style.rank(members[0])[1:])


def _line(result: Result) -> str:
    return {BASELINE: "--", POLICY: "-."}.get(result.kind, ":" if result.drops_plans else "-")


def _shifts(count: int, axis: Axes, positions: Sequence[int], scale: float = 1.0) -> np.ndarray:
    """Offsets around 0, in the axis's units, that set the markers of `count` series apart."""
    left, right = axis.get_xlim()
    width = axis.get_subplotspec().get_gridspec().ncols ** -1 * style.TEXT_WIDTH
    gap = min(np.diff(positions), default=1)
    step = min(scale * _MARKER_GAP * (right - left) / width, 0.8 * gap / max(count, 1))
    return (np.arange(count) - (count - 1) / 2) * step


def _draw_series(axis: Axes, x: Sequence[float], members: Sequence[Result]) -> None:
    """A line through the means of one series, with intervals."""
    look = {**style.marker(members[0]), "linestyle": _line(members[0]), "linewidth": 1.3}
    axis.plot(x, [result.mean_return for result in members], **look)
    lows, highs = [r.ci_low for r in members], [r.ci_high for r in members]
    axis.vlines(x, lows, highs, look["color"], linewidth=1.3)


def _draw_references(axis: Axes, model: Model) -> None:
    """The variants without blocks: lines with their interval as a band."""
    for result in model.results:
        if not result.in_blocks:
            color = style.look(result.kind).color
            axis.axhline(result.mean_return, color=color, linestyle=_line(result), linewidth=1.3)
            axis.axhspan(result.ci_low, result.ci_high, color=color, alpha=0.1, linewidth=0)


def _draw_costs(axis: Axes, model: Model, cost: str) -> None:
    """Returns over a cost; the Pareto front joined, what it dominates paler."""
    shown = [result for result in model.results if not math.isnan(getattr(result, cost))]
    front = pareto_front(shown, cost)
    axis.step(
        [getattr(result, cost) for result in front],
        [result.mean_return for result in front],
        where="post",
        color=style.GREY,
        linewidth=1.2,
        zorder=1,
    )
    for result in shown:
        alpha, order = (1.0, 3) if result in (*front, model.baseline) else (0.5, 2)
        x, look = getattr(result, cost), style.marker(result)
        axis.plot(x, result.mean_return, **look, alpha=alpha, zorder=order)
        axis.vlines(x, result.ci_low, result.ci_high, look["color"], alpha=0.5, zorder=order)
        if result in front and result.in_blocks:
            axis.annotate(
                str(result.exec_horizon),
                (x, result.mean_return),
                xytext=(-5, 4),
                textcoords="offset points",
                horizontalalignment="right",
            )
    axis.margins(0.1, 0.12)


def _reference_keys(
    models: Sequence[Model], kinds: Sequence[str] = (BASELINE, POLICY)
) -> list[Line2D]:
    return [
        Line2D(
            [],
            [],
            color=style.look(members[0].kind).color,
            linestyle=_line(members[0]),
            label=style.series_label(members[0]),
        )
        for members in _series(result for result in _all(models) if result.kind in kinds)
    ]


def _change(result: Result, reference: Result) -> tuple[float, float, float]:
    """Mean difference with its 95% interval; the interval is NaN where episodes are not paired."""
    differences = np.array(paired_differences(result, reference))
    if differences.size < 2:
        return result.mean_return - reference.mean_return, math.nan, math.nan
    return float(differences.mean()), *statistics.bootstrap_interval(differences)


def _horizon_axis(axis: Axes, results: Iterable[Result]) -> list[int]:
    """Ticks at the horizons that occur, which it returns."""
    lengths = sorted({result.exec_horizon for result in results if result.in_blocks})
    axis.set_xticks(lengths)
    axis.set_xlim(lengths[0] - 0.6, lengths[-1] + 0.6)
    axis.grid(False, axis="x")
    return lengths


def _latency_axis(axis: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis in plain numbers, where latencies differ by much."""
    known = [value for value in values if value > 0]
    if not known or max(known) < 5 * min(known):
        axis.set_xlim(left=0)
        return
    axis.set_xscale("log")
    crowded = max(known) > 20 * min(known) and axis.get_subplotspec().get_gridspec().ncols > 2
    axis.xaxis.set_major_locator(LogLocator(subs=(1,) if crowded else (1, 2, 5)))
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _file_name(task: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in task)
