"""Plots of an evaluation: every figure from synthetic tables, and what bad tables answer."""

import csv
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from experiments.support import plotting
from experiments.support.results import (
    compared_to_open_loop,
    models_by_task,
    pareto_front,
    read_results,
)
from specmpc_jax import files
from specmpc_jax.errors import UserError
from specmpc_jax.evaluation import statistics, variants
from specmpc_jax.evaluation.comparison import EPISODE_COLUMNS, SUMMARY_COLUMNS
from specmpc_jax.evaluation.offsets import OFFSET_COLUMNS

ROOT = Path(__file__).parents[1]
LOSS = {
    **{None: 90.0, "two_tower": 10.0, "temporal": 12.0},
    **{"bc": 30.0, "gated": 8.0, "refine": 100.0, "prior": 60.0},
}
VARIANTS = (
    *variants.DEFAULT,
    "3_step_corrector_replan10",
    "3_step_bc_accept30_valued",
    "5_step_naive",
    "5_step_corrector",
)


def write_evaluation(directory, tasks=("walker-walk",), sizes=(1,), names=VARIANTS, episodes=6):
    """A results table as `eval_corrector` writes it, of made-up returns."""
    summary, single, offsets = [], [], []
    for task in tasks:
        for size in sizes:
            rng = np.random.default_rng(size)
            baseline = 900 + rng.normal(0, 30, episodes)
            for name in names:
                variant = variants.parse(name)
                loss = 450.0 if name == "policy" else LOSS[variant.corrector]
                loss = 0.0 if name == "baseline" else loss * max(variant.exec_horizon - 1, 1) / 2
                returns = baseline - loss + (loss > 0) * rng.normal(0, 10, episodes)
                calls = 0.0 if name == "policy" else 1 / variant.exec_horizon
                identity = dict(
                    task=task,
                    model_id=f"{task}-{size}m",
                    model_size=size,
                    variant=name,
                    exec_horizon=variant.exec_horizon,
                    corrector=variant.corrector or "none",
                )
                row = {
                    "seed": 0,
                    "planner_calls_per_step": calls,
                    "p50_ms": 0.5 + 9 * (calls > 0.5),
                }
                row |= {"p95_ms": 10 * size, "p99_ms": 12 * size, "mean_length": 500}
                row |= {"mean_jerk": 0.1 + 0.01 * variant.exec_horizon}
                correction = 0.2 if variant.corrector else math.nan
                offsets += [
                    identity
                    | {"offset": k, "steps": 160, "mean_mismatch": 0.3 * k, "p90_mismatch": 0.9}
                    | {"mean_correction": correction * k}
                    for k in range(1, variant.exec_horizon)
                ]
                row |= statistics.summarise_returns(returns)
                row |= statistics.paired_difference(returns, baseline)
                summary.append(identity | row)
                single += [
                    identity | {"episode": i, "env_seed": 1000 + i, "return": value}
                    for i, value in enumerate(returns)
                ]
    files.write_csv(directory / "summary.csv", summary, SUMMARY_COLUMNS)
    files.write_csv(directory / "episodes.csv", single, EPISODE_COLUMNS)
    if offsets:
        files.write_csv(directory / "offsets.csv", offsets, OFFSET_COLUMNS)
    return directory / "summary.csv"


def edit(path, change):
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    changed = [change(dict(row)) for row in rows]
    files.write_csv(path, changed, list(changed[0]))


def assert_drawn(path):
    image = imread(path)
    assert min(image.shape[:2]) > 300
    assert image[..., :3].std() > 0.02
    for edge in (image[:2], image[-2:], image[:, :2], image[:, -2:]):
        assert edge[..., :3].min() > 0.9  # nothing is cut off


def test_one_size_gives_all_plots_but_that_of_sizes(tmp_path):
    written = plotting.plot_results(write_evaluation(tmp_path), tmp_path / "plots")
    names = {"horizon", "paired", "pareto", "improvement", "latency", "offsets", "smoothness"}
    assert {path.name for path in written} == {f"{name}_walker-walk.png" for name in names}
    assert sorted(written) == sorted((tmp_path / "plots").iterdir())
    for path in written:
        assert_drawn(path)


