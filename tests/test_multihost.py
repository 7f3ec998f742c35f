"""Where a process finds its place in a job, and the script that starts one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

from experiments.support import multihost
from specmpc_jax.config import model_config
from specmpc_jax.errors import UserError
from specmpc_jax.learning import data_parallel
from specmpc_jax.world_model import WorldModel

ROOT = Path(__file__).parents[1]
SLURM = {"SLURM_NTASKS": "4", "SLURM_PROCID": "2", "SLURM_STEP_NODELIST": "node[1-4]"}


@pytest.fixture
def job(monkeypatch):
    def place(environment, *arguments):
        names = ("coordinator_address", "num_processes", "process_id")
        for name in names:
            monkeypatch.setattr(flags.FLAGS[name], "_value", None)
            monkeypatch.setattr(flags.FLAGS[name], "present", 1)
        for argument in arguments:
            name, value = argument.split("=")
            flag = flags.FLAGS[name]
            monkeypatch.setattr(flag, "_value", flag.parser.parse(value))
        return multihost.job(environment)

    return place


def test_a_process_finds_its_place(job):
    assert job({}) == (None, 1, 0)
    assert job(SLURM) == (None, 4, 2)
    # The batch script itself, and a job of one task.
    assert job({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}) == (None, 1, 0)
    assert job(SLURM | {"SLURM_NTASKS": "1"}) == (None, 1, 0)
    given = ("coordinator_address=h:1234", "num_processes=2", "process_id=1")
    assert job(SLURM, *given) == ("h:1234", 2, 1)
    assert job({}, "num_processes=1") == (None, 1, 0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("num_processes=2",), "all three"),
        (("num_processes=2", "process_id=1"), "all three"),
        (("coordinator_address=h:1", "num_processes=2", "process_id=2"), "0 to 1"),
        (("coordinator_address=h", "num_processes=2", "process_id=1"), "HOST:PORT"),
    ],
)
def test_half_a_place_is_refused(job, given, message):
    with pytest.raises(UserError, match=message):
        job({}, *given)


def test_a_process_that_is_alone_says_so(tmp_path):
    command = [sys.executable, "-m", "experiments.train_parallel", f"--logs_dir={tmp_path}"]
    job = ["--coordinator_address=127.0.0.1:1", "--num_processes=2", "--process_id=1"]
    result = subprocess.run(
        [*command, *job, "--connect_timeout=5", "--world_size=2", "--device=cpu"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("error: not all 2 processes came together at 127.0.0.1:1")
    assert result.stderr.count("\n") == 1 and not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", "--device=cuda --world_size=8 --sync_freq=1"),
        ("2 --seed=3", "--device=cuda --world_size=2 --sync_freq=1 --seed=3"),
        ("2 4 --device=cpu", "--world_size=2 --sync_freq=4 --device=cpu"),
    ],
)
def test_the_script_passes_its_arguments_on(tmp_path, arguments, expected):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    environment = os.environ | {"PYTHON": str(python)}
    command = [ROOT / "run_pmap_8gpu.sh", "walker-walk", "5", *arguments.split()]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    words = "-m experiments.train_parallel --task=walker-walk --model_size=5".split()
    assert set(result.stdout.split()) == {*words, *expected.split()}


@pytest.mark.parametrize("arguments", [(), ("walker-walk",), ("walker-walk", "five"), ("--help",)])
def test_the_script_explains_itself(arguments):
    result = subprocess.run([ROOT / "run_pmap_8gpu.sh", *arguments], capture_output=True, text=True)
    assert result.returncode == 2 and "TASK SIZE [WORLD_SIZE] [SYNC_FREQ]" in result.stderr


def test_bytes_of_gradients():
    """All parameters but the target ensemble, which no gradient reaches, in float32."""
    config = model_config(1, action_dim=6, observation_shape=(24,))
    # Encoder, dynamics, reward, policy and two Q members, counted by hand.
    normed = lambda i, o: i * o + 3 * o  # noqa: E731
    head = lambda i, o: normed(i, 384) + normed(384, 384) + 384 * o + o  # noqa: E731
    encoder = normed(24, 256) + normed(256, 128)
    dynamics = normed(134, 384) + normed(384, 384) + normed(384, 128)
    count = encoder + dynamics + 3 * head(134, 101) + head(128, 12)
    assert data_parallel.gradient_bytes(WorldModel(config)) == 4 * count


def test_more_devices_than_a_cpu_is_split_into_are_refused(tmp_path):
    command = [
        *(sys.executable, "-m", "experiments.benchmark_parallel", "--device=cpu", "--quiet"),
        *("--world_sizes=99", f"--output={tmp_path}"),
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == "error: 99 devices are asked for; JAX sees 64\n"


@pytest.mark.slow
def test_benchmark_of_updates_over_devices(tmp_path):
    command = [
        *(sys.executable, "-m", "experiments.benchmark_parallel", "--device=cpu", "--quiet"),
        *("--world_sizes=1,2", "--sync_freqs=1,2", "--batch_size=4", "--repeats=2"),
        f"--output={tmp_path}",
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "parallel.json").read_text())["rows"]
    assert [row["effective_batch"] for row in rows] == [4, 8, 8, 16]
    assert all(row["update_ms"] >= row["best_ms"] > 0 for row in rows)
    assert [row["sent_mb"] / row["gradient_mb"] for row in rows] == [0, 0, 1, 1]
