"""`python -m converters.convert` from the outside: files in, files out, one line on mistakes."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import golden_data
from specmpc_jax import checkpointing

torch = pytest.importorskip("torch")

from converters import load_torch, torch_reader  # noqa: E402

ROOT = Path(__file__).parents[1]


def convert(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "converters.convert", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )


def checkpoint_path(case):
    return golden_data.golden_dir(case) / "checkpoint.pt"


def test_there_and_back(tmp_path):
    source, teacher = checkpoint_path("legacy_mt_tiny"), tmp_path / "teacher"
    result = convert(
        f"--checkpoint={source}",
        f"--output={teacher}",
        "--task=a,b,c,d",
        "--action_dims=1,2,3,4",
        "--episode_length=25,100,500,1000",
    )
    assert (result.returncode, result.stderr) == (0, "")
    sha256 = torch_reader.file_sha256(source)
    for said in (sha256, "flat-Q", "30,364", "largest difference", "task_embedding", "state, 10"):
        assert said in result.stdout

    saved = checkpointing.load_model(teacher)
    expected, config = load_torch(
        checkpoint_path("mt_tiny"), task="a,b,c,d", episode_lengths=[25, 100, 500, 1000]
    )
    assert saved.config == config
    assert saved.metadata["sha256"] == sha256
    assert max(saved.metadata["parity"].values()) < 1e-4
    jax.tree.map(np.testing.assert_array_equal, saved.params, expected)

    back = tmp_path / "back.pt"
    result = convert(f"--checkpoint={teacher}", f"--output={back}", "--to_torch", "--noverify")
    assert (result.returncode, result.stderr) == (0, "")
    assert "largest difference" not in result.stdout
    before = torch_reader.read(checkpoint_path("mt_tiny")).state_dict
    after = torch_reader.read(back).state_dict
    assert set(before) == set(after)
    for key, value in before.items():
        same = torch.equal(after[key], value) if torch.is_tensor(value) else after[key] == value
        assert same, key
    assert sorted(os.listdir(tmp_path)) == ["back.pt", "teacher"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint={single}", "--output={new}", "--model_size=5"], "weights show"),
        (["--checkpoint={truncated}", "--output={new}"], "truncated"),
        (["--checkpoint={single}", "--output={taken}"], "exists already"),
        (["--checkpoint={single}", "--output={new}", "--action_dims=four"], "whole numbers"),
        (["--checkpont={single}"], "nearest are: checkpoint"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(arguments, message, tmp_path):
    content = checkpoint_path("single_tiny").read_bytes()
    (tmp_path / "truncated.pt").write_bytes(content[:-1000])
    (tmp_path / "taken").mkdir()
    places = dict(
        single=checkpoint_path("single_tiny"),
        truncated=tmp_path / "truncated.pt",
        taken=tmp_path / "taken",
        new=tmp_path / "new",
    )
    result = convert(*(argument.format(**places) for argument in arguments))
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1 and message in result.stderr
    assert sorted(os.listdir(tmp_path)) == ["taken", "truncated.pt"]
    assert not list((tmp_path / "taken").iterdir())
