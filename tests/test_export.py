"""Exported controllers: the same numbers as the library's, and damage is noticed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import specmpc_jax as sm
from models import tiny_agent
from specmpc_jax import checkpointing
from specmpc_jax.checkpointing import named_leaves
from specmpc_jax.config import CorrectorConfig
from specmpc_jax.correctors import registry

ROOT = Path(__file__).parents[1]
AGENT = tiny_agent().with_planner(horizon=1)  # compiles in less time than longer ones
STEPS = 7


def tiny_corrector():
    config = CorrectorConfig(
        latent_dim=16, action_dim=2, hidden_dim=8, num_layers=1, history_len=2, dropout=0.0
    )
    params = registry.init(config, jax.random.key(4))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: x + 0.2 * rng.normal(size=x.shape).astype(np.float32), params)
    return sm.Corrector(config, params, AGENT.fingerprint, {})


def observations(batch_size):
    shape = (STEPS, 4) if batch_size is None else (STEPS, batch_size, 4)
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def same(ours, theirs):
    """Compares an exported dict with the library's tree.

    Numbers up to rounding: some versions of JAX compile exported programs in another way.
    """
    expected = dict(named_leaves(ours))
    assert expected.keys() == theirs.keys()
    for name, leaf in expected.items():
        other = theirs[name]
        assert leaf.dtype == other.dtype, name
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf, other = jax.random.key_data(leaf), jax.random.key_data(other)
        if jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating):
            np.testing.assert_allclose(leaf, other, rtol=1e-4, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(leaf, other, err_msg=name)


@pytest.fixture(scope="module")
def controller():
    """A controller whose steps on `observations` have all three outcomes."""
    return AGENT.controller(3, tiny_corrector(), tau_accept=1.2, tau_replan=1.4)


@pytest.fixture(scope="module")
def directory(controller, tmp_path_factory):
    """`controller`, exported for one environment."""
    path = tmp_path_factory.mktemp("export") / "single"
    sm.export_controller(controller, path, record={"by": "test"})
    return path


@pytest.fixture(scope="module")
def exported(directory):
    return sm.load_exported(directory)


def acts_alike(controller, exported, batch_size):
    """Runs both side by side; returns the outcomes seen."""
    key = jax.random.key(7)
    ours, theirs = controller.initial_state(key, batch_size), exported.initial_state(key)
    same(ours, theirs)
    outcomes = set()
    for observation in observations(batch_size):
        action, ours, info = controller.act(observation, ours)
        other, theirs, told = exported.act(observation, theirs)
        np.testing.assert_allclose(action, other, rtol=1e-4, atol=1e-5)
        same(ours, theirs)
        same(info, told)
        outcomes |= set(np.atleast_1d(info.outcome).tolist())
    return outcomes


def test_exported_steps_are_the_librarys(controller, exported):
    assert exported.batch_size is None
    assert acts_alike(controller, exported, None) == set(sm.Outcome)


@pytest.mark.parametrize("name", ["refine", "prior"])
def test_the_manifest_names_what_learns_nothing(name, tmp_path):
    sm.export_controller(AGENT.controller(3, name), tmp_path / name, platforms=["cpu"])
    assert json.loads((tmp_path / name / "manifest.json").read_text())["corrector"]["kind"] == name
    loaded = sm.load_exported(tmp_path / name)
    assert acts_alike(AGENT.controller(3, name), loaded, None) == {
        sm.Outcome.CORRECT,
        sm.Outcome.REPLAN,
    }


def test_so_are_batches_without_a_corrector(tmp_path):
    controller = AGENT.controller(3, tau_replan=1.4)
    sm.export_controller(controller, tmp_path / "batch", 2, platforms=["cpu"])
    exported = sm.load_exported(tmp_path / "batch")
    assert exported.batch_size == 2
    assert acts_alike(controller, exported, 2) == {sm.Outcome.ACCEPT, sm.Outcome.REPLAN}


def test_the_exported_planner_is_the_steps(exported):
    key, observation = jax.random.key(2), observations(None)[0]
    action, state, _ = exported.act(observation, exported.initial_state(key))
    first = jax.random.fold_in(jax.random.fold_in(key, 0), 0)  # the executor's key of a plan
    plan = exported.plan(observation, np.zeros((1, 2), np.float32), first)
    # Two programs, so rounding may differ.
    np.testing.assert_allclose(plan["action"], action, rtol=1e-4, atol=1e-5)
    for name in ("mean", "std", "value"):
        np.testing.assert_allclose(plan[name], state[f"block/{name}"], rtol=1e-4, atol=1e-5)


def test_the_manifest_describes_the_programs(directory):
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["teacher"] == AGENT.fingerprint and manifest["record"] == {"by": "test"}
    assert manifest["platforms"] == ["cpu", "cuda"]
    assert manifest["jax_version"] == jax.__version__
    step = manifest["programs"]["step"]
    assert step["inputs"]["observation"] == {"shape": [4], "dtype": "float32"}
    assert step["outputs"]["action"] == {"shape": [2], "dtype": "float32"}
    assert step["inputs"]["state"] == step["outputs"]["state"]
    with np.load(directory / "arrays.npz", allow_pickle=False) as archive:
        assert {name: list(archive[name].shape) for name in archive} == {
            name: entry["shape"] for name, entry in manifest["arrays"].items()
        }
        # What only training reads stays out.
        assert not any(name.startswith("params/q") for name in archive)


def test_policies_and_tasks_are_exported_too(tmp_path):
    agent = tiny_agent(task_dim=8, tasks=("a", "b"), action_dims=(2, 1))
    controller = agent.controller(use_planner=False, task="b")
    manifest = sm.export_controller(controller, tmp_path / "policy", platforms=["cpu"])
    assert manifest["task"] == "b" and "plan" not in manifest["programs"]
    exported = sm.load_exported(tmp_path / "policy")
    observation, key = observations(None)[0], jax.random.key(0)
    action, _, _ = controller.act(observation, controller.initial_state(key))
    other, state, _ = exported.act(observation, exported.initial_state(key))
    np.testing.assert_array_equal(action, other)
    with pytest.raises(sm.UserError, match="no planner"):
        exported.plan(observation, state["block/mean"], key)
    with pytest.raises(sm.UserError, match=r"exported for \(4,\)"):
        exported.act(np.zeros(5), state)


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def change(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda d: cut(d / "step.stablehlo"), "step.stablehlo is not as it was exported"),
        (lambda d: cut(d / "arrays.npz"), "arrays.npz is not as it was exported"),
        (lambda d: (d / "plan.stablehlo").unlink(), "plan.stablehlo is missing"),
        (lambda d: (d / "manifest.json").unlink(), "no manifest.json"),
        (lambda d: cut(d / "manifest.json"), "not valid JSON"),
        (lambda d: change(d / "manifest.json", kind="corrector"), "of another kind"),
        (lambda d: change(d / "manifest.json", format=99), "format 99"),
        (lambda d: change(d / "manifest.json", programs=None), "damaged manifest.json"),
        (lambda d: change(d / "manifest.json", platforms=["cuda"]), "JAX runs on cpu"),
        (lambda d: shutil.rmtree(d), "there is no"),
    ],
)
def test_damaged_and_foreign_directories_get_one_line(directory, tmp_path, damage, said):
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    damage(copy)
    with pytest.raises(sm.UserError, match=said) as raised:
        sm.load_exported(copy)
    assert "\n" not in str(raised.value)


def test_programs_of_another_jax_get_one_line(directory, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    program = copy / "step.stablehlo"
    program.write_bytes(b"\x20\0\0\0" + bytes(60))
    manifest = json.loads((copy / "manifest.json").read_text())
    checksums = {**manifest["checksums"], program.name: checkpointing.file_sha256(program)}
    change(copy / "manifest.json", checksums=checksums, jax_version="9.9.9")
    with pytest.raises(sm.UserError, match=r"JAX 9.9.9.*export again"):
        sm.load_exported(copy)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"platforms": ["cpu", "gpu"]}, "got gpu"),
        ({"platforms": []}, "got none"),
        ({"batch_size": 0}, "at least 1"),
        ({"path": ROOT}, "exists already"),
    ],
)
def test_impossible_exports_are_refused(tmp_path, options, said):
    with pytest.raises(sm.UserError, match=said):
        sm.export_controller(AGENT.controller(), **{"path": tmp_path / "none", **options})
    assert not list(tmp_path.iterdir())


def test_an_export_may_be_replaced(tmp_path):
    policy = AGENT.controller(use_planner=False)
    for batch_size in (None, 3):
        sm.export_controller(policy, tmp_path / "it", batch_size, ["cpu"], overwrite=True)
    assert sm.load_exported(tmp_path / "it").batch_size == 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["it"]


def test_binary_and_example(tmp_path):
    """Exports as a user does, and controls with nothing but JAX, NumPy and dm_control."""
    pytest.importorskip("dm_control", reason="the example controls a task of the suite")
    task = "cartpole-balance"
    agent = tiny_agent(action_dim=1, observation_shape=(5,), tasks=(task,), episode_lengths=(500,))
    checkpointing.save_model(tmp_path / "teacher", agent.params, agent.config)

    def run(*arguments):
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
        }
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, env=environment
        )

    export = [
        "-m", "experiments.export_controller", f"--task={task}", "--checkpoint=teacher",
        "--exec_horizon=2", "--num_samples=8", "--num_elites=2", "--num_pi_trajs=2",
        "--iterations=1", "--output=exported", "--device=cpu", "--quiet",
    ]  # fmt: skip
    result = run(*export)
    assert result.returncode == 0, result.stderr
    assert "step.stablehlo" in result.stdout

    example = (ROOT / "docs" / "examples" / "control_exported.py").read_text()
    guard = "import sys\nsys.modules['specmpc_jax'] = sys.modules['flax'] = None\n"
    (tmp_path / "example.py").write_text(guard + example)
    result = run("example.py", "exported", "--steps=6")
    assert result.returncode == 0, result.stderr
    assert "3 accepted, 0 corrected, 3 planned" in result.stdout
