"""Distillation data: one row a visited step, kept as a compressed `.npz`."""

import dataclasses
import json
import zipfile
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from specmpc_jax import files
from specmpc_jax.errors import UserError

FORMAT = 1
ARRAYS = {
    "z_real": np.float32,  # [R, L] encoded observation
    "z_pred": np.float32,  # [R, L] latent that the plan predicted; z_real at offset 0
    "a_plan": np.float32,  # [R, A] planned action
    "a_teacher": np.float32,  # [R, A] mean action of a planner that replans at every step
    "distance": np.float32,  # [R] relative mismatch
    "reward": np.float32,  # [R]
    "offset": np.int32,  # [R] steps since the plan was made
    "episode": np.int32,  # [R] unique within the dataset
    "step": np.int32,  # [R] agent steps since the episode began
    "task": np.int32,  # [R] task index
    "round": np.int32,  # [R] aggregation round, 0 without a corrector
}


@dataclasses.dataclass(frozen=True)
class CorrectorDataset:
    """Rows of visited steps; within an episode they are in order and complete."""

    arrays: dict[str, np.ndarray]
    metadata: dict[str, Any]

    def __post_init__(self) -> None:
        if set(self.arrays) != set(ARRAYS):
            odd = sorted(set(self.arrays) ^ set(ARRAYS))
            raise UserError(f"corrector data has missing or unknown fields: {', '.join(odd)}")
        lengths = {len(array) for array in self.arrays.values()}
        if len(lengths) != 1:
            raise UserError(f"corrector data has fields of different lengths: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.arrays["offset"])

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    @property
    def teacher(self) -> str:
        """Fingerprint of the teacher whose plans these are."""
        return self.metadata["teacher"]

    @property
    def num_episodes(self) -> int:
        """Number of distinct episodes."""
        return len(np.unique(self["episode"]))

    def save(self, path: files.PathLike) -> None:
        """Writes the rows and the metadata atomically."""
        text = json.dumps(files.to_plain({"format": FORMAT, **self.metadata}))
        with files.atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, metadata=np.array(text), **cast(dict[str, Any], self.arrays))

    @classmethod
    def load(cls, path: files.PathLike) -> "CorrectorDataset":
        """Reads a dataset; nothing in the file is executed.

        Raises:
          UserError: if the file is missing, damaged or something else.
        """
        files.existing_path(path)
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            metadata = json.loads(str(arrays.pop("metadata")))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is damaged or no corrector data: {error}") from error
        return cls(arrays, metadata)

    def windows(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the last steps of the same episode, for each row.

        Args:
          length: W, the window; its newest entry is the row itself.

        Returns:
          Row indices `[R, W]`, oldest first, and a mask `[R, W]` that is False
          before the episode's start (where the index is the row's own).
        """
        rows = np.arange(len(self))[:, None]
        back = np.arange(length - 1, -1, -1)[None, :]
        mask = self["step"][:, None] >= back
        return np.where(mask, rows - back, rows), mask

    def split(self, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Splits the rows by episode.

        Args:
          held_out: share of episodes held out, at least one.
          seed: decides which.

        Returns:
          Row indices for training and held-out rows.

        Raises:
          UserError: if there are fewer than two episodes.
        """
        episodes = np.unique(self["episode"])
        if len(episodes) < 2:
            raise UserError("a held-out split needs at least two episodes of corrector data")
        count = min(max(1, round(held_out * len(episodes))), len(episodes) - 1)
        chosen = np.random.default_rng(seed).choice(episodes, count, replace=False)
        out = np.isin(self["episode"], chosen)
        return np.flatnonzero(~out), np.flatnonzero(out)


def join(datasets: Sequence[CorrectorDataset]) -> CorrectorDataset:
    """Unites datasets of one teacher, renumbering episodes; metadata is the first one's.

    Raises:
      UserError: if the datasets come from different teachers.
    """
    teachers = {dataset.teacher for dataset in datasets}
    if len(teachers) != 1:
        raise UserError(
            "corrector data of different teachers cannot be joined: "
            + ", ".join(sorted(t[:12] for t in teachers))
        )
    arrays = {name: np.concatenate([dataset[name] for dataset in datasets]) for name in ARRAYS}
    offset, episodes = 0, []
    for dataset in datasets:
        episodes.append(dataset["episode"] + offset)
        offset = episodes[-1].max() + 1
    arrays["episode"] = np.concatenate(episodes)
    return CorrectorDataset(arrays, datasets[0].metadata)
