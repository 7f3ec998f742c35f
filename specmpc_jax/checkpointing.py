"""Trees of arrays with their JSON metadata on disk, as Orbax directories.

`save_tree` and `load_tree` serve everything that is kept for use; `save_model`
and `load_model` are the same for world models, whose configuration travels
with them. Everything happens in the calling process alone: in a job of several
processes one of them saves, and any may load.
"""

import contextlib
import hashlib
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from specmpc_jax import files
from specmpc_jax.config import ModelConfig, from_json, to_json
from specmpc_jax.errors import UserError
from specmpc_jax.types import Params
from specmpc_jax.world_model import WorldModel

WORLD_MODEL = "world_model"

# Names of the two items in a directory.
_TREE = "params"
_JSON = "metadata"
# SHA-256 of every file in it: Orbax notices no flipped bits, and lost files not quietly.
_CHECKSUMS = "checksums.json"
_COMMIT_NOTE = "commit_success.txt"
# What Orbax and TensorStore raise on a directory that is incomplete or foreign.
_UNREADABLE = (OSError, ValueError, TypeError, LookupError, RuntimeError)
# How many names an error message lists.
_LISTED = 5


class SavedModel(NamedTuple):
    """A world model as it was stored."""

    params: Params  # numpy arrays
    config: ModelConfig
    metadata: dict[str, Any]


def save_model(
    path: files.PathLike,
    params: Params,
    config: ModelConfig,
    metadata: dict[str, Any] | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Stores a world model with its configuration; see `save_tree`."""
    record = {"kind": WORLD_MODEL, "config": to_json(config), "metadata": metadata or {}}
    save_tree(path, params, record, overwrite=overwrite)


def load_model(path: files.PathLike) -> SavedModel:
    """Reads a world model; every parameter of its architecture is filled, every key used.

    Raises:
      UserError: if the path holds no world model, or one whose weights do not
        fit its configuration; names the keys.
    """
    record = load_metadata(path)
    if record.get("kind") != WORLD_MODEL:
        raise UserError(f"{path} holds a {record.get('kind', 'file')}, not a world model")
    try:
        config = from_json(ModelConfig, record["config"])
        abstract = jax.eval_shape(WorldModel(config).init, jax.random.key(0))
    except (LookupError, TypeError) as error:
        raise UserError(f"{path} has a damaged configuration: {error}") from error
    return SavedModel(load_tree(path, abstract), config, record["metadata"])


def save_tree(
    path: files.PathLike, tree: Any, metadata: dict[str, Any], *, overwrite: bool = False
) -> None:
    """Stores a tree of arrays and JSON metadata in a directory that appears whole or not at all.

    Args:
      path: directory to make.
      tree: nested dicts of arrays, on any devices.
      metadata: JSON values; arrays and dataclasses are reduced to them.
      overwrite: replace what is at `path`.

    Raises:
      UserError: if the path is taken and `overwrite` is not set, or there is no
        room for it; nothing is left half-written.
    """
    path = Path(path).absolute()
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists already; choose another path or ask to overwrite it")
    # Host copies make the files independent of the devices that wrote them.
    tree = jax.tree.map(np.asarray, tree)
    record = files.to_plain(metadata)
    items = {_TREE: ocp.args.StandardSave(tree), _JSON: ocp.args.JsonSave(record)}
    with files.atomic_directory(path) as new:
        _require_room(path, tree)
        with _writable(path), _checkpointer() as checkpointer:
            checkpointer.save(new, ocp.args.Composite(**items))
        for note in new.rglob(_COMMIT_NOTE):
            note.unlink()  # it tells the path of this machine, and the checksums take its place
        files.write_json(new / _CHECKSUMS, _checksums(new))


def load_tree(path: files.PathLike, abstract: Any) -> Any:
    """Reads the tree of a directory, strictly.

    Args:
      path: directory that `save_tree` made.
      abstract: the tree expected; leaves have `shape` and `dtype`.

    Returns:
      A tree like `abstract` with numpy arrays as leaves.

    Raises:
      UserError: if the directory cannot be read, its arrays are not those
        expected (names them), or they changed since they were saved.
    """
    _check_files(path, _TREE)
    with _readable(path):
        found = ocp.StandardCheckpointHandler().metadata(epath.Path(path).absolute() / _TREE)
    _check_tree(path, found.tree, abstract)
    target = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), abstract)
    return _restore(path, ocp.args.StandardRestore(target), _TREE)


def load_metadata(path: files.PathLike) -> dict[str, Any]:
    """Reads the JSON metadata of a directory that `save_tree` made.

    Raises:
      UserError: if there is none; says what the directory holds.
    """
    _check_files(path, _JSON)
    return _restore(path, ocp.args.JsonRestore(), _JSON)


def fingerprint(tree: Any) -> str:
    """SHA-256 of a tree's names, shapes, dtypes and values, as 64 hexadecimal digits.

    It does not depend on the order of dicts, on devices, or on whether leaves
    are numpy or JAX arrays, so it identifies a teacher wherever it is loaded.
    """
    digest = hashlib.sha256()
    for name, leaf in named_leaves(tree):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{name} {array.dtype} {np.shape(leaf)}\n".encode())
        digest.update(array.data.cast("B") if array.size else b"")
    return digest.hexdigest()


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """Leaves of a tree in order, with names such as "encoder/layer_0/kernel"."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(jax.tree_util.keystr(key, simple=True, separator="/"), leaf) for key, leaf in leaves]


def file_sha256(path: files.PathLike) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checkpointer() -> ocp.Checkpointer:
    # One active process: no barriers, so that a single process of many may save or load.
    process = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=process,
        active_processes={process},
        barrier_sync_key_prefix=f"process_{process}",
    )
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=options),
        **{
            _TREE: ocp.StandardCheckpointHandler(multiprocessing_options=options),
            _JSON: ocp.JsonCheckpointHandler(multiprocessing_options=options),
        },
    )
    return ocp.Checkpointer(handler, multiprocessing_options=options)


