"""Flags of experiments.train, and what it makes of them."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("dm_control")

ROOT = Path(__file__).parents[1]
# One episode, so that a run is a matter of seconds.
SHORT = (
    "--task=cartpole-swingup",
    "--model_size=1",
    "--steps=1000",
    "--seed_steps=490",
    "--updates_per_step=0.01",
    "--batch_size=4",
    "--num_samples=16",
    "--num_elites=4",
    "--num_pi_trajs=2",
    "--iterations=1",
    "--eval_freq=0",
    "--quiet",
)


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "experiments.train", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_short_run_then_a_second_one_in_its_place(tmp_path):
    logs = f"--logs_dir={tmp_path}"
    tensorboard = ["--tensorboard"] if importlib.util.find_spec("tensorboardX") else []
    result = run(*SHORT, logs, *tensorboard)
    assert result.returncode == 0, result.stderr
    directory = tmp_path / "cartpole-swingup" / "0" / "default"
    assert (directory / "checkpoints" / "last").is_dir()
    assert (directory / "train.csv").read_text().count("\n") == 2
    record = json.loads((directory / "config.json").read_text())
    assert record["provenance"]["versions"]["jax"] and record["provenance"]["seed"] == 0
    if (ROOT / ".git").exists():
        assert len(record["provenance"]["git_revision"].removesuffix("-dirty")) == 40
    if importlib.util.find_spec("tensorboardX"):
        assert list((directory / "tensorboard").glob("events*"))

    again = run(*SHORT, logs)
    assert again.returncode == 1
    assert again.stderr.startswith("error: ") and "--resume" in again.stderr
    assert again.stderr.count("\n") == 1

    # The alias of --task, and another setting that the run was not started with.
    other = run("--env=cartpole-swingup", *SHORT[1:], logs, "--resume", "--lr=0.1")
    assert other.returncode == 1 and "lr was 0.0003, is 0.1" in other.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--task=walker-wlk"], "walker-walk"),
        (["--model_size=7"], "sizes are 1, 5, 19, 48, 317"),
        (["--rho=2"], r"rho 2.0 must lie in (0, 1]"),
        (["--num_envs=0"], "at least 1"),
        (["--buffer_gb=1e-9"], "buffer_size is 0"),
        (["--finetune_embedding=zero"], "needs --finetune"),
        (["--finetune=bundled:walker-walk-1m", "--task=cartpole-balance"], "cannot begin"),
    ],
)
def test_mistakes_take_one_line_and_leave_nothing(arguments, message, tmp_path):
    result = run(*arguments, f"--logs_dir={tmp_path}")
    assert result.returncode == 1
    assert message in result.stderr and result.stderr.count("\n") == 1
    assert not any(tmp_path.iterdir())
