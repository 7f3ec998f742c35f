"""Safe reading of official TD-MPC2 checkpoint files, whatever their layout."""

import dataclasses
import enum
import os
import pathlib
import pickle
import pickletools
import re
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import torch

from specmpc_jax import files
from specmpc_jax.checkpointing import file_sha256
from specmpc_jax.errors import UserError

# What torch's restricted unpickler raises on a file that is damaged or built to mislead it.
_UNREADABLE = (
    pickle.UnpicklingError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)

# Fixed part of a zip record's header, down to the lengths of its name and extra field.
_ZIP_HEADER = struct.Struct("<26xHH")


class Layout(enum.Enum):
    """The three layouts of released checkpoints (spec section 10)."""

    CURRENT = "current"
    FLAT_Q = "flat-Q"
    PRE_RELEASE = "pre-release"


@dataclasses.dataclass(frozen=True)
class TorchCheckpoint:
    """Contents of a checkpoint file: torch tensors under the file's own keys."""

    path: pathlib.Path
    sha256: str
    layout: Layout
    state_dict: Mapping[str, Any]


def read(path: str | pathlib.Path) -> TorchCheckpoint:
    """Loads a checkpoint file without running anything that it may carry.

    Raises:
      UserError: if the file is missing, damaged, holds more than weights, or
        is no TD-MPC2 checkpoint.
    """
    path = pathlib.Path(path)
    content = load_plain(path)
    state_dict = _state_dict(path, content)
    return TorchCheckpoint(path, file_sha256(path), detect_layout(state_dict, path), state_dict)


def load_plain(path: pathlib.Path) -> Any:
    """What a torch archive holds, as far as it is plain data; nothing in it is run.

    Raises:
      UserError: if the file is missing, damaged, or holds more than plain data.
    """
    _require_archive(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise UserError(f"{path} cannot be loaded: {_reason(error)}") from error


def detect_layout(state_dict: Mapping[str, Any], source: object = "the state dict") -> Layout:
    """Tells the layout from the keys that only one of them has.

    Raises:
      UserError: if the keys are those of no TD-MPC2 world model; `source`
        names the file in the message.
    """
    if "_Qs.params.0.weight" in state_dict:
        return Layout.CURRENT
    if "_Qs.params.0" in state_dict:
        return Layout.PRE_RELEASE if "_dynamics.0.0.weight" in state_dict else Layout.FLAT_Q
    keys = ", ".join(map(str, list(state_dict)[:4])) or "none"
    raise UserError(
        f"{source} is no TD-MPC2 checkpoint: neither _Qs.params.0.weight (current layout) nor "
        f"_Qs.params.0 (older ones) is among its keys ({keys}, …)"
    )


def _require_archive(path: pathlib.Path) -> None:
    if not path.is_file():
        files.existing_path(path)
        raise UserError(f"{path} is a directory; give a TD-MPC2 checkpoint file (.pt)")
    # Everything released is a zip archive; torch's older formats stay out of reach this way.
    if zipfile.is_zipfile(path):
        return
    size, weights = path.stat().st_size, _size_of_truncated_weights(path)
    if weights:
        raise UserError(
            f"{path} is truncated: it has {size} bytes, its weights alone take {weights}"
        )
    raise UserError(
        f"{path} ({size} bytes) is no torch file; a released checkpoint is a zip archive "
        "of 31 MB (single-task, 5M parameters)"
    )


def _size_of_truncated_weights(path: pathlib.Path) -> int:
    """Bytes of weights that a cut-off archive announces in its first record; 0 if unknown.

    The pickle there lists every storage with its length. It is only read as a
    sequence of opcodes, never executed.
    """
    with open(path, "rb") as file:
        header = file.read(_ZIP_HEADER.size)
        if not header.startswith(b"PK\x03\x04") or len(header) < _ZIP_HEADER.size:
            return 0
        name_length, extra_length = _ZIP_HEADER.unpack(header)
        file.seek(name_length + extra_length, os.SEEK_CUR)
        numbers, length, is_new = 0, 0, False
        try:
            for opcode, argument, _ in pickletools.genops(file):
                if isinstance(argument, str) and argument.isdigit():
                    is_new = True  # the key of a storage that was not listed before
                elif isinstance(argument, int) and "INT" in opcode.name:
                    length = argument
                elif opcode.name == "BINPERSID":
                    numbers, is_new = numbers + length * is_new, False
        except ValueError:
            return 0
    return 4 * numbers


def _reason(error: BaseException) -> str:
    """One line on why torch refused a file."""
    forbidden = re.search(r"GLOBAL (\S+)", str(error))
    if forbidden:
        return f"it asks to run {forbidden[1]}, and only plain weights are accepted"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"it is damaged or foreign ({type(error).__name__}: {lines[0] if lines else '-'})"


def _state_dict(path: pathlib.Path, content: object) -> Mapping[str, Any]:
    """Takes the state dict out of `{"model": state_dict}`; a bare one is accepted too."""
    if isinstance(content, Mapping) and "model" in content:
        extra = sorted(str(key) for key in content if key != "model")
        if extra:
            raise UserError(f"{path} has unknown entries beside 'model': {', '.join(extra)}")
        content = content["model"]
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise UserError(
            f"{path} holds a {type(content).__name__}; "
            "a TD-MPC2 checkpoint is a state dict, kept under 'model'"
        )
    return content
