"""Reads the official multi-task data, `*.pt` files with a TensorDict, and runs nothing of theirs.

A file is a zip archive of one pickle and raw arrays. The pickle is interpreted with
a list of names that it may mention, each of which stands for code of this module, so
that neither torch nor tensordict is needed or reached; arrays are mapped, not loaded.
"""

import collections
import io
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from specmpc_jax import files
from specmpc_jax.errors import UserError

_DTYPES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
# A pickle of four arrays takes less than 1 kB.
_MOST_PICKLE_BYTES = 1 << 20
# A zip record's own header, down to the lengths of its name and extra field.
_ZIP_HEADER = struct.Struct("<4s22xHH")
# What interpreting a damaged or hostile pickle raises.
_UNREADABLE = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
)


class _Refused(pickle.UnpicklingError):
    """The pickle asks for something that a chunk of episodes does not need."""


class _TensorDict:
    """Stands for a TensorDict of any version: all that matters of it are its entries."""

    entries: dict[str, Any]

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict) or not isinstance(state.get("_tensordict"), dict):
            raise _Refused("a TensorDict in it has no entries")
        self.entries = dict(state["_tensordict"])


# What stands for functions has no attributes, so that no pickle can change it.
class _MakeTensorDict:
    """Stands for the function that newer versions rebuild a TensorDict with."""

    __slots__ = ()

    def __call__(self, kind: Any, state: Any) -> _TensorDict:
        if kind is not _TensorDict:
            raise _Refused("it rebuilds something other than a TensorDict")
        made = _TensorDict()
        made.__setstate__(state)
        return made


class _MakeTensor:
    """Stands for torch's rebuilding of a tensor: a read-only view of its storage."""

    __slots__ = ()

    def __call__(
        self, storage: Any, offset: Any, shape: Any, stride: Any, *unused: Any
    ) -> np.ndarray:
        if not isinstance(storage, np.ndarray) or storage.ndim != 1:
            raise _Refused("a tensor in it has no storage")
        if not isinstance(shape, tuple) or not isinstance(stride, tuple):
            raise _Refused("a tensor in it has no shape")
        numbers = (offset, *shape, *stride)
        if len(shape) != len(stride) or not all(type(n) is int and n >= 0 for n in numbers):
            raise _Refused("a tensor in it has a malformed shape")
        if 0 in shape:
            return np.zeros(shape, storage.dtype)
        if offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) >= len(
            storage
        ):
            raise _Refused("a tensor in it reaches beyond its storage")
        steps = tuple(step * storage.itemsize for step in stride)
        return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)


class _NoDevice:
    """Stands for a device, which means nothing here."""

    __slots__ = ()

    def __call__(self, *unused: Any) -> None:
        return None


# Everything that a chunk may mention. Nothing of it reaches beyond this module, and
# storage classes are plain strings.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("tensordict.tensordict", "TensorDict"): _TensorDict,
    ("tensordict._td", "TensorDict"): _TensorDict,
    ("tensordict.utils", "_StringOnlyDict"): dict,
    ("tensordict._td", "_StringOnlyDict"): dict,
    ("tensordict._reductions", "_make_td"): _MakeTensorDict(),
    ("torch._utils", "_rebuild_tensor_v2"): _MakeTensor(),
    ("torch", "Size"): tuple,
    ("torch", "device"): _NoDevice(),
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("__builtin__", "set"): set,
    ("builtins", "set"): set,
    **{("torch", name): name for name in _DTYPES},
}
# The instructions that such pickles consist of; strings, numbers and containers, mostly.
_INSTRUCTIONS = """
    PROTO STOP MARK GLOBAL REDUCE NEWOBJ BUILD BINPERSID BINPUT LONG_BINPUT BINGET LONG_BINGET
    NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINUNICODE SHORT_BINUNICODE
    EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS
""".split()


