"""Data, correctors and comparison for every size of teacher in a directory, as a user runs them."""

import csv
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import documents
from specmpc_jax import checkpointing
from specmpc_jax.config import MODEL_SIZES, model_config
from specmpc_jax.world_model import WorldModel

pytestmark = pytest.mark.slow

TASK = "--task=cup-catch"
PLANNER = ("--num_samples=8", "--num_elites=2", "--num_pi_trajs=2", "--iterations=1")
SIZES = (1, 5)


@pytest.fixture
def teachers(tmp_path):
    """Teachers of random weights in two published sizes."""
    for size in SIZES:
        config = model_config(size, action_dim=2, observation_shape=(8,), tasks=("cup-catch",))
        params = jax.jit(WorldModel(config).init)(jax.random.key(size))
        checkpointing.save_model(tmp_path / "teachers" / f"cup-catch-{size}m", params, config)
    return "--model_dir=teachers"


def run(directory, module, *flags):
    result = subprocess.run(
        [sys.executable, "-m", f"experiments.{module}", *flags, "--quiet"],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": str(documents.ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_every_size_from_data_to_the_table(teachers, tmp_path):
    collect = ("collect_corrector_data", TASK, teachers, "--all_model_sizes", "--episodes=2")
    run(tmp_path, *collect, *PLANNER)
    said = run(tmp_path, *collect, *PLANNER)
    assert all(f"{size}M is complete, skipped" in said for size in SIZES)
    for size in SIZES:
        with np.load(tmp_path / "data" / f"corrector_data_{size}m.npz") as data:
            assert data["z_real"].shape[1] == MODEL_SIZES[size]["latent_dim"]

    run(tmp_path, "train_corrector", "--model_size=all", "--corrector_type=bc", "--epochs=2")
    variants = ("--variants=baseline,3_step_bc", "--episodes=2")
    said = run(tmp_path, "eval_corrector", TASK, teachers, "--all_model_sizes", *variants, *PLANNER)
    with open(tmp_path / "results" / "cup-catch" / "summary.csv") as file:
        rows = [(int(row["model_size"]), row["variant"]) for row in csv.DictReader(file)]
    assert sorted(rows) == [(s, v) for s in SIZES for v in ("3_step_bc", "baseline")]
    assert all(f"cup-catch-{size}m" in said for size in SIZES)
    run(tmp_path, "plot_corrector_eval", "--results_csv=results/cup-catch/summary.csv")
