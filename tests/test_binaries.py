"""The corrector binaries end to end, as a user types them, on a tiny untrained teacher."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from models import tiny_agent
from specmpc_jax import checkpointing
from specmpc_jax.correctors.dataset import CorrectorDataset

ROOT = Path(__file__).parents[1]
TASK = "cartpole-balance"
PLANNER = ["--num_samples=8", "--num_elites=2", "--num_pi_trajs=2", "--iterations=1"]


def run(program: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """Runs a binary in `cwd`."""
    command = [sys.executable, "-m", program, "--device=cpu", *arguments]
    # Compiled without optimising: these programs compile far longer than they run.
    flags = "--xla_backend_optimization_level=0"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)


def succeed(*arguments, cwd):
    result = run(*arguments, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return result.stdout


def fail(*arguments, cwd):
    """Expects one line on stderr and status 1; returns the line."""
    result = run(*arguments, cwd=cwd)
    assert result.returncode == 1, result.stdout + result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    return lines[0]


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A directory with a tiny teacher in `teachers/`."""
    directory = tmp_path_factory.mktemp("workplace")
    agent = tiny_agent(action_dim=1, observation_shape=(5,), tasks=(TASK,), episode_lengths=(500,))
    checkpointing.save_model(directory / "teachers" / "tiny", agent.params, agent.config)
    return directory


@pytest.fixture(scope="module")
def teacher():
    """Flags that find the tiny teacher."""
    return [f"--task={TASK}", "--model_dir=teachers", *PLANNER]


def test_from_data_to_plots(workplace, teacher):
    collect = ("experiments.collect_corrector_data", *teacher, "--episodes=2", "--quiet")
    said = succeed(*collect, "--num_envs=2", cwd=workplace)
    assert "1000 steps of 2 episodes in data/corrector_data_custom.npz" in said
    assert "exists already" in fail(*collect, cwd=workplace)

    said = succeed(
        "experiments.train_corrector", "--corrector_type=both", "--epochs=2", "--hidden_dim=16",
        "--quiet", cwd=workplace,
    )  # fmt: skip
    assert "corrector_custom_two_tower" in said and "corrector_custom_temporal" in said

    drive = ["--corrector=correctors/corrector_custom_two_tower", "--episodes=1"]
    said = succeed(*collect, *drive, cwd=workplace)
    assert "1500 steps of 3 episodes" in said

    evaluate = (
        "experiments.eval_corrector", *teacher, "--episodes=2", "--num_envs=2", "--quiet",
        "--variants=baseline,3_step_naive,3_step_corrector,2_step_corrector_temporal_replan20",
    )  # fmt: skip
    said = succeed(*evaluate, cwd=workplace)
    assert "3_step_corrector" in said
    summary = {row["variant"]: row for row in rows(workplace / f"results/{TASK}/summary.csv")}
    assert float(summary["baseline"]["planner_calls_per_step"]) == 1.0
    assert float(summary["baseline"]["paired_difference"]) == 0.0
    assert float(summary["3_step_naive"]["planner_calls_per_step"]) == pytest.approx(0.334)
    assert float(summary["3_step_corrector"]["corrected_per_step"]) == pytest.approx(0.666)
    assert float(summary["2_step_corrector_temporal_replan20"]["mismatch_replans_per_step"]) > 0
    assert all(float(row["p50_ms"]) > 0 for row in summary.values())
    episodes = rows(workplace / f"results/{TASK}/episodes.csv")
    assert len(episodes) == 8 and {row["length"] for row in episodes} == {"500"}

    # The same comparison again does nothing anew; one more variant adds only its own rows.
    before = (workplace / f"results/{TASK}/summary.csv").read_text()
    said = succeed(*evaluate, "--trace", "--trace_steps=20", "--trace_seed=7", cwd=workplace)
    assert (workplace / f"results/{TASK}/summary.csv").read_text() == before
    page = f"results/{TASK}/traces/{TASK}-custom_2_step_corrector_temporal_replan20_seed7.html"
    assert f"wrote {page}" in said and "trace-data" in (workplace / page).read_text()
    traced = rows((workplace / page).with_suffix(".csv"))
    assert len(traced) == 20 and {row["outcome"] for row in traced} >= {"correct", "replan"}

    plots = ("experiments.plot_corrector_eval", f"--results_csv=results/{TASK}/summary.csv")
    succeed(*plots, "--output_dir=plots", cwd=workplace)
    assert list((workplace / "plots").glob("*.png"))


