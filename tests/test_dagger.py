"""Aggregation rounds on a toy: resumed ones equal uninterrupted ones, the corrector drives."""

import dataclasses

import numpy as np
import pytest
from absl import flags

from experiments.support import corrector_training, dagger
from experiments.support.dagger import Aggregation, aggregate, rounds_directory
from models import ToyEnvironment, tiny_agent
from specmpc_jax.config import CorrectorConfig, CorrectorTrainConfig
from specmpc_jax.correctors.corrector import Corrector
from specmpc_jax.correctors.dataset import ARRAYS, CorrectorDataset
from specmpc_jax.envs import registry
from specmpc_jax.errors import UserError

AGENT = tiny_agent().with_planner(horizon=1)  # compiles in less time than longer ones
PLAN = Aggregation(
    task="toy",
    rounds=1,
    episodes=2,
    first_env_seed=7,
    num_envs=1,
    settings={
        "teacher": AGENT.fingerprint,
        "model_size": None,
        "exec_horizon": 2,
        "follow": "elite",
        "history_len": 2,
        "seed": 0,
    },
    config=CorrectorConfig(kind="two_tower", hidden_dim=8, num_layers=1, history_len=2),
    training=CorrectorTrainConfig(epochs=2, batch_size=16, held_out=0.5),
)


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.fixture(autouse=True)
def toy_environments(monkeypatch):
    """Environments by name are the toy; `kill_at[0]` resets later they end the process."""
    flags.FLAGS.mark_as_parsed()
    monkeypatch.setattr(flags.FLAGS["quiet"], "value", True)
    kill_at = [10**9]

    class Fragile(ToyEnvironment):
        def reset(self, seed=None):
            kill_at[0] -= 1
            if kill_at[0] < 0:
                raise Killed
            return super().reset(seed)

    monkeypatch.setattr(registry, "make", lambda task, observation: Fragile())
    return kill_at


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Where `test_rounds...` leaves its run for the others."""
    return tmp_path_factory.mktemp("whole") / "data.npz"


def whole_run(path):
    if not path.exists():
        aggregate(AGENT, PLAN, path)
    return aggregate(AGENT, PLAN, path)


def same(one, other):
    for name in ARRAYS:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_rounds_are_driven_by_the_corrector_of_the_round_before(uninterrupted):
    data, corrector, table = whole_run(uninterrupted)
    assert [row["driver"] for row in table] == ["the plan", "two_tower"]
    assert data.num_episodes == 4 and len(data) == 4 * 12
    np.testing.assert_array_equal(np.unique(data["round"]), [0, 1])
    rounds = data.metadata["rounds"]
    seeds = [seed for settings in rounds for seed in settings["env_seeds"]]
    assert seeds == list(range(7, 11))
    directory = rounds_directory(uninterrupted)
    drivers = [Corrector.load(str(directory / f"corrector_{r}_two_tower")) for r in range(2)]
    assert [settings["corrector"] for settings in rounds] == [None, drivers[0].fingerprint]
    assert drivers[1].fingerprint == corrector.fingerprint != drivers[0].fingerprint
    assert corrector.record["episodes"] == 4
    same(CorrectorDataset.load(uninterrupted), data)


@pytest.mark.parametrize("resets", [1, 3])
def test_a_killed_run_goes_on_and_ends_alike(tmp_path, uninterrupted, toy_environments, resets):
    whole, corrector, _ = whole_run(uninterrupted)
    path = tmp_path / "data.npz"
    toy_environments[0] = resets
    with pytest.raises(Killed):
        aggregate(AGENT, PLAN, path)
    assert not path.exists()
    toy_environments[0] = 10**9
    data, resumed, _ = aggregate(AGENT, PLAN, path)
    same(data, whole)
    assert resumed.fingerprint == corrector.fingerprint


def test_complete_rounds_are_not_run_again(uninterrupted, toy_environments, monkeypatch):
    _, corrector, _ = whole_run(uninterrupted)
    toy_environments[0] = 0  # any reset would end the process

    def train(*arguments):
        raise AssertionError("trained again")

    monkeypatch.setattr(corrector_training, "train_with_progress", train)
    _, again, _ = aggregate(AGENT, PLAN, uninterrupted)
    assert again.fingerprint == corrector.fingerprint


def test_a_corrector_is_trained_again_if_anything_it_depends_on_changed(uninterrupted):
    data, corrector, _ = whole_run(uninterrupted)
    path = rounds_directory(uninterrupted) / "corrector_1_two_tower"
    kept = corrector_training.trained_before(path, PLAN.config, PLAN.training, data)
    assert kept.fingerprint == corrector.fingerprint
    training = dataclasses.replace(PLAN.training, loss="huber")
    assert corrector_training.trained_before(path, PLAN.config, training, data) is None
    config = dataclasses.replace(PLAN.config, dropout=0.2)
    assert corrector_training.trained_before(path, config, PLAN.training, data) is None
    other = CorrectorDataset(data.arrays, {**data.metadata, "seed": 9})
    assert corrector_training.trained_before(path, PLAN.config, PLAN.training, other) is None


def test_rounds_of_other_settings_are_refused(uninterrupted, tmp_path):
    whole_run(uninterrupted)
    other = dataclasses.replace(PLAN, settings={**PLAN.settings, "seed": 1})
    with pytest.raises(UserError, match="another seed;.*_rounds"):
        aggregate(AGENT, other, uninterrupted)
    (tmp_path / "data.npz").write_bytes(b"")
    with pytest.raises(UserError, match="not by aggregation rounds"):
        aggregate(AGENT, PLAN, tmp_path / "data.npz")
    assert dagger.rounds_directory(tmp_path / "data.npz").exists() is False
