"""The soak test's counting, and the test itself on a tiny teacher for seconds."""

import csv
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from experiments.support import soak_plot
from experiments.support.soak_record import (
    COLUMNS,
    Compilations,
    Recorder,
    held_memory_mb,
    memory_mb,
    summarise,
)
from models import tiny_agent
from specmpc_jax import checkpointing

ROOT = Path(__file__).parents[1]


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_rows_end_with_their_interval():
    clock = Clock()
    recorder = Recorder(10.0, Compilations(), clock)
    for latency, planned, blind in ((80.0, True, False), (2.0, False, True), (4.0, False, False)):
        clock.now += 4.0
        recorder.step(latency, planned, blind)
    recorder.episodes = 1
    recorder.end_interval()  # nothing is left
    (row,) = recorder.rows
    assert set(row) == set(COLUMNS)
    assert (row["minutes"], row["steps"], row["plans"], row["blind"]) == (0.2, 3, 1, 1)
    assert row["step_p50_ms"] == 3.0 and row["plan_p50_ms"] == row["longest_ms"] == 80.0
    clock.now += 4.0
    recorder.step(5.0, False, False)
    recorder.end_interval()
    assert recorder.rows[1]["steps"] == 1 and math.isnan(recorder.rows[1]["plan_p50_ms"])
    assert recorder.rows[1]["episodes"] == 1


def test_a_new_program_is_counted_and_an_old_one_is_not():
    double = jax.jit(lambda x: 2 * x)
    value = jnp.zeros(3)
    with Compilations() as compilations:
        double(value)
        assert compilations.traces > 0 and compilations.compilations == 1
        double(value)
        assert compilations.compilations == 1
    jax.jit(lambda x: 3 * x)(value)
    assert compilations.compilations == 1


def rows(memory, latency):
    fixed = dict.fromkeys(COLUMNS, 0) | {"steps": 10, "plans": 3, "arrays_mb": 5.0}
    return [
        fixed | {"minutes": n / 6, "episodes": n, "memory_mb": m, "step_p50_ms": t,
                 "step_p99_ms": 2 * t, "plan_p50_ms": 80.0, "plan_p99_ms": 90.0}
        for n, (m, t) in enumerate(zip(memory, latency, strict=True), 1)
    ]  # fmt: skip


def test_summary_compares_the_ends():
    summary = summarise(rows([500, 510, 520, 530, 540, 550, 560, 580], [1, 1, 1, 1, 1, 2, 2, 2]))
    assert summary["memory_growth_mb"] == pytest.approx(570 - 505)
    assert summary["arrays_growth_mb"] == 0 and summary["plan_p50_ratio"] == 1
    assert summary["step_p50_ratio"] == 2
    assert summary["steps"] == 80 and summary["episodes"] == 8 and summary["plans"] == 24
    assert summarise(rows([500], [1]))["memory_growth_mb"] == 0


@pytest.mark.skipif(math.isnan(memory_mb()), reason="needs /proc")
def test_memory_counts_what_is_held_and_not_what_was_freed():
    before = held_memory_mb()
    kept = [bytearray(100_000) for _ in range(1000)]
    held = held_memory_mb()
    assert 90 < held - before < 130
    kept.clear()
    assert held_memory_mb() < held - 80


def test_figure_shows_every_series(tmp_path):
    soak_plot.save(rows([500, 501], [1, 2]), tmp_path / "soak.png", "walker-walk")
    assert (tmp_path / "soak.png").stat().st_size > 10_000
    figure = soak_plot.figure(rows([500, 501], [1, 2]), "walker-walk")
    memory, latency = figure.axes
    assert list(memory.lines[0].get_ydata()) == [500, 501] and len(latency.lines) == 4
    assert "20 steps, 2 episodes" in figure.get_suptitle()


def command(tmp_path, minutes):
    """A soak with two kinds of controllers of a tiny teacher, into `out`."""
    task = "cartpole-balance"
    agent = tiny_agent(action_dim=1, observation_shape=(5,), tasks=(task,), episode_lengths=(500,))
    checkpointing.save_model(tmp_path / "tiny", agent.params, agent.config)
    planner = ["--num_samples=8", "--num_elites=2", "--num_pi_trajs=2", "--iterations=1"]
    flags = [f"--task={task}", "--checkpoint=tiny", f"--minutes={minutes}", "--interval_s=2"]
    flags += ["--episode_steps=30", "--sensor_loss=0.1", "--controllers=blocks,pipelined"]
    flags += ["--output=out", "--memory_limit_mb=200"]
    return [sys.executable, "-m", "experiments.soak", "--device=cpu", *planner, *flags]


def written(tmp_path):
    with open(tmp_path / "out" / "soak.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_soak_of_seconds(tmp_path):
    result = subprocess.run(
        command(tmp_path, 0.2), cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    rows = written(tmp_path)
    assert len(rows) >= 3 and {row["compilations"] for row in rows} == {"0"}
    summary = json.loads((tmp_path / "out" / "soak.run.json").read_text())["summary"]
    assert summary["blind"] > 0 and summary["plans"] > 0 and summary["episodes"] > 2


@pytest.mark.slow
def test_a_killed_soak_leaves_its_rows(tmp_path):
    process = subprocess.Popen(
        command(tmp_path, 60), cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    begin = time.monotonic()
    while not (tmp_path / "out" / "soak.csv").exists():
        assert process.poll() is None and time.monotonic() - begin < 300
        time.sleep(0.2)
    process.kill()
    process.wait()
    assert int(written(tmp_path)[0]["steps"]) > 0
