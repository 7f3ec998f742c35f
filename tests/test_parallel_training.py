"""Training on many devices: its course, its files, its return, and slow environments."""

import functools
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import specmpc_jax
from specmpc_jax.envs.workers import EnvironmentWorkers
from specmpc_jax.errors import UserError
from specmpc_jax.learning.config import ParallelConfig
from specmpc_jax.learning.parallel_collector import LaneRecord, ParallelCollector
from specmpc_jax.learning.run_directory import RunDirectory
from test_online import newest_step, read_rows
from toy_parallel import parallel_settings, run
from toy_training import EPISODE_LENGTH, PointMass

SCRIPT = Path(__file__).with_name("toy_parallel.py")
STEPS = 960
# The rest of this file runs with the optimisations that tests switch off in their own process.
PLAIN = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}


class Slow(PointMass):
    """Lanes whose first episode starts left of the origin take their time."""

    def step(self, action):
        if len(self.seeds) and self.seeds[0] % 2:
            time.sleep(0.05)
        return super().step(action)


class Stuck(PointMass):
    """Takes long over each step."""

    def __init__(self, seconds: float):
        super().__init__()
        self.seconds = seconds

    def step(self, action):
        time.sleep(self.seconds)
        return super().step(action)


class Broken(PointMass):
    """Fails in one of several ways."""

    def __init__(self, how: str):
        super().__init__()
        self.how = how

    def step(self, action):
        if self.how == "dies":
            os._exit(7)
        raise (UserError if self.how == "mistake" else ZeroDivisionError)("no good")