def test_sizes_and_tasks_have_figures_of_their_own(tmp_path):
    table = write_evaluation(tmp_path, ("walker-walk", "cup/catch"), (1, 5, 19, 48), VARIANTS[:6])
    written = plotting.plot_results(table, tmp_path / "plots")
    assert len(written) == 2 * len(plotting.FIGURES)
    names = {path.name for path in written}
    assert {"model_size_walker-walk.png", "model_size_cup_catch.png"} < names
    for path in written[: len(plotting.FIGURES)]:
        assert_drawn(path)


@pytest.mark.parametrize(("file_format", "start"), [("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_vector_formats(tmp_path, file_format, start):
    table = write_evaluation(tmp_path, names=("baseline", "3_step_naive"))
    for path in plotting.plot_results(table, tmp_path, file_format):
        assert path.suffix == f".{file_format}"
        assert path.read_bytes().startswith(start)


def test_least_evaluations_are_drawn_without_warnings(tmp_path, recwarn):
    for names in (
        ["baseline"],
        ["3_step_naive"],
        ["baseline", "policy"],
        ["baseline", "2_step_bc"],
    ):
        table = write_evaluation(tmp_path, names=names, episodes=1)  # no intervals
        assert plotting.plot_results(table, tmp_path / "plots")
    (tmp_path / "episodes.csv").unlink()
    assert plotting.plot_results(write_evaluation(tmp_path), tmp_path / "plots")
    assert not [str(warning.message) for warning in recwarn]


def test_missing_measurements_and_unknown_kinds_are_drawn(tmp_path):
    table = write_evaluation(tmp_path)

    def change(row):
        if row["corrector"] == "temporal":
            row["corrector"] = "my_corrector"
        return row | dict.fromkeys(("p50_ms", "p95_ms", "paired_difference"), "")

    edit(table, change)
    names = {path.stem.split("_")[0] for path in plotting.plot_results(table, tmp_path / "plots")}
    assert names == {"horizon", "pareto", "improvement", "offsets", "smoothness"}


def test_text_is_large_enough_to_print(tmp_path):
    models = models_by_task(read_results(write_evaluation(tmp_path, sizes=(1, 5))))["walker-walk"]
    for draw in plotting.FIGURES.values():
        with plotting.style.styled():
            figure = draw(models)
            figure.draw_without_rendering()
        texts = [text for text in figure.findobj(lambda item: hasattr(item, "get_fontsize"))]
        assert min(text.get_fontsize() for text in texts if text.get_text()) >= 9
        for axis in figure.axes:
            assert axis.get_xlabel()


def test_the_front_holds_what_nothing_beats(tmp_path):
    results = {r.variant: r for r in read_results(write_evaluation(tmp_path))}
    front = pareto_front(list(results.values()), "planner_calls_per_step")
    calls = [result.planner_calls_per_step for result in front]
    returns = [result.mean_return for result in front]
    assert calls == sorted(set(calls)) and returns == sorted(set(returns))
    for result in results.values():
        assert any(
            better.planner_calls_per_step <= result.planner_calls_per_step
            and better.mean_return >= result.mean_return
            for better in front
        )
    assert results["policy"] in front and results["3_step_naive"] not in front


def test_correctors_are_compared_to_open_loop_of_their_own_horizon(tmp_path):
    (model,) = models_by_task(read_results(write_evaluation(tmp_path)))["walker-walk"]
    pairs = {own.variant: other.variant for own, other in compared_to_open_loop(model).items()}
    assert pairs["2_step_corrector"] == "2_step_naive"
    assert pairs["5_step_corrector"] == "5_step_naive"
    assert pairs["3_step_corrector_replan10"] == "3_step_naive"
    assert not {"baseline", "policy", "3_step_naive"} & set(pairs)


def test_offsets_and_options_are_read_back(tmp_path):
    results = {r.variant: r for r in read_results(write_evaluation(tmp_path))}
    (first, second) = results["3_step_corrector"].offsets
    assert (first.offset, second.offset) == (1, 2) and second.mean_mismatch == pytest.approx(0.6)
    assert second.mean_correction == pytest.approx(0.4)
    assert math.isnan(results["3_step_naive"].offsets[0].mean_correction)
    assert results["baseline"].offsets == ()
    assert results["3_step_corrector"].options == ""
    assert results["3_step_corrector_replan10"].options == "replan 10%"
    assert results["3_step_bc_accept30_valued"].options == "accept 30%, by value"
    assert results["3_step_bc_accept30_valued"].drops_plans
    assert math.isclose(results["5_step_naive"].mean_jerk, 0.15)


def test_older_tables_without_the_newer_columns_are_read(tmp_path):
    table = write_evaluation(tmp_path)
    (tmp_path / "offsets.csv").unlink()
    newer = ("mean_jerk", "iqm_ci_low", "iqm_ci_high", "value_replans_per_step", "mean_ms")
    edit(table, lambda row: {name: row[name] for name in row if name not in newer})
    names = {path.stem.split("_")[0] for path in plotting.plot_results(table, tmp_path / "plots")}
    assert names == {"horizon", "paired", "pareto", "improvement", "latency"}


def test_models_are_told_apart_by_as_little_as_needed(tmp_path):
    table = write_evaluation(tmp_path, sizes=(1, 5), names=("baseline", "3_step_naive"))
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    other = [row | {"model_id": "other"} for row in rows if row["model_size"] == "5"]
    repeated = [row | {"seed": "1"} for row in rows if row["model_size"] == "1"]
    nameless = [row | {"model_size": "", "model_id": "mine"} for row in rows[:1]]
    files.write_csv(table, rows + other + repeated + nameless, list(rows[0]))
    models = models_by_task(read_results(table))["walker-walk"]
    labels = ["1M, seed 0", "1M, seed 1", "5M, other", "5M, walker-walk-5m", "mine"]
    assert [model.label for model in models] == labels
    assert models[-1].size is None and models[0].baseline.variant == "baseline"
    returns = list(models[0].baseline.returns.values())
    assert math.isclose(np.mean(returns), models[0].baseline.mean_return)
    assert plotting.plot_results(table, tmp_path / "plots")


def drop_column(row):
    return {name: value for name, value in row.items() if name != "p50_ms"}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "holds episodes.csv"),
        (lambda path: path.write_text(""), "holds no results"),
        (lambda path: path.write_text(path.read_text().splitlines()[0]), "holds no results"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00\x01"), "is no CSV file"),
        (lambda path: edit(path, drop_column), "lacks the columns p50_ms"),
        (lambda path: edit(path, lambda row: row | {"mean_return": "high"}), "row 1: mean_return"),
        (lambda path: edit(path, lambda row: row | {"mean_return": ""}), "row 1: mean_return"),
        (lambda path: edit(path, lambda row: row | {"exec_horizon": "2.5"}), "a whole number"),
        (lambda path: path.write_text(path.read_text() + "walker-walk,x"), "fields as the header"),
        (lambda path: edit(path, lambda row: row | {"variant": "baseline"}), "is there twice"),
        (lambda path: path.with_name("episodes.csv").write_text("task\nx\n"), "episodes.csv lacks"),
    ],
)
def test_bad_tables_are_named_and_nothing_is_drawn(tmp_path, damage, message):
    table = write_evaluation(tmp_path, names=("baseline", "3_step_naive"))
    damage(table)
    with pytest.raises(UserError, match=message) as caught:
        plotting.plot_results(table, tmp_path / "plots")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "plots").exists()


def test_the_binary(tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "experiments.plot_corrector_eval", "--device=cpu"]
        return subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True)

    table = write_evaluation(tmp_path, names=("baseline", "3_step_naive"))
    result = run(f"--results_csv={table}")
    assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / "plots" / "horizon_walker-walk.png").exists()
    result = run(f"--results_csv={tmp_path / 'summry.csv'}")
    assert result.returncode == 1 and result.stdout.count("\n") == 1
    assert result.stderr.startswith("error: there is no") and result.stderr.count("\n") == 1
