"""Episodes shared out over devices are the episodes that one device runs."""

import csv
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.support import collecting, launch
from models import ToyEnvironment, tiny_agent, toy_batch
from specmpc_jax.envs import registry
from specmpc_jax.errors import UserError
from specmpc_jax.evaluation.comparison import EvaluationSettings, evaluate_controller
from specmpc_jax.evaluation.offsets import OffsetRecorder
from specmpc_jax.evaluation.sharding import over_benches

ROOT = Path(__file__).parents[1]
SEEDS = tuple(range(50, 61))


@pytest.fixture
def toy_task(monkeypatch):
    """The registry makes toys, whose episodes end at times that differ."""
    monkeypatch.setattr(registry, "make", lambda task, observation: ToyEnvironment(limit=2.5))


@pytest.mark.parametrize(
    ("num_envs", "count"), [(1, 2), *(pytest.param(n, 8, marks=pytest.mark.slow) for n in (1, 3))]
)
def test_many_devices_run_the_episodes_of_one(toy_task, num_envs, count):
    controller = tiny_agent().controller(3)
    settings = EvaluationSettings("toy", SEEDS, num_envs, latency_steps=3)
    steps = []
    seen_by_one, seen_by_many = OffsetRecorder(), OffsetRecorder()
    one = evaluate_controller(controller, settings, jax.random.key(1), recorder=seen_by_one)
    many = evaluate_controller(
        controller, settings, jax.random.key(1), steps.append, seen_by_many, jax.devices()[:count]
    )
    assert [episode.env_seed for episode in many.episodes] == list(SEEDS)
    assert list(map(str, many.episodes)) == list(map(str, one.episodes))  # NaN is not equal
    np.testing.assert_array_equal(seen_by_many.steps, seen_by_one.steps)
    assert seen_by_one.steps.shape[1] > 0
    assert len({episode.length for episode in one.episodes}) > 1
    assert sum(steps) == sum(episode.length for episode in one.episodes)
    assert len(many.latencies) == 2  # of a run of its own, less its first call


def test_collected_data_do_not_depend_on_devices(toy_task, tmp_path, monkeypatch):
    monkeypatch.setattr(launch.FLAGS["quiet"], "present", 1)  # so that it may be read
    monkeypatch.setattr(launch.FLAGS["seed"], "present", 1)
    monkeypatch.setattr(launch.FLAGS["quiet"], "_value", True)
    controller = tiny_agent().controller(3)
    waves = []
    save = collecting.CorrectorDataset.save
    monkeypatch.setattr(
        collecting.CorrectorDataset,
        "save",
        lambda data, path: (waves.append(data.num_episodes), save(data, path))[-1],
    )

    def collect(name: str, devices: list[jax.Device]):
        metadata = {"teacher": "toy"}
        path = tmp_path / f"{name}.npz"
        return collecting.collect_round(controller, "toy", SEEDS[:7], 2, metadata, 0, path, devices)

    one, many = collect("one", []), collect("many", jax.devices()[:2])
    assert waves == [2, 4, 6, 7, 4, 7]
    assert one.arrays.keys() == many.arrays.keys()
    for name, values in one.arrays.items():
        np.testing.assert_array_equal(many[name], values, err_msg=name)
    # What was kept of a run on one device is gone on with on others.
    assert collect("one", jax.devices()[:2]).num_episodes == 7 and waves[6:] == []


def test_a_failure_on_one_device_ends_all():
    ran = []

    def run(bench, item):
        ran.append(item)
        if item == 1:
            raise UserError("no good")
        return item

    controller = tiny_agent().controller()
    with pytest.raises(UserError, match="no good"):
        over_benches(run, range(100), controller, lambda: toy_batch(1), jax.devices()[:2])
    assert len(ran) < 100
    assert over_benches(run, [], controller, lambda: toy_batch(1), jax.devices()) == []
    assert over_benches(run, [5], controller, lambda: toy_batch(1), jax.devices()) == [5]


@pytest.mark.slow
def test_eval_corrector_on_eight_devices(tmp_path):
    pytest.importorskip("dm_control")
    command = [
        *(sys.executable, "-m", "experiments.eval_corrector", "--task=walker-walk"),
        *("--checkpoint=bundled:walker-walk-1m", "--episodes=9", "--quiet"),
        *("--variants=baseline,3_step_naive,3_step_refine", "--num_samples=32"),
        *("--num_elites=8", "--num_pi_trajs=4", "--iterations=2"),
    ]
    rows = []
    for devices in (1, 8):
        path = tmp_path / str(devices) / "summary.csv"
        extra = [f"--devices={devices}", f"--results_csv={path}"]
        result = subprocess.run([*command, *extra], cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        with path.with_name("episodes.csv").open(newline="") as file:
            rows.append(list(csv.DictReader(file)))
    assert len(rows[0]) == 27 and rows[0] == rows[1]


@pytest.mark.slow
def test_two_processes_evaluate_the_episodes_of_one(tmp_path):
    pytest.importorskip("dm_control")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"--coordinator_address=127.0.0.1:{probe.getsockname()[1]}"
    command = [
        *(sys.executable, "-m", "experiments.eval_corrector", "--task=walker-walk"),
        *("--checkpoint=bundled:walker-walk-1m", "--episodes=3", "--variants=policy"),
        *("--device=cpu", "--quiet"),
    ]
    job = [address, "--num_processes=2", "--devices=2"]
    places = [[], [*job, "--process_id=0"], [*job, "--process_id=1"]]
    paths = [tmp_path / str(number) / "summary.csv" for number in range(3)]
    running = [
        subprocess.Popen([*command, *place, f"--results_csv={path}"], cwd=ROOT)
        for place, path in zip(places, paths, strict=True)
    ]
    assert [process.wait(timeout=400) for process in running] == [0, 0, 0]
    alone, first, second = (path.with_name("episodes.csv") for path in paths)
    assert alone.read_text() == first.read_text() and alone.read_text().count("\n") == 4
    assert not second.exists()
