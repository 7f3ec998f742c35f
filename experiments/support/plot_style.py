"""One look for all figures: sizes for print, and a colour and marker for each corrector kind."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.support.results import BASELINE, OPEN_LOOP, POLICY, Model, Result

# Inches across a text column; a figure of this width is printed at its own size.
TEXT_WIDTH = 6.5
RESOLUTION = 200  # dots per inch
GREY = "#767676"

_SETTINGS = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "figure.titlesize": 11,
    "font.size": 9.5,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "lines.markersize": 6,
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
}


@dataclasses.dataclass(frozen=True)
class Look:
    """How one corrector kind is drawn; told apart by colour, by marker and by name."""

    label: str
    color: str
    marker: str


# Colours of Okabe and Ito, which remain distinct under colour blindness.
_LOOKS = {
    BASELINE: Look("replan every step", "#000000", "*"),
    POLICY: Look("policy prior", "#56B4E9", "P"),
    OPEN_LOOP: Look("open loop", "#E69F00", "o"),
    "two_tower": Look("two-tower", "#0072B2", "s"),
    "temporal": Look("temporal", "#009E73", "D"),
    "bc": Look("behaviour cloning", "#D55E00", "^"),
    "gated": Look("gated", "#7A5C00", "h"),
    "refine": Look("short replan", "#CC79A7", "v"),
    "prior": Look("policy prior between plans", "#56B4E9", "p"),
}


def styled() -> Any:
    """Context in which figures have to be made and saved."""
    return matplotlib.rc_context(_SETTINGS)


def look(kind: str) -> Look:
    """How a corrector kind is drawn; kinds without a look of their own are grey crosses."""
    return _LOOKS.get(kind, Look(kind.replace("_", " "), GREY, "X"))


def rank(result: Result) -> tuple[Any, ...]:
    """Sorts variants: the baseline, the policy, then by block length, kind and threshold."""
    kinds = list(_LOOKS)
    place = kinds.index(result.kind) if result.kind in kinds else len(kinds)
    blocks = result.exec_horizon if place > kinds.index(POLICY) else 0
    return blocks, place, result.kind, result.options


def series_label(result: Result) -> str:
    """What a legend calls a variant whose block length shows elsewhere."""
    words = look(result.kind).label
    return f"{words}, {result.options}" if result.options else words


def variant_label(result: Result) -> str:
    """What an axis calls a variant, block length included."""
    words = series_label(result)
    return words if result.kind in (BASELINE, POLICY) else f"{result.exec_horizon}-step {words}"


def marker(result: Result) -> dict[str, Any]:
    """Arguments that draw a variant's marker; hollow where mismatches make it replan."""
    style = look(result.kind)
    return dict(
        color=style.color,
        marker=style.marker,
        markersize={"*": 11, "P": 7.5}.get(style.marker, 6),
        markerfacecolor="white" if result.drops_plans else style.color,
        linestyle="none",
    )


def panels(
    count: int, *, columns: int = 3, height: float = 3.0, **options: Any
) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels in rows of at most `columns`, each `height` inches high."""
    columns = min(columns, count)
    rows = -(-count // columns)
    # Figures are made without pyplot, so that no display and no global state is needed.
    figure = Figure(figsize=(TEXT_WIDTH, rows * height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options).ravel().tolist()
    for unused in axes[count:]:
        unused.remove()
    for axis in axes[:count]:
        axis.tick_params(labelbottom=True)
    return figure, axes[:count]


def finish(
    figure: Figure,
    axes: Sequence[Axes],
    *,
    title: str,
    xlabel: str = "",
    ylabel: str = "",
    keys: Sequence[Line2D] = (),
) -> Figure:
    """Adds title, axis labels and, below the panels and in room of its own, the legend."""
    figure.suptitle(title)
    for axis in axes:
        axis.set_xlabel(xlabel or axis.get_xlabel())
        if ylabel and axis.get_subplotspec().is_first_col():
            axis.set_ylabel(ylabel)
    if keys:
        widest = max(len(str(key.get_label())) for key in keys)
        columns = min(len(keys), int(figure.get_figwidth() / (0.55 + 0.068 * widest)))
        rows = -(-len(keys) // columns)
        figure.set_figheight(figure.get_figheight() + 0.1 + 0.2 * rows)
        figure.legend(handles=list(keys), loc="outside lower center", ncols=columns)
    return figure


def key(result: Result, linestyle: str = "none") -> Line2D:
    """A legend's entry for a variant's series."""
    return Line2D([], [], **{**marker(result), "linestyle": linestyle}, label=series_label(result))


def task(models: Sequence[Model]) -> str:
    """The task that all of the models were evaluated on."""
    return models[0].results[0].task


def name_panel(axis: Axes, model: Model, models: Sequence[Model]) -> None:
    """Puts a model's name over its panel, where there are several."""
    if len(models) > 1:
        axis.set_title(model.label)


def variant_names(results: Iterable[Result]) -> list[str]:
    """The label of each variant once, in the order of `rank`."""
    return list(dict.fromkeys(map(variant_label, sorted(results, key=rank))))


def name_rows(axis: Axes, names: Sequence[str]) -> None:
    """Makes an axis of one named row for each variant, the first on top."""
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.3, -0.7)
    axis.grid(False, axis="y")
    axis.tick_params(axis="y", length=0)
