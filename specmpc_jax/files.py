"""Files that are written whole or not at all, and readable errors for missing ones."""

import contextlib
import csv
import dataclasses
import errno
import fcntl
import json
import math
import os
import re
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from specmpc_jax.errors import UserError

PathLike = str | os.PathLike[str]

# How many directory entries an error message lists.
_LISTED = 12
# One part of a path that every system and every tool reads in the same way.
_PLAIN_PART = re.compile(r"[^/\\:\x00-\x1f]+")


@contextlib.contextmanager
def atomic_path(path: PathLike) -> Iterator[Path]:
    """Gives a temporary path that takes the name `path` when the block succeeds.

    The temporary file lies in the same directory and has the same suffix, for
    writers that choose a format by it. Parents are created. If the block
    raises, the temporary file is removed and an existing `path` stays as it was;
    errors of a full disk, which name no file, get the name `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        _name(error, path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: PathLike) -> Iterator[Path]:
    """Gives a path, at which the block makes a directory that then takes the name `path`.

    What was at `path` goes with that. If the block raises, it stays, and nothing else does.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
            new, old = Path(scratch, "new"), Path(scratch, "old")
            yield new
            if path.exists():
                path.rename(old)
            new.rename(path)
    except OSError as error:
        _name(error, path)
        raise


def _name(error: OSError, path: Path) -> None:
    if error.errno in (errno.ENOSPC, errno.EDQUOT) and error.filename is None:
        error.filename = str(path)


def write_text(path: PathLike, text: str) -> None:
    """Writes a text file atomically, in UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: PathLike, value: Any) -> None:
    """Writes `to_plain(value)` as strict JSON, atomically."""
    write_text(path, json.dumps(to_plain(value), indent=2, allow_nan=False) + "\n")


def write_csv(
    path: PathLike,
    rows: Iterable[Mapping[str, Any]],
    fieldnames: Sequence[str],
) -> None:
    """Writes rows under the columns `fieldnames`, atomically.

    A column that a row lacks, None and NaN are written as an empty field.

    Raises:
      ValueError: if a row has a column that is not in `fieldnames`.
    """
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames, lineterminator="\n")
        writer.writeheader()
        writer.writerows(to_plain(row) for row in rows)


def read_json(path: PathLike) -> Any:
    """Reads a JSON file.

    Raises:
      UserError: if the file is missing or is not JSON.
    """
    text = existing_path(path).read_bytes()
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error


def inside(directory: PathLike, name: Any) -> Path:
    """The path of a file that a manifest in `directory` names.

    Raises:
      UserError: if the name could lead out of the directory; nothing is looked at.
    """
    parts = name.split("/") if isinstance(name, str) else ()
    if not parts or not all(map(_PLAIN_PART.fullmatch, parts)) or {".", ".."} & set(parts):
        raise UserError(f"{directory} names the file {name!r}, which is no plain relative path")
    return Path(directory, *parts)


@contextlib.contextmanager
def sole_user(path: PathLike) -> Iterator[None]:
    """Keeps other processes from a directory that is there, or from a file, that this one writes.

    A hidden file in the directory, or beside the file, is locked meanwhile and
    removed in the end. The lock ends with the process, however that ends.
    Where nothing can be locked (some network file systems), none is made.

    Raises:
      UserError: if another process is in here.
      OSError: if the place cannot be written.
    """
    path = Path(path)
    lock = path / ".lock" if path.is_dir() else path.with_name(f".{path.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "a") as file:
        try:
            # POSIX locks belong to the process: one that resumes a run is not in its own way.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another process may have ended, and so removed what was opened.
            alone = lock.exists() and os.path.samestat(os.fstat(file.fileno()), lock.stat())
        except (BlockingIOError, PermissionError):
            alone = False
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            alone = True
        if not alone:
            raise UserError(f"another run is writing {path}; wait for it or choose another place")
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def to_plain(value: Any) -> Any:
    """Reduces a value to what JSON can hold.

    Dataclasses and mappings become dicts; sequences, sets and arrays become
    lists; NumPy and JAX scalars become Python numbers; paths become strings.
    NaN becomes None, an infinity the string "inf" or "-inf" (which `float` and
    numeric flags read back).
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return [to_plain(item) for item in sorted(value)]
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return to_plain(value.tolist())
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def existing_path(path: PathLike) -> Path:
    """Returns `path` if something is there.

    Raises:
      UserError: if nothing is there; the message lists what the directory holds.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(missing_message(path))
    return path


def missing_message(path: PathLike) -> str:
    """Says that nothing is at `path`, and what its nearest existing directory holds."""
    path = Path(path)
    directory = next(parent for parent in path.absolute().parents if parent.is_dir())
    names = sorted(
        entry.name + "/" * entry.is_dir()
        for entry in directory.iterdir()
        if not entry.name.startswith(".")
    )
    listed = ", ".join(names[:_LISTED]) or "nothing"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"there is no {path}; {directory} holds {listed}{more}"
