"""What comparisons keep on disk, and the numbers in their tables."""

import csv
import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from absl import flags
from scipy import stats

from experiments.support import compare as comparing
from experiments.support.compare import Results, compare, shared_settings
from models import ToyEnvironment, tiny_agent, toy_batch
from specmpc_jax.envs import registry
from specmpc_jax.evaluation import statistics, variants
from specmpc_jax.evaluation.comparison import EvaluationSettings, aggregate_rows
from specmpc_jax.evaluation.offsets import OffsetRecorder
from specmpc_jax.evaluation.rollout import run_episodes
from specmpc_jax.speculation.decisions import Decision

AGENT = tiny_agent().with_planner(horizon=1)
SETTINGS = EvaluationSettings("toy", (3, 4))
NAMES = ("3_step_naive", "baseline")


@pytest.fixture(autouse=True)
def toy_environments(monkeypatch):
    """Environments by name are the toy; `runs` holds the variants that were really run."""
    flags.FLAGS.mark_as_parsed()
    monkeypatch.setattr(flags.FLAGS["quiet"], "value", True)
    monkeypatch.setattr(registry, "make", lambda task, observation: ToyEnvironment())
    runs = []
    plain = comparing.evaluate_controller

    def evaluate(controller, *arguments, **options):
        runs.append(controller.program.speculation.exec_horizon)
        return plain(controller, *arguments, **options)

    monkeypatch.setattr(comparing, "evaluate_controller", evaluate)
    return runs


def run(directory, names=NAMES, agent=AGENT, model_id="toy-1m", settings=SETTINGS):
    results = Results(directory / "summary.csv", shared_settings(settings, "elite"))
    compare(agent, model_id, [variants.parse(name) for name in names], {}, settings, results)
    return results


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return tmp_path_factory.mktemp("finished")


def test_complete_variants_are_kept_and_only_what_changed_is_run_again(
    finished, toy_environments, tmp_path
):
    run(finished)
    assert toy_environments == [3, 1]
    before = (finished / "summary.csv").read_bytes()
    run(finished)
    assert toy_environments == [3, 1] and (finished / "summary.csv").read_bytes() == before

    run(finished, model_id="toy-5m", names=("baseline",))  # another model joins
    assert toy_environments == [3, 1, 1] and len(rows(finished / "summary.csv")) == 3
    other = AGENT.with_planner(num_samples=8)
    run(finished, names=("baseline",), agent=other)
    assert toy_environments == [3, 1, 1, 1]
    summary = rows(finished / "summary.csv")
    assert sorted((row["model_id"], row["variant"]) for row in summary) == [
        ("toy-1m", "3_step_naive"), ("toy-1m", "baseline"), ("toy-5m", "baseline"),
    ]  # fmt: skip
    for table in ("episodes.csv", "offsets.csv"):
        names = [(r["model_id"], r["variant"], r.get("env_seed")) for r in rows(finished / table)]
        if table == "episodes.csv":
            assert len(names) == len(set(names)) == 6

    fewer = dataclasses.replace(SETTINGS, env_seeds=(3,))
    run(finished, names=("baseline",), settings=fewer)  # nothing could be paired with the rest
    assert len(rows(finished / "summary.csv")) == len(rows(finished / "episodes.csv")) == 1


def test_a_baseline_that_comes_late_pairs_what_was_there(tmp_path):
    run(tmp_path, names=("3_step_naive",))
    (row,) = rows(tmp_path / "summary.csv")
    assert row["paired_difference"] == ""
    run(tmp_path, names=("3_step_naive", "baseline"))
    paired = {row["variant"]: row for row in rows(tmp_path / "summary.csv")}
    episodes = {}
    for each in rows(tmp_path / "episodes.csv"):
        episodes.setdefault(each["variant"], []).append(float(each["return"]))
    difference = np.array(episodes["3_step_naive"]) - np.array(episodes["baseline"])
    assert float(paired["3_step_naive"]["paired_difference"]) == pytest.approx(difference.mean())
    assert float(paired["baseline"]["paired_difference"]) == 0.0


