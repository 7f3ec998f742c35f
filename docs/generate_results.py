"""Writes the tables of docs/results.md and README.md, and their figure, from results/*/summary.csv.

    python docs/generate_results.py [--check]

A table stands between `<!-- results: NAME -->` and `<!-- end -->`, where NAME is a task, or
`all` for the short one of all tasks. --check writes nothing and fails if a page is out of date.
"""

import argparse
import functools
import math
import re
import sys
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.support import plot_style as style
from experiments.support.results import BASELINE, POLICY, Result, read_results
from specmpc_jax import files

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "docs" / "results.md", ROOT / "README.md")
FIGURE = ROOT / "docs" / "images" / "tradeoff.png"
TASKS = ("walker-walk", "cartpole-swingup", "cup-catch")
# The rows of the short table.
SHORT = (
    *(BASELINE, POLICY, "3_step_naive", "3_step_corrector", "3_step_bc"),
    *("5_step_naive", "5_step_bc", "5_step_gated", "5_step_prior"),
    *("10_step_bc", "10_step_prior"),
)
BETWEEN = " between plans"  # ends a label; the short table and the figure say it for all
# Share of planner calls saved and of return lost, in percent: Lin et al., arXiv 2512.17250.
PUBLISHED = (43.6, -7.1)
LOWEST = -32  # percent of return; what lies lower is written at the figure's edge
_TABLE = re.compile(r"(<!-- results: (\S+) -->\n).*?(\n<!-- end -->)", re.DOTALL)


def main(check: bool) -> int:
    """Writes, or compares, every page; the exit status."""
    status = 0
    for page in PAGES:
        text = page.read_text()
        new = _TABLE.sub(lambda found: found[1] + table(found[2]) + found[3], text)
        if check and new != text:
            print(f"{page.name} is out of date; run python docs/generate_results.py")
            status = 1
        elif not check:
            files.write_text(page, new)
    if not check:
        with style.styled(), files.atomic_path(FIGURE) as temporary:
            tradeoff().savefig(temporary, dpi=150, metadata={"Software": None})
    return status


def table(name: str) -> str:
    """One table in Markdown.

    Raises:
      SystemExit: if no table is called so.
    """
    if name not in ("all", *TASKS):
        sys.exit(f"no table is called {name!r}; there are all, {', '.join(TASKS)}")
    return _short() if name == "all" else _of_task(name)


def tradeoff() -> Figure:
    """Return kept against planner calls saved, a panel a task."""
    figure, axes = style.panels(len(TASKS), height=2.4, sharex=True)
    seen: dict[str, Result] = {}
    for axis, task in zip(axes, TASKS, strict=True):
        results = _results(task)
        baseline = results[BASELINE]
        for result in sorted(results.values(), key=style.rank):
            # Without any plan there is no trade; the tables have it.
            if result.kind not in (BASELINE, POLICY) and not result.options:
                seen.setdefault(result.kind, result)
                _draw(axis, result, baseline, list(seen).index(result.kind))
        axis.axhline(0, color="black", linewidth=1, linestyle="--")
        axis.plot(*PUBLISHED, "x", color="black", markersize=7)
        axis.set_title(task)
        axis.set_ylim(LOWEST, 6)
    by_kind = sorted(seen.values(), key=lambda result: style.rank(result)[1])
    keys = [style.key(result) for result in by_kind]
    for key in keys:
        key.set_label(str(key.get_label()).removesuffix(BETWEEN))
    return style.finish(
        figure,
        axes,
        title="Return against planner calls, by what acts between plans",
        xlabel="Planner calls saved (%)",
        ylabel="Change of return (%)",
        keys=keys,
    )


def _draw(axis: Axes, result: Result, baseline: Result, place: int) -> None:
    middle, low, high = _percent(result, baseline)
    # Points of one block length would hide each other.
    x = 100 * (1 - result.planner_calls_per_step) + 1.2 * (place - 2)
    color = style.look(result.kind).color
    if middle < LOWEST:
        text = f"{middle:.0f}\n\u2193"
        axis.text(x, LOWEST + 1, text, color=color, ha="center", va="bottom", fontsize=8)
        return
    axis.vlines(x, low, high, color, linewidth=1.2)
    axis.plot(x, middle, **style.marker(result))


