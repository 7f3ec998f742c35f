"""The training benchmark's rows; no time is asserted."""

import math
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from experiments.support import update_timing
from models import tiny_config
from specmpc_jax.learning.config import TrainConfig
from specmpc_jax.learning.flops import update_flops
from toy_training import make_lanes, make_settings

ROOT = Path(__file__).parents[1]


def test_rows_hang_together(monkeypatch):
    monkeypatch.setattr(update_timing, "PEAK_WIDTH", 32)
    calls = []

    def counting(*arguments):
        update = update_timing.make_jax(*arguments)
        return lambda: calls.append(int(update()[0]))

    config = TrainConfig(batch_size=4)
    (row,) = update_timing.time_updates(
        tiny_config(), config, {"jax": counting}, 3, jax.random.key(0)
    )
    assert calls == [1, 2, 3, 4, 5]  # two to warm up
    assert set(row) == set(update_timing.COLUMNS)
    assert row["needed_gflop"] == update_flops(tiny_config(), config).total / 1e9
    assert 0 < row["update_ms"] <= row["p95_ms"]
    share = row["needed_gflop"] / (row["update_ms"] / 1e3) / row["peak_gflops"]
    assert math.isclose(row["peak_share"], share)


def test_whole_steps_are_taken():
    settings = make_settings(100)
    lanes = make_lanes(settings).train
    config = TrainConfig(batch_size=4)
    rate = update_timing.steps_per_second(settings.model, config, lanes, 2, jax.random.key(0))
    assert rate > 0
    (environment,) = lanes.environments
    assert environment.time == 5  # three steps to warm up


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--implementations=jax,tensorflow", "jax, torch_eager"),
        ("--sizes=1,x", "whole numbers above 0"),
        ("--batch_sizes=0", "whole numbers above 0"),
        ("--sizes=7", "sizes are 1, 5, 19, 48, 317"),
    ],
)
def test_mistakes_take_one_line_and_leave_nothing(argument, message, tmp_path):
    command = [sys.executable, "-m", "experiments.benchmark_training", "--quiet", argument]
    command.append(f"--output={tmp_path}/results")
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert message in result.stderr and result.stderr.count("\n") == 1
    assert not any(tmp_path.iterdir())
