"""Multi-task episodes of equal length that are sampled where they lie, on disk or in memory.

The official files have one array each for observations, actions, rewards and tasks. The
project's own format, a directory, has the numbers of a step side by side, so that a slice
is one short read however large the data: `index.json`, and an array of records a chunk.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from specmpc_jax import files
from specmpc_jax.datasets.torch_chunks import read_chunk
from specmpc_jax.errors import UserError

INDEX = "index.json"
FORMAT = 1
# Names in the official files.
_OFFICIAL = {"obs": "observation", "action": "action", "reward": "reward", "task": "task"}
# Episodes copied at a time while converting.
_EPISODES_AT_ONCE = 256


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Episodes of one file; row t holds what the step to observation t brought.

    The action and the reward of row 0 mean nothing (NaN in the official files).
    """

    name: str
    arrays: Mapping[str, np.ndarray]  # observation [E, T, D], action [E, T, A], reward, task [E, T]

    @property
    def num_episodes(self) -> int:
        """E."""
        return self.arrays["reward"].shape[0]

    @property
    def rows(self) -> int:
        """T, one more than the steps of an episode."""
        return self.arrays["reward"].shape[1]

    @property
    def dims(self) -> tuple[int, int]:
        """Sizes of an observation and of an action."""
        return self.arrays["observation"].shape[-1], self.arrays["action"].shape[-1]


def open_chunks(directory: files.PathLike) -> list[Chunk]:
    """Opens all data of a directory, in the project's own format or the official one.

    Raises:
      UserError: if there are none, or files are damaged, hostile, or of different shapes.
    """
    directory = files.existing_path(directory)
    if (directory / INDEX).is_file():
        chunks = _open_store(directory)
    else:
        paths = sorted(directory.glob("*.pt"))
        if not paths:
            raise UserError(f"{directory} holds neither {INDEX} nor chunk files (*.pt)")
        chunks = [open_official(path) for path in paths]
    for chunk in chunks[1:]:
        if (chunk.rows, chunk.dims) != (chunks[0].rows, chunks[0].dims):
            raise UserError(
                f"{chunk.name} has episodes of {chunk.rows} rows and sizes {chunk.dims}; "
                f"{chunks[0].name} has {chunks[0].rows} and {chunks[0].dims}"
            )
    return chunks


def open_official(path: files.PathLike) -> Chunk:
    """Opens an official chunk file; see `torch_chunks.read_chunk`.

    Raises:
      UserError: as `read_chunk`; if it lacks arrays, or their shapes contradict each other.
    """
    found = read_chunk(path)
    missing = sorted(set(_OFFICIAL) - set(found))
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; it holds {', '.join(sorted(found))}")
    chunk = Chunk(Path(path).name, {own: found[name] for name, own in _OFFICIAL.items()})
    lead = chunk.arrays["reward"].shape
    shapes = {name: array.shape for name, array in chunk.arrays.items()}
    flat = all(shapes[name] == lead for name in ("reward", "task"))
    wide = all(len(s) == 3 and s[:2] == lead for s in (shapes["observation"], shapes["action"]))
    if len(lead) != 2 or not lead[0] or not flat or not wide:
        raise UserError(f"{path} has arrays of shapes {shapes}; they are no episodes")
    return chunk


def convert(
    chunks: Sequence[Chunk],
    directory: files.PathLike,
    advance: Callable[[int], None] | None = None,
) -> None:
    """Writes chunks in the project's own format; a killed conversion goes on with the next chunk.

    Args:
      chunks: what to write.
      directory: gets one array a chunk, and at the end the index.
      advance: called with the number of episodes just written.

    Raises:
      UserError: if the directory holds a complete conversion already.
    """
    directory = Path(directory)
    if (directory / INDEX).exists():
        raise UserError(f"{directory} holds converted data already; choose another directory")
    entries = []
    for number, chunk in enumerate(chunks):
        path = directory / f"chunk_{number:04d}.npy"
        if not _is_complete(path, chunk):
            _write_records(chunk, path, advance)
        elif advance:
            advance(chunk.num_episodes)
        entries.append({"file": path.name, "source": chunk.name, "episodes": chunk.num_episodes})
    files.write_json(directory / INDEX, {"format": FORMAT, "chunks": entries})


def _open_store(directory: Path) -> list[Chunk]:
    index = files.read_json(directory / INDEX)
    if not isinstance(index, dict) or index.get("format") != FORMAT or not index.get("chunks"):
        raise UserError(f"{directory / INDEX} is no index of converted episodes")
    chunks = []
    for entry in index["chunks"]:
        path = files.existing_path(directory / Path(str(entry["file"])).name)
        try:
            records = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise UserError(f"{path} is damaged: {error}") from error
        if records.dtype.names != tuple(_OFFICIAL.values()) or records.ndim != 2:
            raise UserError(f"{path} holds no episodes")
        arrays = {name: records[name] for name in records.dtype.names}
        chunks.append(Chunk(path.name, arrays))
    return chunks


def _record(chunk: Chunk) -> np.dtype:
    observation_dim, action_dim = chunk.dims
    return np.dtype(
        [
            ("observation", "<f4", (observation_dim,)),
            ("action", "<f4", (action_dim,)),
            ("reward", "<f4"),
            ("task", "<i4"),
        ]
    )


def _is_complete(path: Path, chunk: Chunk) -> bool:
    if not path.exists():
        return False
    there = np.load(path, mmap_mode="r", allow_pickle=False)
    return there.dtype == _record(chunk) and there.shape == (chunk.num_episodes, chunk.rows)


def _write_records(chunk: Chunk, path: Path, advance: Callable[[int], None] | None) -> None:
    with files.atomic_path(path) as temporary:
        records = np.lib.format.open_memmap(
            temporary, "w+", _record(chunk), (chunk.num_episodes, chunk.rows)
        )
        for start in range(0, chunk.num_episodes, _EPISODES_AT_ONCE):
            part = slice(start, start + _EPISODES_AT_ONCE)
            for name, array in chunk.arrays.items():
                records[name][part] = array[part]
            if advance:
                advance(len(records[part]))
        records.flush()
