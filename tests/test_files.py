"""Atomic writes, plain values and messages about missing files."""

import csv
import dataclasses
import errno
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from specmpc_jax import files
from specmpc_jax.errors import UserError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "result.npz"
    path.write_text("old")
    with pytest.raises(RuntimeError), files.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_is_there_whole_or_as_it_was(tmp_path):
    path = tmp_path / "parent" / "model"
    for content in ("first", "second"):
        with files.atomic_directory(path) as new:
            assert not new.exists()
            new.mkdir()
            (new / "file").write_text(content)
        assert (path / "file").read_text() == content
    with pytest.raises(RuntimeError), files.atomic_directory(path) as new:
        new.mkdir()
        raise RuntimeError
    assert (path / "file").read_text() == "second"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("context", [files.atomic_path, files.atomic_directory])
def test_a_full_disk_names_the_file(context, tmp_path):
    path = tmp_path / "result.npz"
    with pytest.raises(OSError) as caught, context(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(path)
    with pytest.raises(OSError) as caught, context(path):
        raise OSError(errno.EIO, "of something else")
    assert caught.value.filename is None and not list(tmp_path.iterdir())


def test_atomic_path_keeps_the_suffix_and_creates_parents(tmp_path):
    path = tmp_path / "a" / "b" / "result.npz"
    with files.atomic_path(path) as temporary:
        assert not path.exists()
        np.savez(temporary, x=np.arange(3))
    assert list(path.parent.iterdir()) == [path]
    np.testing.assert_array_equal(np.load(path)["x"], [0, 1, 2])


def test_written_files_have_the_permissions_of_ordinary_ones(tmp_path):
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    files.write_text(tmp_path / "atomic", "text")
    assert (tmp_path / "atomic").stat().st_mode == ordinary.stat().st_mode


def test_json_holds_what_numpy_jax_and_dataclasses_hold(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Settings:
        horizon: int = 3
        taus: tuple[float, ...] = (0.5, float("inf"))

    files.write_json(
        tmp_path / "x.json",
        {
            "np": np.float32(0.5),
            "jax": jnp.asarray(2),
            "array": np.array([[1.0, np.nan]]),
            "settings": Settings(),
            "path": Path("a/b"),
            "flag": np.bool_(True),
            "set": {3, 1},
            7: None,
            "low": -np.inf,
        },
    )
    strict = json.loads((tmp_path / "x.json").read_text(), parse_constant=pytest.fail)
    assert strict == {
        "np": 0.5,
        "jax": 2,
        "array": [[1.0, None]],
        "settings": {"horizon": 3, "taus": [0.5, "inf"]},
        "path": "a/b",
        "flag": True,
        "set": [1, 3],
        "7": None,
        "low": "-inf",
    }
    assert files.read_json(tmp_path / "x.json") == strict


def test_unwritable_values_leave_no_file(tmp_path):
    with pytest.raises(TypeError):
        files.write_json(tmp_path / "x.json", object())
    assert not list(tmp_path.iterdir())


def test_csv(tmp_path):
    rows = [{"step": np.int64(1), "reward": jnp.float32(0.25)}, {"step": 2, "reward": np.nan}]
    files.write_csv(tmp_path / "x.csv", rows, ["step", "reward", "seed"])
    with (tmp_path / "x.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"step": "1", "reward": "0.25", "seed": ""},
            {"step": "2", "reward": "", "seed": ""},
        ]
    with pytest.raises(ValueError, match="other"):
        files.write_csv(tmp_path / "x.csv", [{"other": 1}], ["step"])
    assert (tmp_path / "x.csv").read_text().startswith("step,reward,seed\n1,0.25,\n")


def test_missing_files_are_told_with_the_nearest_directorys_content(tmp_path):
    (tmp_path / "tdmpc2_5m.pt").touch()
    (tmp_path / "videos").mkdir()
    assert files.existing_path(tmp_path / "videos") == tmp_path / "videos"
    with pytest.raises(UserError, match=r"there is no .*tdmpc2_1m.pt; .*tdmpc2_5m.pt, videos/$"):
        files.existing_path(tmp_path / "runs" / "first" / "tdmpc2_1m.pt")
    for index in range(20):
        (tmp_path / f"{index:02}.pt").touch()
    assert files.missing_message(tmp_path / "x").endswith("and 10 more")


def test_broken_json_is_a_user_error(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        files.read_json(tmp_path / "x.json")
