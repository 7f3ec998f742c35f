"""Files that are written whole or not at all, and readable errors for missing ones."""

import contextlib
import csv
import dataclasses
import json
import math
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from specmpc_jax.errors import UserError

PathLike = str | os.PathLike[str]

# How many directory entries an error message lists.
_LISTED = 12


@contextlib.contextmanager
def atomic_path(path: PathLike) -> Iterator[Path]:
    """Gives a temporary path that takes the name `path` when the block succeeds.

    The temporary file lies in the same directory and has the same suffix, for
    writers that choose a format by it. Parents are created. If the block
    raises, the temporary file is removed and an existing `path` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
