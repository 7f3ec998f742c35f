"""`python -m converters.convert` from the outside: files in, files out, one line on mistakes."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import golden_data
from specmpc_jax import checkpointing
from specmpc_jax.tasks import task_set

torch = pytest.importorskip("torch")

from converters import load_torch, torch_reader  # noqa: E402

ROOT = Path(__file__).parents[1]
Q_ENSEMBLES = ("_Qs.params", "_detach_Qs_params", "_target_Qs_params")


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


def filled_checkpoint(shared, path, case="mt_tiny", **dims):
    """Writes a checkpoint with the keys of a golden case and other dimensions.

    Weights are filled as those of the golden cases are (`golden/tools/fill.py`).
    """
    spec = importlib.util.spec_from_file_location("fill", shared / "golden" / "tools" / "fill.py")
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    meta = golden_data.load(case).meta
    old = meta["cfg"]
    names = ("enc_dim", "mlp_dim", "latent_dim", "task_dim", "num_q")
    sizes = {old[name]: dims[name] for name in names}
    assert len(sizes) == len(names), "sizes of the golden case are told apart by their values"
    action_dims = dims["action_dims"]
    latent, task, action = (dims[name] for name in ("latent_dim", "task_dim", "action_dim"))
    inputs = {
        "_encoder.state.0.weight": dims["observation_dim"] + task,
        "_pi.0.weight": latent + task,
        "_dynamics.0.weight": latent + task + action,
        "_reward.0.weight": latent + task + action,
        **{f"{q}.0.weight": latent + task + action for q in Q_ENSEMBLES},
    }
    state_dict = {}
    for key, entry in meta["state_dict"].items():
        if entry.get("non_tensor", "").startswith("torch.Size"):
            state_dict[key] = torch.Size([dims["num_q"]])
        elif "non_tensor" in entry:
            state_dict[key] = None
        elif key.startswith("log_std"):
            state_dict[key] = torch.tensor(-10 if key == "log_std_min" else 12)
        elif key == "_action_masks":
            used = torch.arange(action) < torch.tensor(action_dims)[:, None]
            state_dict[key] = used.float()
        else:
            shape = [sizes.get(n, n) for n in entry["shape"]]
            if key == "_task_emb.weight":
                shape = [len(action_dims), task]
            elif key.startswith("_pi.2"):
                shape[0] = 2 * action
            if key in inputs:
                shape[-1] = inputs[key]
            state_dict[key] = torch.from_numpy(fill.fill(meta["weight_seed"], key, tuple(shape)))
    torch.save({"model": state_dict}, path)


@pytest.mark.slow
@pytest.mark.parametrize("name, task_dim", [("mt30", 64), ("mt80", 96)])
def test_a_released_multitask_file_of_5m(name, task_dim, shared, tmp_path):
    tasks = task_set(name)
    path = tmp_path / f"{name}-5M.pt"
    filled_checkpoint(
        shared,
        path,
        enc_dim=256,
        mlp_dim=512,
        latent_dim=512,
        num_q=5,
        task_dim=task_dim,
        observation_dim=max(tasks.observation_dims),
        action_dim=max(tasks.action_dims),
        action_dims=tasks.action_dims,
    )
    result = convert(f"--checkpoint={path}", f"--output={tmp_path / 'teacher'}", "--model_size=5")
    assert (result.returncode, result.stderr) == (0, "")
    for said in ("5M", f"{len(tasks)}: walker-stand, …", f"task dim        {task_dim}"):
        assert said in result.stdout
    saved = checkpointing.load_model(tmp_path / "teacher")
    assert saved.config.tasks == tasks.names and saved.config.model_size == 5
    assert set(saved.metadata["parity"]) >= {"encoder", "q", "target_q", "task_embedding"}
    assert max(saved.metadata["parity"].values()) < 1e-4
