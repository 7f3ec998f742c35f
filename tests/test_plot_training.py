"""Learning curves: reading, averaging over seeds, and the figure."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from experiments.support import curve_plots, learning_curves
from experiments.support.learning_curves import Curve, Run
from specmpc_jax import files
from specmpc_jax.errors import UserError

ROOT = Path(__file__).parents[1]


def write_run(logs: Path, task: str, seed: int, returns: list[float], name: str = "a") -> Path:
    directory = logs / task / str(seed) / name
    rows = [
        {"step": 1000 * k, "episode_reward": value, "seed": seed} for k, value in enumerate(returns)
    ]
    files.write_csv(directory / "eval.csv", rows, ["step", "episode_reward", "seed"])
    config = {"online": {"task": task, "seed": seed}, "model": {"model_size": 1}}
    files.write_json(directory / "config.json", config)
    return directory


def test_mean_over_seeds_interpolates_and_ends_with_each():
    band = learning_curves.mean_over_seeds(
        [
            Curve(np.array([0.0, 10.0]), np.array([0.0, 100.0])),
            Curve(np.array([0.0, 5.0, 20.0]), np.array([10.0, 20.0, 80.0])),
        ]
    )
    np.testing.assert_array_equal(band.steps, [0, 5, 10, 20])
    np.testing.assert_allclose(band.mean, [5, 35, 70, 80])
    assert (band.low <= band.mean).all() and (band.mean <= band.high).all()
    assert band.low[1] < band.high[1] and band.low[3] == band.high[3] == 80


def test_official_curves_are_shipped():
    curves = learning_curves.official_curves("walker-walk")
    assert len(curves) == 3
    assert all(curve.steps[0] == 0 and (np.diff(curve.steps) > 0).all() for curve in curves)
    assert learning_curves.mean_over_seeds(curves).mean[1] > 900
    assert learning_curves.official_curves("no-such-task") == []


def test_runs_are_found_by_pattern_or_file(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path, "walker-walk", seed, [10, 20])
    runs = learning_curves.find_runs([f"{tmp_path}/walker-walk/*/a", f"{tmp_path}/*/1/a/eval.csv"])
    assert [(run.task, run.name, run.seed) for run in runs] == [
        ("walker-walk", "a", 0),
        ("walker-walk", "a", 1),
    ]
    with pytest.raises(UserError, match="matches no run"):
        learning_curves.find_runs([f"{tmp_path}/*/9/a"])


def test_a_file_that_is_no_evaluation_is_named(tmp_path):
    directory = write_run(tmp_path, "walker-walk", 0, [10])
    (directory / "eval.csv").write_text("step,seed\n0,0\n")
    with pytest.raises(UserError, match="eval.csv must have the columns"):
        learning_curves.read_run(directory)
    (directory / "eval.csv").write_text("step,episode_reward,seed\n")
    with pytest.raises(UserError, match="no evaluation yet"):
        learning_curves.read_run(directory)


def test_figure_shows_runs_over_the_official_mean():
    steps = np.array([0.0, 50_000.0, 100_000.0])
    runs = [
        Run("walker-walk", "a", 1, seed, Curve(steps, seed + np.array([20.0, 300.0, 800.0])))
        for seed in (0, 1)
    ]
    runs.append(Run("cheetah-run", "b", 5, 0, Curve(steps, np.array([5.0, 200.0, 400.0]))))
    figure = curve_plots.draw(runs)
    walker, cheetah = figure.axes
    assert [axis.get_title() for axis in figure.axes] == ["walker-walk", "cheetah-run"]
    assert walker.get_xlabel() == "Environment steps"
    means = [line.get_ydata()[:3].tolist() for line in walker.lines if line.get_linewidth() > 1]
    assert [20.5, 300.5, 800.5] in means and len(means) == 2
    assert len(walker.collections) == 2  # intervals of two seeds and of the official ones
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["a, 1M (2 seeds)", "b, 5M (1 seed)", "official TD-MPC2, 5M"]
    assert len(curve_plots.draw(runs, reference=False).axes[0].collections) == 1


def test_the_binary_writes_a_figure_and_refuses_nonsense(tmp_path):
    write_run(tmp_path / "logs", "walker-walk", 0, [10, 20, 400])

    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "experiments.plot_training", "--quiet", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    output = tmp_path / "curves.png"
    done = run(
        f"--logs_dir={tmp_path}/logs", "--task=walker-walk", "--exp_name=a", f"--output={output}"
    )
    assert done.returncode == 0, done.stderr
    assert "seed 0: 400.0 at step 2000" in done.stdout
    assert output.read_bytes().startswith(b"\x89PNG")
    for wrong, message in (([], "--runs"), (["--runs=x", "--output=y.txt"], "must end in")):
        failed = run(*wrong)
        assert failed.returncode == 1 and message in failed.stderr
        assert failed.stderr.count("\n") == 1