def _checksums(directory: Path) -> dict[str, str]:
    found = sorted(file for file in directory.rglob("*") if file.is_file())
    return {file.relative_to(directory).as_posix(): file_sha256(file) for file in found}


def _check_files(path: files.PathLike, item: str) -> None:
    """Holds an item's files, and those beside both items, against their checksums."""
    directory = files.existing_path(path)
    if not (directory / _CHECKSUMS).is_file():
        raise UserError(f"{path} is no checkpoint of this library; {_contents(directory)}")
    recorded = files.read_json(directory / _CHECKSUMS)
    if not isinstance(recorded, dict):
        raise UserError(f"{path} is damaged: {_CHECKSUMS} is no JSON object")
    other_items = {_TREE, _JSON} - {item}
    for name, checksum in recorded.items():
        file = files.inside(directory, name)
        if name.split("/")[0] in other_items:
            continue
        if not file.is_file():
            raise UserError(f"{path} is incomplete: {name} is missing; {_contents(directory)}")
        if file_sha256(file) != checksum:
            raise UserError(f"{path} is damaged: {name} is not as it was saved")


@contextlib.contextmanager
def _readable(path: files.PathLike) -> Iterator[None]:
    """Turns whatever reading a foreign directory raises into one line."""
    try:
        yield
    except _UNREADABLE as error:
        raise UserError(f"{path} cannot be read: {_contents(Path(path))}") from error


def _require_room(path: Path, tree: Any) -> None:
    """Refuses at once what a full disk would end half-way, in several threads of Orbax."""
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
    disk = shutil.disk_usage(path.parent)
    if disk.total and disk.free < needed:  # some file systems do not tell: both are 0
        raise UserError(
            f"cannot write {path}: no space left on device, {needed / 1e6:.1f} MB are needed and "
            f"{disk.free / 1e6:.1f} MB free"
        )


@contextlib.contextmanager
def _writable(path: Path) -> Iterator[None]:
    """Turns what Orbax raises, and prints, where nothing can be written into one line."""
    log = logging.getLogger("absl")  # Orbax's; it prints tracebacks of its threads there
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    except _UNREADABLE as error:
        # TensorStore ends with the system's words: "...: No space left on device [os_error_code".
        told = re.search(r"([^:]+) \[os_error_code", str(error))
        reason = told[1].strip() if told else getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot write {path}: {reason}") from error
    finally:
        log.setLevel(level)


def _restore(path: files.PathLike, args: Any, item: str) -> Any:
    with _readable(path), _checkpointer() as checkpointer:
        directory = Path(path).absolute()
        return checkpointer.restore(directory, ocp.args.Composite(**{item: args}))[item]


def _contents(path: Path) -> str:
    if not path.is_dir():
        return "it is a file, not a directory"
    names = sorted(entry.name for entry in path.iterdir())
    return f"it holds {_listing(names) or 'nothing'}"


def _check_tree(path: files.PathLike, found: Any, abstract: Any) -> None:
    """Compares names, shapes and dtypes before any array is read."""
    have, want = (
        {name: f"{list(leaf.shape)} {np.dtype(leaf.dtype)}" for name, leaf in named_leaves(tree)}
        for tree in (found, abstract)
    )
    odd = [
        f"{name} is {have[name]}, not {want[name]}"
        for name in sorted(have.keys() & want.keys())
        if have[name] != want[name]
    ]
    faults = {
        "missing": sorted(want.keys() - have.keys()),
        "unknown": sorted(have.keys() - want.keys()),
        "ill-shaped": odd,
    }
    said = [f"{what}: {_listing(names)}" for what, names in faults.items() if names]
    if said:
        raise UserError(f"{path} does not fit its model; {'; '.join(said)}")


def _listing(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