def test_a_run_killed_between_two_files_counts_for_nothing(tmp_path, toy_environments):
    run(tmp_path, names=("baseline",))
    record = (tmp_path / "summary.run.json").read_bytes()
    run(tmp_path, names=("3_step_naive",))

    def of(variant, table="episodes.csv"):
        return [row for row in rows(tmp_path / table) if row["variant"] == variant]

    whole = of("3_step_naive"), of("3_step_naive", "offsets.csv")
    (tmp_path / "summary.run.json").write_bytes(record)  # the last file was not written yet
    run(tmp_path, names=("policy",))
    for table in ("summary.csv", "episodes.csv", "offsets.csv"):
        assert of("3_step_naive", table) == []
    run(tmp_path, names=("3_step_naive",))
    assert toy_environments == [1, 3, 1, 3]
    assert (of("3_step_naive"), of("3_step_naive", "offsets.csv")) == whole


def test_offsets_are_counted_where_the_comparison_was_made():
    recorder, seen = OffsetRecorder(), []

    def observe(step):
        recorder.observe(step)
        seen.extend(np.asarray(step.info.decision)[step.active].tolist())

    # Every plan is corrected at offset 1 and dropped at offset 2.
    control = AGENT.controller(4, "refine", tau_replan=[1e9, 0.0, 1e9])
    run_episodes(control, toy_batch(2), (5, 6), jax.random.key(0), observe)
    first, second = recorder.rows({"task": "toy", "variant": "v"})
    assert (first["offset"], second["offset"], first["variant"]) == (1, 2, "v")
    assert first["steps"] == sum(d == Decision.CORRECTED for d in seen) == 12
    assert second["steps"] == sum(d == Decision.MISMATCH for d in seen) == 10
    assert (first["corrected_share"], first["mismatch_replan_share"]) == (1.0, 0.0)
    assert (second["corrected_share"], second["mismatch_replan_share"]) == (0.0, 1.0)
    assert 0 < first["mean_correction"] <= first["p90_correction"] * 2
    assert np.isnan(second["mean_correction"]) and second["mean_mismatch"] > 0


def test_jerk_is_the_third_difference():
    t = np.arange(10.0)[:, None]
    assert statistics.jerk(np.concatenate([t, t**2, np.ones_like(t)], axis=1)) == 0
    assert statistics.jerk(t**3) == pytest.approx(6.0)
    assert statistics.jerk(np.tile([[1.0], [-1.0]], (4, 1))) == pytest.approx(8.0)
    assert np.isnan(statistics.jerk(t[:3]))


def test_the_stratified_iqm_resamples_within_each_task():
    rng = np.random.default_rng(0)
    low, high = rng.normal(100, 5, 12), rng.normal(900, 5, 12)
    point, left, right = statistics.stratified_iqm([low, high])
    pooled = np.concatenate([low, high])
    assert point == pytest.approx(stats.trim_mean(pooled, 0.25))
    assert left < point < right
    # Resampled as one pool, tasks would be drawn unequally often and the interval be far wider.
    assert right - left < 40
    one = statistics.stratified_iqm([pooled])
    assert one[2] - one[1] > 5 * (right - left)
    same = statistics.stratified_iqm([np.full(5, 3.0)])
    assert same == (3.0, 3.0, 3.0)
    assert np.isnan(statistics.stratified_iqm([low, np.ones(1)])[1:]).all()


def test_aggregates_have_a_stratum_for_each_model_and_task():
    def row(model, variant, value):
        identity = {"task": "t", "model_id": model, "variant": variant}
        return identity | {"exec_horizon": 3, "corrector": "none", "return": str(value)}

    table = [row("a", "v", 1), row("a", "v", 3), row("b", "v", 5), row("b", "v", 7)]
    first, second = aggregate_rows([*table, row("a", "w", 2)])
    assert (first["variant"], first["strata"], first["episodes"]) == ("v", 2, 4)
    assert first["mean_return"] == first["iqm_return"] == 4.0
    assert first["iqm_ci_low"] <= 4.0 <= first["iqm_ci_high"]
    assert (second["variant"], second["strata"], second["episodes"]) == ("w", 1, 1)


def test_printed_rows_name_what_tells_them_apart():
    def columns(*rows):
        shown = comparing.table(SimpleNamespace(summary=[dict(row, variant="v") for row in rows]))
        return list(shown[0])[:3]

    one = {"task": "a", "model_id": "a-1m"}
    assert columns(one)[0] == "variant"
    assert columns(one, one | {"model_id": "a-5m"})[:2] == ["model_id", "variant"]
    assert columns(one, {"task": "b", "model_id": "b-1m"}) == ["task", "model_id", "variant"]