def start(directory: Path, *arguments: str, process: int = 0, port: int = 0) -> subprocess.Popen:
    """Starts the toy program; with a port, as one of two processes."""
    job = [
        f"--coordinator_address=127.0.0.1:{port}",
        "--num_processes=2",
        f"--process_id={process}",
    ]
    command = [sys.executable, str(SCRIPT), f"--directory={directory}", f"--steps={STEPS}"]
    return subprocess.Popen(
        [*command, *(job if port else []), *arguments, "--quiet"],
        env=os.environ | PLAIN,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two(directory: Path, *arguments: str) -> list[subprocess.Popen]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [start(directory, *arguments, process=process, port=port) for process in (0, 1)]


def finish(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors


def wait_for(directory: Path, steps: int, process: subprocess.Popen) -> None:
    while newest_step(directory) < steps:
        assert process.poll() is None, f"ended too early: {process.communicate()}"
        time.sleep(0.01)


def assert_same_course(directory: Path, other: Path, tolerance: float = 0.0) -> None:
    for name in ("train.csv", "eval.csv"):
        ours, theirs = read_rows(directory / name), read_rows(other / name)
        assert [row["step"] for row in ours] == [row["step"] for row in theirs]
        for one, two in zip(ours, theirs, strict=True):
            values = [[float(row[key] or "nan") for key in one] for row in (one, two)]
            np.testing.assert_allclose(*values, rtol=tolerance, atol=tolerance)
    models = (specmpc_jax.load(path / "checkpoints" / "last") for path in (directory, other))
    compare = functools.partial(np.testing.assert_allclose, rtol=0, atol=tolerance)
    jax.tree.map(compare, *(model.params for model in models))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Directory of an uninterrupted run on two devices of one process."""
    directory = tmp_path_factory.mktemp("finished")
    finish([start(directory)])
    return directory


def test_files_of_a_run(finished):
    rows = read_rows(finished / "train.csv")
    # A row an episode of each of two lanes, of 2 x 20 environment steps.
    assert [int(row["step"]) for row in rows] == list(range(80, STEPS + 1, 80))
    assert {row["episodes"] for row in rows} == {"2"}
    # One gradient a device and agent step past the seed phase, two of them an update.
    assert [int(row["updates"]) for row in rows] == [0, *range(20, 121, 10)]
    assert [int(r["step"]) for r in read_rows(finished / "eval.csv")] == [0, 320, 640, 960]
    state = finished / "checkpoints" / "state"
    assert {path.name for path in state.glob("replay*")} == {"replay_0_of_2", "replay_1_of_2"}
    assert not (finished / "diverged.json").exists()


def test_a_killed_run_takes_the_same_course(finished, tmp_path):
    process = start(tmp_path)
    wait_for(tmp_path, 160, process)
    process.kill()
    process.communicate()
    finish([start(tmp_path, "--resume")])
    assert_same_course(tmp_path, finished)


def lose_one(directory: Path, victim: int) -> None:
    """Kills one of two processes; the other one has to end by itself, with a line that says why."""
    killed = start_two(directory)
    wait_for(directory, 160, killed[0])
    begin = time.monotonic()
    killed[victim].kill()
    survivor = killed[1 - victim]
    _, errors = survivor.communicate(timeout=60)
    assert time.monotonic() - begin < 45
    assert survivor.returncode == 1
    assert errors.startswith("error: lost contact") and errors.count("\n") == 1, errors
    killed[victim].communicate()


def test_a_process_whose_other_dies_says_so(tmp_path):
    lose_one(tmp_path, victim=0)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_two_processes_train_as_one_and_survive_each_others_death(finished, tmp_path, victim):
    lose_one(tmp_path, victim)
    finish(start_two(tmp_path, "--resume"))
    # Sums over processes are added up in another order.
    assert_same_course(tmp_path, finished, tolerance=1e-3)


@pytest.mark.slow
def test_other_numbers_of_devices_go_on(tmp_path):
    run(tmp_path, parallel_settings(320, eval_freq=0), ParallelConfig(2, lockstep=True))
    states = tmp_path / "checkpoints" / "state"
    assert len(list(states.glob("replay_*_of_2/episode_*"))) == 8
    before = RunDirectory(tmp_path).newest_record()
    # Nothing that was collected is lost: an episode a device and 40 steps joins it.
    for world_size, steps, episodes in ((1, 400, 10), (2, 480, 12)):
        config = ParallelConfig(world_size, lockstep=True)
        end = run(tmp_path, parallel_settings(steps, eval_freq=0), config, resume=True)
        assert end.agent_steps == steps // 2
        assert {path.name for path in states.glob("replay_*")} == {
            f"replay_{device}_of_{world_size}" for device in range(world_size)
        }
        assert len(list(states.glob("replay_*/episode_*"))) == episodes
    specmpc_jax.load(tmp_path / "checkpoints" / "last")
    assert RunDirectory(tmp_path).newest_record()["device_steps"] > before["device_steps"]
    with pytest.raises(UserError, match="sync_freq was 1, is 2"):
        run(
            tmp_path,
            parallel_settings(640, eval_freq=0),
            ParallelConfig(2, 2, lockstep=True),
            resume=True,
        )


@pytest.mark.parametrize("lockstep", [False, True])
def test_a_slow_environment_holds_up_nobody_else(lockstep):
    with EnvironmentWorkers(Slow, PointMass.spec, 4) as workers:
        records = [LaneRecord()] * 4
        collector = ParallelCollector(
            workers, range(4), 5, records, episodic=False, lockstep=lockstep
        )
        for _ in range(60):
            ready = collector.wait()
            collector.step(np.zeros((4, 1)), ready)
        collector.settle()
        steps = collector.steps
    if lockstep:
        assert set(steps) == {60} and len(collector.take_episodes()) == 4 * 3
        assert collector.records == [LaneRecord(3, 60)] * 4
    else:
        assert steps.max() > 3 * steps.min()
        assert all(len(e.reward) == EPISODE_LENGTH for _, e in collector.take_episodes())


def test_nobody_waits_for_a_slow_environment_while_another_one_is_ready():
    with EnvironmentWorkers(functools.partial(Stuck, 3.0), PointMass.spec, 2) as workers:
        collector = ParallelCollector(
            workers, range(2), 0, [LaneRecord()] * 2, episodic=False, lockstep=False
        )
        collector.settle()
        collector.step(np.zeros((2, 1)), np.array([True, False]))
        begin = time.monotonic()
        for _ in range(3):
            np.testing.assert_array_equal(collector.wait(), [False, True])
        assert time.monotonic() - begin < 1.5


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("dies", UserError, r"environment 0 of point-mass has ended \(exit code 7\)"),
        ("mistake", UserError, "environment 0: no good"),
        ("bug", RuntimeError, "environment 0: ZeroDivisionError: no good"),
    ],
)
def test_broken_environments_are_told_of(how, error, message):
    with EnvironmentWorkers(functools.partial(Broken, how), PointMass.spec, 1) as workers:
        workers.reset(0, 3)
        (reply,) = workers.receive(everyone=True)
        np.testing.assert_array_equal(reply.observation, PointMass().reset(3))
        workers.step(0, np.zeros(1))
        with pytest.raises(error, match=message):
            workers.receive(everyone=True)
