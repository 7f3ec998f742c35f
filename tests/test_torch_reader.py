"""Checkpoint files that are damaged, foreign or malicious."""

import collections
import os
import pickle
import zipfile

import jax
import numpy as np
import pytest

import golden_data
from specmpc_jax.errors import UserError

torch = pytest.importorskip("torch")

from converters import load_torch, torch_reader  # noqa: E402


def checkpoint_path(case):
    return golden_data.golden_dir(case) / "checkpoint.pt"


def state_dict_of(case):
    return dict(torch_reader.read(checkpoint_path(case)).state_dict)


class Malicious:
    """Unpickling this runs a command."""

    def __init__(self, marker):
        self.command = f"touch {marker}"

    def __reduce__(self):
        return os.system, (self.command,)


def malicious_torch_file(directory):
    torch.save({"model": Malicious(directory / "marker")}, directory / "bad.pt")


def malicious_pickle(directory):
    with open(directory / "bad.pt", "wb") as file:
        pickle.dump({"model": Malicious(directory / "marker")}, file)


def malicious_legacy_file(directory):
    torch.save(
        {"model": Malicious(directory / "marker")},
        directory / "bad.pt",
        _use_new_zipfile_serialization=False,
    )


def truncated(directory):
    content = checkpoint_path("single_tiny").read_bytes()
    (directory / "bad.pt").write_bytes(content[: len(content) // 2])


def truncated_in_its_header(directory):
    (directory / "bad.pt").write_bytes(checkpoint_path("single_tiny").read_bytes()[:500])


def damaged(directory):
    content = bytearray(checkpoint_path("single_tiny").read_bytes())
    content[200:260] = bytes(60)
    (directory / "bad.pt").write_bytes(bytes(content))


def empty(directory):
    (directory / "bad.pt").touch()


def text(directory):
    (directory / "bad.pt").write_text("version https://git-lfs.github.com/spec/v1\n")


def a_directory(directory):
    (directory / "bad.pt").mkdir()


def missing(directory):
    (directory / "other.pt").touch()


def another_zip(directory):
    with zipfile.ZipFile(directory / "bad.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")


def numpy_arrays(directory):
    with open(directory / "bad.pt", "wb") as file:
        np.savez(file, a=np.zeros(3))


def another_network(directory):
    torch.save(torch.nn.Linear(3, 4).state_dict(), directory / "bad.pt")


def a_tensor(directory):
    torch.save(torch.zeros(3), directory / "bad.pt")


def a_list_as_model(directory):
    torch.save({"model": [1, 2]}, directory / "bad.pt")


def numbers_as_keys(directory):
    torch.save({"model": {1: torch.zeros(3)}}, directory / "bad.pt")


def extra_entries(directory):
    state_dict = collections.OrderedDict(state_dict_of("single_tiny"))
    torch.save({"model": state_dict, "optimizer": {}}, directory / "bad.pt")


BAD_FILES = {
    malicious_torch_file: r"asks to run \w+\.system",
    malicious_pickle: "no torch file",
    malicious_legacy_file: "no torch file",
    truncated: r"truncated: it has \d+ bytes, its weights alone take \d+",
    truncated_in_its_header: "no torch file",
    damaged: "cannot be loaded",
    empty: r"\(0 bytes\)",
    text: "no torch file",
    a_directory: "is a directory",
    missing: r"holds other\.pt",
    another_zip: "cannot be loaded",
    numpy_arrays: "cannot be loaded",
    another_network: "no TD-MPC2 checkpoint",
    a_tensor: "holds a Tensor",
    a_list_as_model: "holds a list",
    numbers_as_keys: "holds a dict",
    extra_entries: "optimizer",
}


@pytest.mark.parametrize("make", BAD_FILES, ids=lambda make: make.__name__)
def test_bad_files_are_refused_in_one_line_and_never_run(make, tmp_path, capfd):
    make(tmp_path)
    with pytest.raises(UserError, match=BAD_FILES[make]) as error:
        load_torch(tmp_path / "bad.pt")
    assert "\n" not in str(error.value)
    assert str(tmp_path / "bad.pt") in str(error.value)
    assert not (tmp_path / "marker").exists()
    assert capfd.readouterr().err == ""


def test_truncated_file_tells_the_size_of_its_weights(tmp_path):
    truncated(tmp_path)
    state_dict = state_dict_of("single_tiny")
    distinct = {v.data_ptr(): v.numel() for v in state_dict.values() if torch.is_tensor(v)}
    with pytest.raises(UserError) as error:
        torch_reader.read(tmp_path / "bad.pt")
    announced = int(str(error.value).split()[-1])
    assert announced == 4 * sum(distinct.values())


@pytest.mark.parametrize("cut", [100, 1000, 10_000, 50_000, 200_000, -1])
def test_any_truncation_is_refused(cut, tmp_path):
    content = checkpoint_path("single_tiny").read_bytes()
    (tmp_path / "bad.pt").write_bytes(content[:cut])
    with pytest.raises(UserError):
        load_torch(tmp_path / "bad.pt")


def test_a_bare_state_dict_is_accepted(tmp_path):
    torch.save(state_dict_of("single_tiny"), tmp_path / "bare.pt")
    bare, wrapped = (
        load_torch(p)[0] for p in (tmp_path / "bare.pt", checkpoint_path("single_tiny"))
    )
    jax.tree.map(np.testing.assert_array_equal, bare, wrapped)


def test_sha256_is_the_files(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert torch_reader.file_sha256(tmp_path / "file") == expected
