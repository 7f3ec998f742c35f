"""Released teachers by name: downloaded, checked, converted, compared, and kept.

`specmpc_jax.load("official:NAME")` finds `fetch` here by the package's entry point in the group
`specmpc_jax.teachers`; the library itself does not know the converters.
"""

import os
import urllib.parse
from pathlib import Path

from converters import released
from converters.download import download
from converters.released import ReleasedFile
from specmpc_jax import files
from specmpc_jax.checkpointing import file_sha256
from specmpc_jax.errors import UserError
from specmpc_jax.machine import cache_directory
from specmpc_jax.progress import ByteProgress

_HUB = "https://huggingface.co"


def fetch(name: str, *, quiet: bool = False) -> Path:
    """Brings a released teacher and converts it; what is kept from an earlier call is used.

    Args:
      name: `walker-walk` (the first seed), `walker-walk-2`, `mt30-5M`, with or without the
        directory of the release (`dmcontrol/walker-walk-1`).
      quiet: show no progress.

    Returns:
      The directory of the converted teacher, under the user's cache directory. The
      official file is kept beside it. `HF_ENDPOINT` names a mirror of Hugging Face.

    Raises:
      UserError: if there is no such teacher, it cannot be brought or is not the released
        file, PyTorch is not installed, or torch and Flax disagree about it.
    """
    file = _find(name)
    directory = cache_directory() / "teachers" / released.REVISION[:12]
    teacher = directory / Path(file.path).with_suffix("")
    if teacher.is_dir():
        return teacher
    checkpoint = directory / file.path
    _bring(file, checkpoint, quiet)
    _convert(checkpoint, teacher)
    return teacher


def _find(name: str) -> ReleasedFile:
    folder, _, stem = name.rpartition("/")
    stem = stem.removesuffix(".pt")
    task_set, _, size = stem.partition("-")
    if task_set.startswith("mt") and size.removesuffix("M").isdecimal():
        (file,) = released.multitask_files(task_set, [int(size.removesuffix("M"))])
    else:
        file = released.single_task_file(stem)
    if folder not in ("", str(Path(file.path).parent)):
        raise UserError(f"there is no released teacher {name!r}; it is called {file.path}")
    return file


def _bring(file: ReleasedFile, checkpoint: Path, quiet: bool) -> None:
    """Downloads the file unless it is there."""
    if checkpoint.exists() and file.sha256 in (None, file_sha256(checkpoint)):
        return
    hub = os.environ.get("HF_ENDPOINT", _HUB).rstrip("/")
    base = released.BASE_URL.replace(_HUB, hub)
    url = base.replace("{revision}", urllib.parse.quote(released.REVISION)) + f"/{file.path}"
    with ByteProgress(file.name, quiet=quiet) as progress:
        download(
            url,
            checkpoint,
            sha256=file.sha256,
            size=file.size,
            on_progress=progress.show,
            on_retry=progress.write,
        )


def _convert(checkpoint: files.PathLike, teacher: Path) -> None:
    """Compares both sides before anything is written."""
    try:
        from converters import transfer, verify
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise UserError(
            "official teachers are read with PyTorch: pip install 'specmpc-jax[convert]'"
        ) from error
    source = transfer.read_torch(checkpoint)
    report = verify.parity_report(source.state_dict, source.params, source.config)
    verify.require_parity(report)
    transfer.write_flax(teacher, transfer.with_parity(source, report))
