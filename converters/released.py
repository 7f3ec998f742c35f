"""The released TD-MPC2 checkpoints: where they are, what they are called, their known hashes.

312 single-task files (104 tasks, three seeds, all of size 5) and multi-task
files of the mt30 and mt80 sets in five sizes. No torch is needed here.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from specmpc_jax import files
from specmpc_jax.config import MODEL_SIZES
from specmpc_jax.errors import UserError, nearest_names
from specmpc_jax.tasks import TASK_SETS, task_set

# The revision that names and hashes below were taken from.
REVISION = "8fb2a82efb3bae96941da440128fe1332e4394fd"
BASE_URL = "https://huggingface.co/nicklashansen/tdmpc2/resolve/{revision}"
SEEDS = (1, 2, 3)

SINGLE_TASKS = {
    "dmcontrol": (
        *TASK_SETS["mt30"].names,
        *("dog-stand", "dog-walk", "dog-trot", "dog-run"),
        *("humanoid-stand", "humanoid-walk", "humanoid-run", "quadruped-walk", "quadruped-run"),
    ),
    "metaworld": tuple(name for name in TASK_SETS["mt80"].names if name.startswith("mw-")),
    "maniskill2": ("lift-cube", "pick-cube", "stack-cube", "pick-ycb", "turn-faucet"),
    "myosuite": tuple(
        f"myo-hand-{name}{difficulty}"
        for name in ("reach", "pose", "obj-hold", "key-turn", "pen-twirl")
        for difficulty in ("", "-hard")
    ),
}

# By path at REVISION; the others are not published in a form that could be noted here.
SHA256 = {
    f"dmcontrol/{task}-{seed}.pt": sha256
    for task, hashes in {
        "cartpole-swingup": (
            "e22aa7500efabafcb2b58f99134bb6e9fc42ca81ed032c6c90a921e393b3af4a",
            "4a81773b6136844c89f4ab0981e979758ead83aab163a64fa0151f142b004c0a",
            "621b20b008a0b03b4266a118f9d7140707c8eadb52bca70984e77218575e06a3",
        ),
        "cheetah-run": (
            "906924fee08bf43743b01f187db5cd9f355d717395c399f754c5ee4e4782b059",
            "aa18d1ca1feaad68f503b267e6de7bdfe7b1cf46213c0aa90ed0985d1d1fdb67",
            "6ed9ba2730f75743ae27532a8e270c9de4769b2047855e32af565200fed74605",
        ),
        "walker-run": (
            "7e825a2210ede7085a71f98893fe3f89a1acb9eedf234a7c43815c68ecc0150c",
            "0c45b6a5c3f7387a30b5e3ce2c57b8c4101b33affaae582204c2dbe451ce0caf",
            "d8d0a635c5f49d951cd98a89125ee3ef205e01e631856a2d72a1288583d01089",
        ),
        "humanoid-run": (
            "57f2c7e509d9efb677ae3f150e3e162c8f1a44ce2dfd34b7f4eb04a489e05c20",
            "7f6514a9519cbaec6f52f1319446fc74f74b1cda000ccf60026ce1663cd83db3",
            "c262c177d9b748ef4f56397e334b8424cb0a1446c723f7b84526c09a8e106ffa",
        ),
    }.items()
    for seed, sha256 in zip(SEEDS, hashes, strict=True)
}


@dataclasses.dataclass(frozen=True)
class ReleasedFile:
    """A file below the base URL; `sha256` and `size` (bytes) are None where they are unknown."""

    path: str
    sha256: str | None = None
    size: int | None = None

    @property
    def name(self) -> str:
        """The file's name without its directory, as it is stored."""
        return PurePosixPath(self.path).name


def multitask_files(set_name: str, sizes: Sequence[int]) -> list[ReleasedFile]:
    """Multi-task teachers of a task set (`mt30`, `mt80`), one a size in millions.

    Raises:
      UserError: if the set or a size is unknown.
    """
    task_set(set_name)
    for size in sizes:
        if size not in MODEL_SIZES:
            known = ", ".join(map(str, MODEL_SIZES))
            raise UserError(f"model size {size} is unknown; sizes are {known} (million)")
    return [ReleasedFile(f"multitask/{set_name}-{size}M.pt") for size in sizes]


def single_task_file(name: str, revision: str = REVISION) -> ReleasedFile:
    """Single-task teacher by task (`walker-walk`, the first seed) or file (`walker-walk-2`).

    Raises:
      UserError: if there is none of that name; lists the nearest.
    """
    stem = name.removesuffix(".pt")
    task, seed = re.fullmatch(r"(.*?)(?:-([123]))?", stem, re.DOTALL).groups()
    for domain, tasks in SINGLE_TASKS.items():
        if task in tasks:
            path = f"{domain}/{task}-{seed or SEEDS[0]}.pt"
            return ReleasedFile(path, SHA256.get(path) if revision == REVISION else None)
    every = [task for tasks in SINGLE_TASKS.values() for task in tasks]
    raise UserError(
        f"there is no released teacher {name!r}; the nearest tasks are: "
        f"{nearest_names(task, every)} (seeds -1, -2 and -3)"
    )


def read_manifest(path: files.PathLike) -> list[ReleasedFile]:
    """Reads a JSON list of files, each `{"path": ..., "sha256": ..., "size": ...}`.

    Hash (hexadecimal) and size (bytes) may be left out. Paths are relative to
    the base URL; files are stored under the last part of their path.

    Raises:
      UserError: if the file is no such list, or a path could leave the output
        directory, or two files would be stored under one name.
    """
    entries = files.read_json(path)
    if not isinstance(entries, list) or not entries:
        raise UserError(f'{path} must hold a JSON list of {{"path", "sha256", "size"}} objects')
    listed = [_entry(entry, f"{path}, entry {n}") for n, entry in enumerate(entries, 1)]
    names = [file.name.lower() for file in listed]
    for file, name in zip(listed, names, strict=True):
        if names.count(name) > 1:
            raise UserError(f"{path} lists more than one file of the name {file.name}")
    return listed


def _entry(entry: Any, place: str) -> ReleasedFile:
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        raise UserError(f"{place} has no path")
    if unknown := set(entry) - {"path", "sha256", "size"}:
        raise UserError(f"{place} has the unknown field {sorted(unknown)[0]}")
    path, sha256, size = entry["path"], entry.get("sha256"), entry.get("size")
    # Plain relative names only: nothing that a file system or a URL reads in a second way.
    if not re.fullmatch(r"\w[\w.+-]*(/\w[\w.+-]*)*", path, re.ASCII):
        raise UserError(f"{place}: {path!r} is no plain relative path, such as dmcontrol/a-1.pt")
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", str(sha256)):
        raise UserError(f"{place}: sha256 must be 64 hexadecimal digits")
    if size is not None and (type(size) is not int or size <= 0):
        raise UserError(f"{place}: size must be a number of bytes")
    return ReleasedFile(path, sha256 and sha256.lower(), size)