def _short() -> str:
    """Variants over tasks: change of return in percent, mean latency against the baseline's."""
    lines = [["planner calls", "between plans", "latency", *TASKS]]
    lines.append(["---:", "---", *["---:"] * (1 + len(TASKS))])
    for variant in SHORT:
        rows = [_results(task).get(variant) for task in TASKS]
        known = next((row for row in rows if row), None)
        if not known:
            continue
        calls = f"{known.planner_calls_per_step:.3f}".rstrip("0").rstrip(".")
        between = style.series_label(known).removesuffix(BETWEEN)
        if variant == BASELINE:
            between = "(a plan at every step)"
        lines.append([calls, between, _short_latency(variant), *map(_short_cell, rows)])
    return _markdown(lines)


def _short_cell(row: Result | None) -> str:
    if row is None:
        return ""
    if row.kind == BASELINE:
        return f"{row.mean_return:.1f}"
    middle, low, high = _percent(row, _results(row.task)[BASELINE])
    return f"{middle:+.1f}% [{low:+.1f}, {high:+.1f}]"


def _short_latency(variant: str) -> str:
    """Mean milliseconds of the baseline on each task; of others the range of their shares."""
    measured = [_latencies(task) for task in TASKS]
    if variant == BASELINE:
        return ", ".join(f"{of[BASELINE].mean_ms:.0f}" for of in measured) + " ms"
    shares = [100 * of[variant].mean_ms / of[BASELINE].mean_ms for of in measured if variant in of]
    low, high = f"{min(shares):.0f}", f"{max(shares):.0f}%"
    return high if high == f"{low}%" else f"{low} to {high}"


def _of_task(task: str) -> str:
    """Every variant of a task."""
    latencies = _latencies(task)
    head = ["", "return [95%]", "paired difference [95%]", "planner calls per step"]
    lines = [[*head, "mean latency", "p50", "p95"], ["---", *["---:"] * 6]]
    for result in sorted(_results(task).values(), key=style.rank):
        paired = ""
        if result.kind != BASELINE:
            paired = (
                f"{result.paired_difference:+.1f} "
                f"[{result.paired_ci_low:+.1f}, {result.paired_ci_high:+.1f}]"
            )
        measured = latencies.get(result.variant)
        times = (measured.mean_ms, measured.p50_ms, measured.p95_ms) if measured else ()
        lines.append(
            [
                _name(result),
                f"{result.mean_return:.1f} [{result.ci_low:.0f}, {result.ci_high:.0f}]",
                paired,
                f"{result.planner_calls_per_step:.3f}",
                *(f"{value:.1f} ms" for value in times),
                *[""] * (3 - len(times)),
            ]
        )
    return _markdown(lines)


@functools.cache
def _results(task: str) -> dict[str, Result]:
    return {r.variant: r for r in read_results(ROOT / "results" / task / "summary.csv")}


@functools.cache
def _latencies(task: str) -> dict[str, Result]:
    """Measured apart, with nothing else running."""
    path = ROOT / "results" / task / "latency" / "summary.csv"
    return {r.variant: r for r in read_results(path)} if path.exists() else {}


def _percent(result: Result, baseline: Result) -> tuple[float, float, float]:
    values = (result.paired_difference, result.paired_ci_low, result.paired_ci_high)
    middle, low, high = (100 * value / baseline.mean_return for value in values)
    assert not math.isnan(middle)
    return middle, low, high


def _name(result: Result) -> str:
    if result.kind == BASELINE:
        return "replan at every step"
    if result.kind == POLICY:
        return "policy prior, no plan"
    return f"blocks of {result.exec_horizon}, {style.series_label(result)}"


def _markdown(lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether pages are current")
    sys.exit(main(parser.parse_args().check))