class _Interpreter(pickle.Unpickler):
    """An unpickler that knows the allowed names only."""

    def __init__(self, file: Any, storage: Callable[[np.dtype, str, int], np.ndarray]) -> None:
        super().__init__(file)
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        """Replaces a name by what stands for it."""
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _Refused(f"it asks for {module}.{name}") from None

    def persistent_load(self, pid: Any) -> np.ndarray:
        """Maps the storage that a persistent id describes."""
        if not isinstance(pid, tuple) or len(pid) != 5:
            raise _Refused("a storage in it is malformed")
        _, kind, key, _, length = pid
        if not isinstance(kind, str) or kind not in _DTYPES or type(length) is not int:
            raise _Refused("a storage in it is malformed")
        if not isinstance(key, str) or not key.isdecimal():
            raise _Refused("a storage in it has no number")
        return self._storage(np.dtype(_DTYPES[kind]), key, length)


def read_chunk(path: files.PathLike) -> dict[str, np.ndarray]:
    """Reads the entries of a TensorDict that `torch.save` wrote.

    Args:
      path: a `.pt` file.

    Returns:
      Read-only arrays by name, such as `obs [E, T, D]`, mapped from the file.

    Raises:
      UserError: if the file is missing, damaged, compressed, asks for any code,
        or holds something other than one TensorDict of plain arrays.
    """
    path = files.existing_path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            content = _interpret(path, archive)
    except _Refused as error:
        raise UserError(
            f"{path} is refused: {error}; chunks of episodes are plain arrays"
        ) from None
    except _UNREADABLE as error:
        raise UserError(f"{path} is damaged or no file of torch.save: {error}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    entries = getattr(content, "entries", None)
    if not isinstance(content, _TensorDict) or not isinstance(entries, dict):
        raise UserError(f"{path} holds no TensorDict")
    arrays = {k: v for k, v in entries.items() if isinstance(v, np.ndarray)}
    if len(arrays) < len(entries) or not all(isinstance(name, str) for name in entries):
        raise UserError(f"{path} holds entries that are no arrays")
    return arrays


def _interpret(path: Path, archive: zipfile.ZipFile) -> Any:
    names = [name for name in archive.namelist() if name.split("/", 1)[-1] == "data.pkl"]
    if len(names) != 1:
        raise _Refused("it is no archive of torch.save")
    root = names[0].removesuffix("data.pkl")
    order = f"{root}byteorder"
    if order in archive.namelist() and archive.getinfo(order).file_size < 16:
        if archive.read(order) != b"little":
            raise _Refused("its numbers are big-endian")
    if archive.getinfo(names[0]).file_size > _MOST_PICKLE_BYTES:
        raise _Refused("its pickle is larger than that of any chunk")

    def storage(dtype: np.dtype, key: str, length: int) -> np.ndarray:
        return _map(path, archive.getinfo(f"{root}data/{key}"), dtype, length)

    program = archive.read(names[0])
    for instruction, _, _ in pickletools.genops(program):
        if instruction.name not in _INSTRUCTIONS:
            raise _Refused(f"its pickle has the instruction {instruction.name}")
    return _Interpreter(io.BytesIO(program), storage).load()


def _map(path: Path, entry: zipfile.ZipInfo, dtype: np.dtype, length: int) -> np.ndarray:
    """Maps an uncompressed record of the archive as an array `[length]`."""
    if entry.compress_type != zipfile.ZIP_STORED:
        raise _Refused("its arrays are compressed")
    if length < 0 or entry.file_size != length * dtype.itemsize:
        raise _Refused("a storage in it has another length than it says")
    if not length:
        return np.zeros(0, dtype)
    with path.open("rb") as file:
        file.seek(entry.header_offset)
        magic, name, extra = _ZIP_HEADER.unpack(file.read(_ZIP_HEADER.size))
    start = entry.header_offset + _ZIP_HEADER.size + name + extra
    if magic != b"PK\x03\x04" or start + entry.file_size > path.stat().st_size:
        raise _Refused("its records are not where its directory says")
    return np.memmap(path, dtype, "r", start, (length,))
