"""Figures of what happens within blocks: mismatch and corrections by offset, and smoothness."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.support import plot_style as style
from experiments.support.results import Model, Result


def offsets(models: Sequence[Model]) -> Figure | None:
    """Mismatch and size of corrections against the offset in the block, a line a variant."""
    shown = [r for model in models for r in model.blocks if r.offsets]
    if not shown:
        return None
    figure, axes = style.panels(2 * len(models), columns=2, height=2.8)
    for model, mismatch, correction in zip(models, axes[::2], axes[1::2], strict=True):
        suffix = "" if len(models) == 1 else f", {model.label}"
        mismatch.set_ylabel(f"Relative mismatch{suffix}")
        correction.set_ylabel("Correction of the action")
        for result in sorted(model.blocks, key=style.rank):
            _draw(mismatch, result, "mean_mismatch")
            _draw(correction, result, "mean_correction")
        # Beyond this line the prediction is further off than the start of the plan is.
        mismatch.axhline(1.0, color=style.GREY, linestyle="--", linewidth=1)
        for axis in (mismatch, correction):
            axis.set_xticks(sorted({at.offset for r in shown for at in r.offsets}))
            axis.set_ylim(bottom=0)
    return style.finish(
        figure,
        axes,
        title=f"{style.task(models)}: mismatch and corrections by offset",
        xlabel="Offset (steps since the plan)",
        keys=_keys(shown),
    )


def smoothness(models: Sequence[Model]) -> Figure | None:
    """Mean jerk of the actions, a row for each variant."""
    shown = [r for model in models for r in model.results if not math.isnan(r.mean_jerk)]
    names = style.variant_names(shown)
    if not names:
        return None
    figure, axes = style.panels(
        len(models), height=1.0 + 0.27 * len(names), sharex=True, sharey=True
    )
    for axis, model in zip(axes, models, strict=True):
        for result in model.results:
            if result in shown:
                row = names.index(style.variant_label(result))
                axis.plot(result.mean_jerk, row, **style.marker(result))
        axis.margins(x=0.05)
        axis.set_xlim(left=0)
        style.name_panel(axis, model, models)
        style.name_rows(axis, names)
    return style.finish(
        figure,
        axes,
        title=f"{style.task(models)}: jerk of the actions",
        xlabel="Mean absolute third difference",
    )


def _draw(axis: Axes, result: Result, column: str) -> None:
    points = [(at.offset, getattr(at, column)) for at in result.offsets]
    points = [point for point in points if not math.isnan(point[1])]
    if points:
        look = {**style.marker(result), "linestyle": _line(result), "linewidth": 1.3}
        axis.plot(*zip(*points, strict=True), **look)


def _line(result: Result) -> str:
    return ":" if result.drops_plans else "-"


def _keys(shown: Sequence[Result]) -> list[Line2D]:
    """One entry a kind and options; blocks of several lengths share it."""
    first: dict[str, Result] = {}
    for result in sorted(shown, key=style.rank):
        first.setdefault(style.series_label(result), result)
    return [style.key(result, _line(result)) for result in first.values()]