def test_evaluate(workplace, teacher):
    succeed(
        "experiments.evaluate", *teacher, "--eval_episodes=2", "--num_envs=2", "--output=e.json",
        "--quiet", cwd=workplace,
    )  # fmt: skip
    result = json.loads((workplace / "e.json").read_text())
    assert result["task"] == TASK and len(result["returns"]) == 2
    assert result["ci_low"] <= result["mean"] <= result["ci_high"] and result["p50_ms"] > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["experiments.evaluate", "--task=cartpole-balnce", "--checkpoint=teachers/tiny"], TASK),
        (["experiments.evaluate", f"--task={TASK}", "--model_dir=teachers", "--model_size=5"],
         "holds no 5M teacher"),
        (["experiments.evaluate", f"--task={TASK}", "--checkpoint=teachers/tiny",
          "--model_size=5"], "asked for at 5M"),
        (["experiments.evaluate", f"--task={TASK}", "--checkpoint=teachers/none"], "holds tiny/"),
        (["experiments.train_corrector", "--data=nothing.npz"], "there is no nothing.npz"),
        (["experiments.eval_corrector", f"--task={TASK}", "--checkpoint=teachers/tiny",
          "--variants=baseline,3_step_corector"], "variants are"),
        (["experiments.eval_corrector", f"--task={TASK}", "--checkpoint=teachers/tiny",
          "--variants=3_step_corrector", "--corrector_dir=nowhere"], "nowhere"),
        (["experiments.eval_corrector", f"--task={TASK}", "--checkpoint=teachers/tiny",
          "--variants=baseline,3_step_naive", "--trace", "--trace_variants=3_step_bc"],
         "which --variants does not: baseline, 3_step_naive"),
        (["experiments.eval_corrector", f"--task={TASK}", "--checkpoint=teachers/tiny",
          "--trace_steps=5"], "--trace_steps needs --trace"),
        (["experiments.collect_corrector_data", f"--task={TASK}", "--checkpoint=teachers/tiny",
          "--exec_horizon=1"], "exec_horizon"),
        (["experiments.demo", "--episods=3"], "episodes"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_line(workplace, arguments, said):
    assert said in fail(*arguments, "--quiet", cwd=workplace)


def test_killed_collection_goes_on_with_the_next_episode(workplace, teacher):
    command = [
        sys.executable, "-m", "experiments.collect_corrector_data", "--device=cpu", *teacher,
        "--episodes=3", "--output=killed",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    partial = workplace / "killed" / "corrector_data_custom.partial.npz"
    with subprocess.Popen(
        command, cwd=workplace, env=environment, stderr=subprocess.DEVNULL
    ) as process:
        while not partial.exists() and process.poll() is None:
            time.sleep(0.02)
        process.kill()
    assert partial.exists()
    first = CorrectorDataset.load(partial)
    assert 500 <= len(first) < 1500
    result = subprocess.run(command, cwd=workplace, env=environment, capture_output=True, text=True)
    assert "1500 steps of 3 episodes" in result.stdout, result.stderr
    whole = CorrectorDataset.load(workplace / "killed" / "corrector_data_custom.npz")
    assert not partial.exists()
    for name in ("z_real", "a_plan", "a_teacher"):
        assert (whole[name][: len(first)] == first[name]).all()
