"""The online loop: its course, its files, and its return from the dead."""

import csv
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import specmpc_jax
from specmpc_jax import checkpointing
from specmpc_jax.envs.batch import EnvironmentBatch
from specmpc_jax.envs.pixels import PixelEnvironment
from specmpc_jax.errors import UserError
from specmpc_jax.learning import online
from specmpc_jax.learning.acting import explore
from specmpc_jax.learning.collector import Collector
from specmpc_jax.learning.learner import DivergenceError, Learner
from specmpc_jax.learning.replay_buffer import Episode
from specmpc_jax.learning.run_directory import RunDirectory
from specmpc_jax.networks import encoders
from toy_training import EPISODE_LENGTH, PointMass, make_lanes, make_settings

STEPS = 640
SCRIPT = Path(__file__).with_name("toy_training.py")


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row.pop("steps_per_second", None)
    return rows


def run(directory: Path, settings: online.Settings, **options) -> online.Position:
    lanes = make_lanes(settings, options.pop("terminates_after", None))
    return online.train(settings, RunDirectory(directory), lanes, quiet=True, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Directory of an uninterrupted run in a process of its own."""
    directory = tmp_path_factory.mktemp("finished")
    start(directory).wait()
    return directory


def start(directory: Path, *arguments: str) -> subprocess.Popen:
    environment = {**os.environ, "XLA_FLAGS": ""}
    command = [sys.executable, str(SCRIPT), str(directory), str(STEPS), *arguments]
    return subprocess.Popen(command, env=environment)


def newest_step(directory: Path) -> int:
    """Agent steps of the newest state; -1 before the first one."""
    newest = RunDirectory(directory).newest_state()
    return -1 if newest is None else int(newest.name.removeprefix("state_"))


def test_files_of_a_run(finished):
    evaluations = read_rows(finished / "eval.csv")
    assert [int(row["step"]) for row in evaluations] == [0, 160, 320, 480, 640]
    assert list(evaluations[0]) == ["step", "episode_reward", "seed"]
    rows = read_rows(finished / "train.csv")
    assert [int(row["step"]) for row in rows] == list(range(40, STEPS + 1, 40))
    # Seed phase without updates, then one update for each agent step so far.
    assert [int(row["updates"]) for row in rows] == [0, 0, 0, *range(80, 321, 20)]
    assert rows[0]["total_loss"] == "" and float(rows[-1]["total_loss"]) > 0
    config = json.loads((finished / "config.json").read_text())
    assert config["model"]["latent_dim"] == 16 and config["online"]["steps"] == STEPS


def test_saved_models_are_teachers(finished):
    agent = specmpc_jax.load(finished / "checkpoints" / "last")
    assert agent.config == make_settings(STEPS).model
    best = checkpointing.load_model(finished / "checkpoints" / "best")
    rewards = [float(row["episode_reward"]) for row in read_rows(finished / "eval.csv")]
    assert best.metadata["episode_reward"] == max(rewards)


def test_a_killed_run_takes_the_same_course(finished, tmp_path):
    pause = random.Random(0)
    arguments: tuple[str, ...] = ()
    for wanted in (120, 240):
        process = start(tmp_path, *arguments)
        while (
            not (newest := RunDirectory(tmp_path).newest_state())
            or newest.name < f"state_{wanted:012d}"
        ):
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.005)
        time.sleep(pause.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        arguments = ("--resume",)
    assert start(tmp_path, "--resume").wait() == 0
    for name in ("train.csv", "eval.csv"):
        assert read_rows(tmp_path / name) == read_rows(finished / name)
    there, here = (
        checkpointing.load_model(path / "checkpoints" / "last").params
        for path in (finished, tmp_path)
    )
    jax.tree.map(np.testing.assert_array_equal, here, there)
    scraps = [path for path in tmp_path.rglob(".*") if path.name.startswith((".state", ".episode"))]
    assert not scraps


def test_a_finished_run_is_not_overwritten(finished):
    before = (finished / "eval.csv").read_text()
    with pytest.raises(UserError, match="--resume"):
        run(finished, make_settings(STEPS))
    with pytest.raises(UserError, match="num_envs was 1, is 2"):
        run(finished, make_settings(STEPS, num_envs=2), resume=True)
    assert (finished / "eval.csv").read_text() == before


def test_resuming_before_the_first_state_starts_anew(tmp_path):
    settings = make_settings(40)
    directory = RunDirectory(tmp_path)
    assert not directory.start({"online": settings.online}, {}, resume=False)
    assert not directory.start({"online": settings.online}, {}, resume=True)


def test_several_lanes_policy_acting_and_fused_updates(tmp_path):
    settings = make_settings(480, num_envs=3, use_planner=False, fused_updates=8, eval_freq=0)
    end = run(tmp_path, settings)
    assert (end.agent_steps, end.episodes_started) == (240, 12)
    rows = read_rows(tmp_path / "train.csv")
    assert [row["episodes"] for row in rows] == ["3"] * 4
    assert int(rows[-1]["updates"]) == 240
    assert not (tmp_path / "checkpoints" / "best").exists()


def test_episodic_training(tmp_path):
    settings = make_settings(360, episodic=True, eval_freq=0)
    run(tmp_path, settings, terminates_after=9)
    rows = read_rows(tmp_path / "train.csv")
    assert {row["episode_length"] for row in rows} == {"9.0"}
    assert float(rows[-1]["termination_loss"]) > 0


def test_training_from_pixels(tmp_path, monkeypatch):
    shifts = []
    monkeypatch.setattr(
        "specmpc_jax.networks.encoders.shift_image",
        lambda image, shift, original=encoders.shift_image: (
            shifts.append(image.shape) or original(image, shift)
        ),
    )
    settings = make_settings(160, eval_freq=0)
    settings = dataclasses.replace(
        settings,
        model=dataclasses.replace(
            settings.model, observation="rgb", observation_shape=(9, 64, 64), num_channels=1
        ),
        train=dataclasses.replace(
            settings.train, batch_size=2, updates_per_step=0.1, seed_steps=40
        ),
    )
    pixels = EnvironmentBatch([PixelEnvironment(PointMass())])
    end = online.train(settings, RunDirectory(tmp_path), online.Lanes(pixels, pixels), quiet=True)
    assert end.agent_steps == 80
    assert float(read_rows(tmp_path / "train.csv")[-1]["total_loss"]) > 0
    # The update shifts its images, first observations and later ones; acting does not.
    assert shifts == [(9, 64, 64)] * 2


@pytest.mark.parametrize("ratio, updates", [(0.25, 10), (1.0, 40), (2.0, 80)])
def test_updates_for_each_agent_step(ratio, updates):
    settings = make_settings(100)
    config = dataclasses.replace(settings.train, updates_per_step=ratio)
    learner = Learner(settings.model, config, jax.random.key(0))
    assert learner.updates_due(40) == 0  # nothing to learn from yet
    rng = np.random.default_rng(0)
    learner.replay.add(
        Episode(rng.normal(size=(21, 2)), np.zeros((20, 1)), np.zeros(20), np.zeros(20))
    )
    assert learner.updates_due(40) == updates


def test_unexpected_termination_is_explained(tmp_path):
    with pytest.raises(UserError, match="--episodic"):
        run(tmp_path, make_settings(360, eval_freq=0), terminates_after=9)


def test_videos(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    run(tmp_path, make_settings(80, video_freq=80))
    assert (tmp_path / "videos" / "step_000000000080.mp4").stat().st_size > 0


def test_divergence_ends_the_run_and_leaves_a_note(tmp_path, monkeypatch):
    settings = make_settings(400, eval_freq=0)
    take_metrics = Learner.take_metrics

    def poisoned(learner):
        if learner.updates_done >= 120:
            learner._metrics.append({k: v * jnp.nan for k, v in learner._metrics[-1].items()})
        return take_metrics(learner)

    monkeypatch.setattr(Learner, "take_metrics", poisoned)
    with pytest.raises(
        DivergenceError, match="step 240: update 120 has no finite .*state_000000000080"
    ):
        run(tmp_path, settings)
    note = json.loads((tmp_path / "diverged.json").read_text())
    assert note["step"] == 240 and note["last_good_state"].endswith("state_000000000080")


def test_metrics_that_are_not_finite_name_their_update():
    settings = make_settings(100)
    learner = Learner(settings.model, settings.train, jax.random.key(0), fused_updates=2)
    rng = np.random.default_rng(0)
    learner.replay.add(
        Episode(
            rng.normal(size=(21, 2)), rng.uniform(-1, 1, (20, 1)), np.full(20, np.nan), np.zeros(20)
        )
    )
    learner.catch_up(5)
    assert learner.updates_done == 4
    with pytest.raises(DivergenceError, match="update 1 has no finite .*reward_loss"):
        learner.take_metrics()
    assert learner.take_metrics() == {}


def test_collected_episodes_are_whole():
    environments = [PointMass(), PointMass(terminates_after=7)]
    collector = Collector(EnvironmentBatch(environments), seed=3, episodic=True)
    assert collector.first.all() and collector.episodes_under_way == 0
    episodes = []
    for k in range(21):
        before = collector.observation.copy()
        ended = collector.step(np.full((2, 1), 0.1 * (k % 5)))
        for episode in ended:
            np.testing.assert_array_equal(
                episode.observation[-2], before[int(len(episode.reward) == 7)]
            )
        episodes += ended
    assert [len(episode.reward) for episode in episodes] == [7, 7, EPISODE_LENGTH, 7]
    for episode in episodes:
        steps = len(episode.reward)
        assert episode.observation.shape == (steps + 1, 2)
        assert episode.terminated[-1] == (steps == 7) and not episode.terminated[:-1].any()


def test_episodes_start_from_numbered_seeds():
    whole, resumed = PointMass(), PointMass()
    collector = Collector(EnvironmentBatch([whole]), seed=3)
    for _ in range(2 * EPISODE_LENGTH):
        collector.step(np.zeros((1, 1)))
    assert collector.episodes_under_way == 2
    Collector(EnvironmentBatch([resumed]), seed=3, episodes_started=2)
    assert whole.seeds[2] == resumed.seeds[0]
    assert len(set(whole.seeds)) == 3


@pytest.mark.parametrize("use_planner", [True, False])
def test_exploring_actions(use_planner):
    settings = make_settings(100)
    params = Learner(settings.model, settings.train, jax.random.key(0)).params
    # Fresh value heads are zero: every sequence would be as good as any other.
    head = params["q"]["head"]
    head["kernel"] = jax.random.normal(jax.random.key(1), head["kernel"].shape)
    observation = jnp.zeros((3, 2))
    mean = jnp.full((3, 3, 1), 0.9)
    first = jnp.array([True, False, False])

    def act(mean, seed=0):
        return explore(
            settings.model,
            settings.planner,
            params,
            observation,
            mean,
            first,
            jax.random.key(seed),
            use_planner=use_planner,
        )

    action, new_mean = act(mean)
    assert action.shape == (3, 1) and (jnp.abs(action) <= 1).all()
    # Lanes draw for themselves, and other keys give other actions.
    assert len(set(action[:, 0].tolist())) == 3
    assert (action != act(mean, 1)[0]).any()
    again, without_start = act(jnp.zeros_like(mean))
    if use_planner:
        np.testing.assert_array_equal(without_start[0], new_mean[0])
        assert (without_start[1:] != new_mean[1:]).any()
    else:
        np.testing.assert_array_equal(again, action)
        np.testing.assert_array_equal(new_mean, mean)
