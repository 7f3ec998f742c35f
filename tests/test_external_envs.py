"""Environments of the user's own, by the example of docs/environments.md."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from specmpc_jax import envs
from specmpc_jax.envs import dm_control, gymnasium_tasks
from specmpc_jax.errors import UserError

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "environments.md").read_text(encoding="utf-8")
TASK = "rail:Cart"


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """A directory to import from, with the page's example in it."""
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "rail.py").write_text(example)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def _rewards(environment, count=100):
    transitions = [environment.step(np.array([0.1], np.float32)) for _ in range(count)]
    assert [t.truncated for t in transitions] == [False] * (count - 1) + [count == 100]
    return [t.reward for t in transitions]


def test_the_example_of_the_page_keeps_the_protocol(modules):
    environment = envs.make(TASK)
    assert environment.spec.task == TASK
    first = environment.reset(3)
    assert first.dtype == np.float32 and first.shape == environment.spec.observation_shape
    rewards = _rewards(environment)
    assert not np.array_equal(environment.reset(), first)
    np.testing.assert_array_equal(environment.reset(3), first)
    assert _rewards(environment) == rewards
    with pytest.raises(UserError, match="after reset"):
        environment.step(np.zeros(1))
    environment.reset(3)
    beyond = environment.step(np.full(1, 7.0)).observation
    environment.reset(3)
    np.testing.assert_array_equal(beyond, environment.step(np.ones(1)).observation)
    for action in (np.zeros(2), np.full(1, np.nan)):
        with pytest.raises(UserError, match="one finite force"):
            environment.step(action)


def test_batches_pictures_and_options_work_as_for_any_task(modules):
    with envs.make_batch(TASK, num_envs=2, action_repeat=1) as batch:
        assert batch.spec.action_repeat == 1
        observation = batch.reset([0, 1])
        assert observation.shape == (2, 2) and not np.array_equal(*observation)
        assert batch.step(np.ones((2, 1))).reward.shape == (2,)
    pixels = envs.make(TASK, observation="rgb")
    frames = pixels.reset(0)
    assert frames.shape == pixels.spec.observation_shape == (9, 64, 64)
    assert 0 in frames and 255 in frames


@pytest.mark.parametrize(
    "task, message",
    [
        ("nowhere:Cart", "there is no module 'nowhere'"),
        ("rail.inner:Cart", "there is no module 'rail.inner'"),
        (":Cart", "there is no module ''"),
        (".rail:Cart", "there is no module '.rail'"),
        ("rail:Kart", "module 'rail' has no class or function 'Kart'"),
        ("rail:", "has no class or function ''"),
        ("rail:__doc__", "has no class or function '__doc__'"),
        ("builtins:print", "its spec must be an EnvironmentSpec"),
        ("wrong:renamed", "whose task is 'cart'; it must be 'wrong:renamed'"),
    ],
)
def test_mistakes_are_named(modules, task, message):
    (modules / "wrong.py").write_text("import rail\ndef renamed(task): return rail.Cart('cart')\n")
    with pytest.raises(UserError, match=re.escape(message)):
        envs.make(task)


def test_options_that_a_factory_does_not_take_are_named(modules):
    with pytest.raises(UserError, match=r"called with \(task, speed=2\): .*'speed'"):
        envs.make(TASK, speed=2)


def test_a_module_that_fails_itself_says_so_itself(modules):
    (modules / "failing.py").write_text("import a_module_that_is_not_there\n")
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        envs.make("failing:Cart")


def test_the_page_lists_every_task():
    suite = PAGE[: PAGE.index("### Other simulators")]
    rows = re.findall(r"^\| ([a-z-]+) \| ([^|]+)\|([^|]*)\|$", suite, re.MULTILINE)
    listed = [
        f"{domain}-{task.strip()}"
        for domain, *columns in rows
        for column in columns
        for task in column.split(",")
        if domain != "domain" and task.strip()
    ]
    assert sorted(listed) == sorted(dm_control.task_names())
    for name in gymnasium_tasks.task_names():
        assert re.search(rf"^\|[^|]*\b{name}\b[^|]*\|.*\|$", PAGE, re.MULTILINE), name


def _train(modules, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments.train", *arguments, f"--logs_dir={modules}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(modules)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_binaries_look_for_the_name(modules):
    result = _train(modules, "--task=rail:Kart")
    assert result.returncode == 1
    assert result.stderr.startswith("error: task 'rail:Kart': module 'rail' has no class")
    assert result.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_example_can_be_trained_on(modules):
    result = _train(
        modules,
        *(f"--task={TASK}", "--model_size=1", "--steps=400", "--seed_steps=198"),
        *("--updates_per_step=0.01", "--batch_size=4", "--num_samples=16", "--num_elites=4"),
        *("--num_pi_trajs=2", "--iterations=1", "--eval_freq=0", "--quiet"),
    )
    assert result.returncode == 0, result.stderr
    assert (modules / TASK / "0" / "default" / "checkpoints" / "last").is_dir()
