"""One multi-task teacher through the binaries: on all of its tasks, and on one of them."""

import csv
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import small_set
from models import tiny_agent
from specmpc_jax import checkpointing
from specmpc_jax.correctors.dataset import CorrectorDataset
from specmpc_jax.envs.multitask import make_batch_for, make_for, spec_for
from specmpc_jax.errors import UserError
from specmpc_jax.evaluation.statistics import normalised_score

PROGRAM = Path(small_set.__file__)
NARROW, WIDE = small_set.SET.names
PLANNER = ("--num_samples=8", "--num_elites=2", "--num_pi_trajs=2", "--iterations=1", "--quiet")


def make_teacher():
    return tiny_agent(
        observation_shape=(5,),
        action_dim=2,
        task_dim=4,
        tasks=small_set.SET.names,
        action_dims=small_set.SET.action_dims,
        observation_dims=small_set.SET.observation_dims,
        episode_lengths=small_set.SET.episode_lengths,
    )


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    directory = tmp_path_factory.mktemp("multitask")
    teacher = make_teacher()
    checkpointing.save_model(directory / "teachers" / "both", teacher.params, teacher.config)
    return directory


def run(module, *arguments, cwd, status=0):
    command = [sys.executable, str(PROGRAM), module, "--device=cpu", *arguments]
    environment = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout if status == 0 else result.stderr


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_narrow_tasks_are_padded_and_their_actions_cut():
    model = make_teacher().config
    environment, plain = make_for(model, NARROW), small_set.Narrow(NARROW)
    assert spec_for(model, NARROW).observation_shape == (5,) and environment.spec.action_dim == 2
    observation = environment.reset(3)
    np.testing.assert_array_equal(observation, [*plain.reset(3), 0, 0])
    stepped = environment.step(np.array([0.5, 0.9], np.float32)).observation
    np.testing.assert_array_equal(stepped, [*plain.step(np.array([0.5])).observation, 0, 0])
    with pytest.raises(UserError, match=r"shape \(1,\); this model's have \(2,\)"):
        environment.step(np.zeros(1))
    with make_batch_for(model, WIDE, 2) as batch:
        assert batch.reset([0, 1]).shape == (2, 5)


def test_tasks_that_do_not_fit_a_model_are_refused():
    narrow = tiny_agent(observation_shape=(3,), action_dim=1, tasks=(NARROW,)).config
    with pytest.raises(UserError, match="trained on observations \\(3,\\) and actions \\(1,\\)"):
        make_for(narrow, WIDE)
    model = dataclasses.replace(make_teacher().config, observation_shape=(4,))
    with pytest.raises(UserError, match="has 5 observation and 2 action dimensions; the model"):
        make_for(model, WIDE)


@pytest.mark.parametrize("task", [0, 1])
def test_unused_action_dimensions_stay_zero(task):
    teacher = make_teacher()
    name = small_set.SET.names[task]
    state = teacher.initial_state(jax.random.key(0))
    observation = make_for(teacher.config, name).reset(0)
    action, state, _ = teacher.act(observation, state, task=name)
    used = small_set.SET.action_dims[task]
    assert np.all(np.asarray(action)[:used] != 0) and np.all(np.asarray(action)[used:] == 0)


def test_scores_are_a_tenth_of_the_return_or_the_success():
    assert normalised_score("walker-walk", 500.0, None) == 50.0
    assert normalised_score("mw-reach", 500.0, 0.25) == 25.0


def test_evaluation_of_a_set_and_of_one_task(workplace):
    evaluate = ("experiments.evaluate", "--model_dir=teachers", "--eval_episodes=2", *PLANNER)
    said = run(*evaluate, "--task=small", "--output=small.json", cwd=workplace)
    # Rewards are 1 and 2 a step: returns of 10 and 20.
    assert "normalised score 1.50" in said and "success 1.00" in said
    result = json.loads((workplace / "small.json").read_text())
    assert result["tasks"][NARROW]["returns"] == [10, 10]
    assert result["tasks"][NARROW]["success_rate"] is None
    assert result["tasks"][WIDE]["mean"] == 20 and result["tasks"][WIDE]["success_rate"] == 1
    assert result["normalised_score"] == 1.5

    # What is complete is kept; other settings start from nothing.
    result["tasks"][NARROW]["mean"] = 100
    del result["tasks"][WIDE]
    (workplace / "small.json").write_text(json.dumps(result))
    said = run(*evaluate, "--task=small", "--output=small.json", cwd=workplace)
    assert "normalised score 6.00" in said

    said = run(*evaluate, f"--task={WIDE}", "--output=wide.json", cwd=workplace)
    assert "return 20.0" in said and "success rate 1.00" in said
    said = run(*evaluate, "--task=mt30", "--checkpoint=teachers/both", cwd=workplace, status=1)
    assert "was trained on 2 tasks (small_set:Narrow, …), not on the set mt30" in said


@pytest.mark.slow
def test_correctors_of_a_set(workplace):
    teacher = ("--model_dir=teachers", *PLANNER)
    collect = ("experiments.collect_corrector_data", *teacher, "--episodes=2")
    said = run(*collect, "--task=small", cwd=workplace)
    assert "40 steps of 4 episodes" in said and "return while collecting 15.0" in said
    path = workplace / "data" / "corrector_data_custom.npz"
    assert {p.name for p in path.parent.iterdir()} == {path.name, f"{path.stem}.run.json"}
    data = CorrectorDataset.load(path)
    assert data.metadata["task"] == "small"
    assert data["task"].tolist() == [0] * 20 + [1] * 20
    for name in ("a_plan", "a_teacher"):
        assert (data[name][:20, 1] == 0).all() and (data[name][20:] != 0).any(axis=0).all()

    run("experiments.train_corrector", "--corrector_type=two_tower", "--epochs=2",
        "--hidden_dim=8", "--quiet", cwd=workplace)  # fmt: skip
    compare = ("experiments.eval_corrector", *teacher, "--episodes=2",
               "--variants=baseline,2_step_corrector")  # fmt: skip
    said = run(*compare, "--task=small", cwd=workplace)
    assert "normalised score" in said and NARROW in said
    summary = rows(workplace / "results" / "small" / "summary.csv")
    found = {(row["task"], row["variant"]): float(row["mean_return"]) for row in summary}
    assert found == {
        (task, variant): gained
        for task, gained in ((NARROW, 10), (WIDE, 20))
        for variant in ("baseline", "2_step_corrector")
    }
    assert {row["success_rate"] for row in summary} == {"", "1.0"}
    run(*compare, f"--task={NARROW}", cwd=workplace)
    one = rows(workplace / "results" / NARROW / "summary.csv")
    assert {row["corrected_per_step"] for row in one} == {"0.0", "0.5"}
