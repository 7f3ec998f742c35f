"""The documents' commands and Python blocks run, in their order, with settings made tiny."""

import os
import subprocess
import sys

import pytest

import documents
from documents import ROOT

pytestmark = pytest.mark.slow

_PLANNER = ("--num_samples=16", "--num_elites=4", "--num_pi_trajs=2", "--iterations=1")
# Put behind a command's own flags, which they replace.
TINY = {
    "experiments.benchmark_planning": ("--repeats=1", "--time_budget_s=0", "--num_samples=32"),
    "experiments.benchmark_realtime": (
        *("--periods_ms=200", "--modes=every_step,blocks", "--episodes=1", "--max_steps=5"),
        *_PLANNER,
    ),
    "experiments.benchmark_training": (
        *("--sizes=1", "--repeats=1", "--step_repeats=0", "--implementations=jax"),
        "--batch_sizes=8",
    ),
    "experiments.collect_corrector_data": ("--episodes=2", *_PLANNER),
    "experiments.eval_corrector": ("--episodes=2", *_PLANNER),
    "experiments.evaluate": ("--eval_episodes=2", *_PLANNER),
    "experiments.export_controller": ("--platforms=cpu", *_PLANNER),
    "experiments.soak": ("--minutes=0.1", "--interval_s=2", "--memory_limit_mb=500", *_PLANNER),
    "experiments.train": (
        *("--steps=1000", "--seed_steps=490", "--updates_per_step=0.01", "--batch_size=4"),
        *("--eval_freq=500", "--eval_episodes=1", *_PLANNER),
    ),
    "experiments.train_corrector": ("--epochs=1", "--hidden_dim=16"),
}
# What tests of their own run: too long, or on files that nobody has downloaded here.
APART = (
    "experiments.demo",
    "experiments.train_parallel",
    "experiments.convert_dataset",
    "experiments.train_offline",
    "experiments.benchmark_parallel",
    "converters.import_corrector",
)
# The other pages' commands are these with more flags, or need hours, devices or simulators.
PAGES = (
    "README",
    *("docs/getting_started", "docs/binaries", "docs/deployment", "docs/migrating"),
    *("docs/realtime", "docs/reproducing", "docs/robustness", "docs/speculation"),
)


@pytest.fixture
def workplace(tmp_path):
    """A directory that looks like a checkout, with the released files already downloaded."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    released = tmp_path / "tdmpc2_pretrained"
    teacher = ROOT / "specmpc_jax" / "teachers" / "walker-walk-1m"
    arguments = (f"--checkpoint={teacher}", f"--output={released}/walker-walk-1.pt", "--to_torch")
    run(("python", "-m", "converters.convert", *arguments), tmp_path)
    (released / "mt30-5M.pt").touch()
    (tmp_path / "walker-walk-1.pt").symlink_to(released / "walker-walk-1.pt")
    return tmp_path


def run(arguments, directory):
    command = [sys.executable, *arguments[1:]]
    # Compiled without optimising: these programs compile far longer than they run.
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_PLATFORMS": "cpu",
    }
    result = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f"{' '.join(arguments)}\n{result.stdout}{result.stderr}"
    return result.stdout


@pytest.mark.parametrize("name", PAGES)
def test_commands_run_in_their_order(name, workplace):
    pytest.importorskip("torch", reason="official checkpoints are torch files")
    page = ROOT / f"{name}.md"
    ran = 0
    for command in documents.commands(page):
        if command.module in APART:
            continue
        run((*command.arguments, *TINY.get(command.module, ())), workplace)
        ran += 1
    assert ran >= 1
    blocks = documents.python_blocks(page)
    if blocks:  # which may build on each other
        run(("python", "-c", "\n".join(blocks)), workplace)


def test_demo(tmp_path):
    said = run(("python", "-m", "experiments.demo", "--quick", "--episodes=1"), tmp_path)
    assert "3_step_corrector" in said and "5_step_bc" in said
    assert (tmp_path / "demo_output" / "summary.csv").is_file()
