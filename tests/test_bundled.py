"""Weights that come with the package."""

import jax
import numpy as np
import pytest

import specmpc_jax as sm
from experiments.support import corrector_files
from specmpc_jax import bundled, checkpointing
from specmpc_jax.evaluation import variants


def names(directory):
    return sorted(entry.name for entry in directory.iterdir() if entry.is_dir())


@pytest.mark.parametrize("name", names(bundled.CORRECTORS))
def test_each_corrector_acts_for_the_teacher_of_its_name(name):
    agent = sm.load(f"bundled:{name.rpartition('-')[0]}")
    agent = agent.with_planner(num_samples=16, num_elites=4, num_pi_trajs=4, iterations=1)
    controller = agent.controller(3, f"bundled:{name}")
    # Else every step would bring them to the device anew.
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(controller.arrays))
    observation = np.ones(agent.config.observation_shape, np.float32)
    for outcome in (sm.Outcome.REPLAN, sm.Outcome.CORRECT, sm.Outcome.CORRECT):
        action, info = controller(observation)
        assert info.outcome == outcome and np.isfinite(action).all()


@pytest.mark.parametrize("directory", [bundled.TEACHERS, bundled.CORRECTORS])
def test_all_are_named_in_their_table_and_as_they_were_written(directory):
    said = (directory / "README.md").read_text(encoding="utf-8")
    assert names(directory) and all(f"| `{name}` |" in said for name in names(directory))
    for name in names(directory):
        assert checkpointing.load_metadata(directory / name)["kind"]


def test_binaries_find_them_by_the_teacher():
    agent = sm.load("bundled:walker-walk-1m")
    asked = [variants.parse(name) for name in ("baseline", "3_step_bc")]
    found = corrector_files.load_for("bundled:walker-walk-1m", agent, asked)
    assert [corrector.config.kind for corrector in found.values()] == ["bc"]
    with pytest.raises(sm.UserError, match="made for teacher"):
        corrector_files.load_for("bundled:cartpole-swingup-1m", agent, asked)


def test_what_there_is_is_said():
    with pytest.raises(sm.UserError, match="there is .*walker-walk-1m$"):
        sm.load("bundled:walker-wlk")
    with pytest.raises(sm.UserError, match="there is .*walker-walk-1m-bc"):
        sm.Corrector.load("bundled:walker-walk-1m")
