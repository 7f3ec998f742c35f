"""One run in one place; manifests that lead elsewhere; disks that are full or read-only."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import specmpc_jax as sm
from specmpc_jax import checkpointing, files
from specmpc_jax.errors import UserError
from specmpc_jax.learning.run_directory import RunDirectory

ROOT = Path(__file__).parents[1]


def other_process(code, *arguments):
    """A Python process that says "ready" when `code` has got so far."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


HOLD = """
import sys
from specmpc_jax import files
with files.sole_user(sys.argv[1]):
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("name", ["directory", "file.npz"])
def test_a_second_process_is_refused_until_the_first_ends(tmp_path, name):
    place = tmp_path / name
    if name == "directory":
        place.mkdir()
    process = other_process(HOLD, place)
    try:
        with pytest.raises(UserError, match=f"another run is writing .*{name}"):
            with files.sole_user(place):
                pass
        if name == "directory":
            with pytest.raises(UserError, match="another run"):
                RunDirectory(place).start({}, {}, resume=False)
            assert not (place / "config.json").exists()
    finally:
        process.kill()  # no chance to tidy up
        process.wait()
        process.stdin.close()
        process.stdout.close()
    with files.sole_user(place):
        with files.sole_user(place):  # the same process is not in its own way
            pass
    assert [entry.name for entry in tmp_path.rglob("*")] == ["directory"] * place.is_dir()


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "a/../../b",
        "/etc/passwd",
        "a//b",
        "",
        "..",
        ".",
        "C:x",
        "a\\b",
        "a\nb",
        3,
        None,
    ],
)
def test_names_that_could_lead_elsewhere_are_refused(tmp_path, name):
    with pytest.raises(UserError, match="no plain relative path"):
        files.inside(tmp_path, name)


def test_plain_names_are_taken(tmp_path):
    assert files.inside(tmp_path, "d/0a_b-c.npz") == tmp_path / "d" / "0a_b-c.npz"
    assert files.inside(tmp_path, ".hidden..x") == tmp_path / ".hidden..x"


def test_a_checkpoint_reads_nothing_beside_itself(tmp_path):
    checkpointing.save_tree(tmp_path / "tree", {"a": np.zeros(2)}, {"kind": "none"})
    (tmp_path / "secret").write_text("s")
    path = tmp_path / "tree" / "checksums.json"
    checksum = checkpointing.file_sha256(tmp_path / "secret")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"../secret": checksum}))
    with pytest.raises(UserError, match=r"'\.\./secret'"):
        checkpointing.load_metadata(tmp_path / "tree")


def test_an_export_reads_nothing_beside_itself(tmp_path):
    exported = tmp_path / "exported"
    exported.mkdir()
    (tmp_path / "evil.stablehlo").write_bytes(b"program")
    np.savez(exported / "arrays.npz")
    checksums = {
        "arrays.npz": checkpointing.file_sha256(exported / "arrays.npz"),
        "../evil.stablehlo": checkpointing.file_sha256(tmp_path / "evil.stablehlo"),
    }
    manifest = {
        "kind": "exported_controller",
        "format": 1,
        "programs": {"step": {"file": "../evil.stablehlo"}},
        "checksums": checksums,
        "platforms": ["cpu"],
        "jax_version": "0",
        "batch_size": None,
    }
    (exported / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"'\.\./evil\.stablehlo'"):
        sm.load_exported(exported)


# A limit on the size of files stands for a full disk: writing beyond it fails alike.
FULL = """
import resource, sys
import numpy as np
from absl import flags
from experiments.support import launch
from specmpc_jax import checkpointing

PATH = flags.DEFINE_string("path", "", "Where to.")

def main():
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
    weights = np.random.default_rng(0).normal(size=200_000)
    checkpointing.save_tree(PATH.value, {"a": weights}, {})

launch.run(main)
"""


@pytest.mark.parametrize("place", ["model", "file/model"])
def test_no_room_for_a_checkpoint_takes_one_line_and_leaves_nothing(tmp_path, place):
    (tmp_path / "file").touch()  # no directory can be made below it
    result = subprocess.run(
        [sys.executable, "-c", FULL, f"--path={tmp_path / place}", "--device=cpu", "--quiet"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    assert str(tmp_path) in result.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
