"""Downloads released TD-MPC2 teachers; what is there already is kept.

    python -m experiments.download_teachers --task_set=mt80 --sizes=5,19
    python -m experiments.download_teachers --task=walker-walk,humanoid-run-2

An interrupted download goes on where it stopped when the command is repeated.
"""

import urllib.parse
from pathlib import Path

from absl import flags

from converters import released
from converters.download import download
from converters.released import ReleasedFile
from experiments.support import launch
from specmpc_jax.checkpointing import file_sha256
from specmpc_jax.errors import UserError
from specmpc_jax.progress import ByteProgress

OUTPUT_DIR = flags.DEFINE_string("output_dir", "tdmpc2_pretrained", "Directory of the files.")
TASK_SET = flags.DEFINE_enum("task_set", "mt80", ["mt80", "mt30"], "Tasks of multi-task teachers.")
SIZES = flags.DEFINE_list(
    "sizes",
    ["5", "19", "48", "317"],
    "Sizes of multi-task teachers in millions of parameters (1, 5, 19, 48, 317).",
)
SMALLEST = flags.DEFINE_boolean("include_smallest", False, "Add the multi-task teacher of size 1.")
TASK = flags.DEFINE_list(
    "task",
    [],
    "Single-task teachers (all of size 5) instead, by task (walker-walk: the first seed) or by "
    "file (walker-walk-2).",
)
MANIFEST = flags.DEFINE_string(
    "manifest",
    None,
    'Download what a JSON list names instead: {"path", "sha256", "size"} objects, '
    "the last two optional.",
)
REVISION = flags.DEFINE_string(
    "revision", released.REVISION, "Revision of the release; hashes are known of the default one."
)
BASE_URL = flags.DEFINE_string(
    "base_url", released.BASE_URL, "Address that paths are relative to; {revision} is filled in."
)


def main() -> None:
    """Downloads the files that the flags name, one after the other."""
    base_url = BASE_URL.value.replace("{revision}", urllib.parse.quote(REVISION.value, safe=""))
    for file in _wanted():
        _bring(file, f"{base_url.rstrip('/')}/{file.path}", Path(OUTPUT_DIR.value) / file.name)


def _wanted() -> list[ReleasedFile]:
    if MANIFEST.value and TASK.value:
        raise UserError("give either --manifest or --task")
    multitask_flags = [f.name for f in (TASK_SET, SIZES, SMALLEST) if flags.FLAGS[f.name].present]
    if (MANIFEST.value or TASK.value) and multitask_flags:
        raise UserError(
            f"--{multitask_flags[0]} is for multi-task teachers; leave out --task and --manifest"
        )
    if MANIFEST.value:
        return released.read_manifest(MANIFEST.value)
    if TASK.value:
        named = [released.single_task_file(name, REVISION.value) for name in TASK.value]
        return list(dict.fromkeys(named))
    if not all(size.isdecimal() for size in SIZES.value):
        raise UserError(f"--sizes takes whole numbers, got {','.join(SIZES.value)}")
    sizes = {int(size) for size in SIZES.value} | ({1} if SMALLEST.value else set())
    return released.multitask_files(TASK_SET.value, sorted(sizes))


def _bring(file: ReleasedFile, url: str, path: Path) -> None:
    """Downloads a file, or checks the one that is there as far as it is known."""
    if path.exists():
        _check(file, path)
        print(f"{path} is there already")
        return
    with ByteProgress(file.name, quiet=launch.QUIET.value) as progress:
        sha256 = download(
            url,
            path,
            sha256=file.sha256,
            size=file.size,
            on_progress=progress.show,
            on_retry=progress.write,
        )
    print(f"wrote {path}  ({path.stat().st_size / 1e6:.1f} MB, SHA-256 {sha256})", flush=True)


def _check(file: ReleasedFile, path: Path) -> None:
    found = path.stat().st_size
    if file.size is not None and found != file.size:
        raise UserError(f"{path} has {found:,} bytes instead of {file.size:,}; move it away first")
    if file.sha256 is not None and file_sha256(path) != file.sha256:
        raise UserError(f"{path} is not the released file (wrong SHA-256); move it away first")


if __name__ == "__main__":
    launch.run(main)
