"""Converts official chunk files into records that are sampled where they lie on disk.

    python -m experiments.convert_dataset --data_dir=mt30 --output=mt30-records

The numbers of a step lie side by side afterwards, so that training reads a slice at one
place; the official files keep each kind of number apart. A killed conversion goes on
with the next chunk. Nothing in the files is run.
"""

from absl import flags

from experiments.support import launch
from specmpc_jax.datasets.episodes import convert, open_chunks
from specmpc_jax.errors import UserError
from specmpc_jax.progress import Progress

DATA_DIR = flags.DEFINE_string("data_dir", None, "Directory of chunk files (*.pt).")
OUTPUT = flags.DEFINE_string("output", None, "Directory that gets the records.")


def main() -> None:
    """Converts every chunk of the directory."""
    if not DATA_DIR.value or not OUTPUT.value:
        raise UserError("give both --data_dir and --output")
    chunks = open_chunks(DATA_DIR.value)
    total = sum(chunk.num_episodes for chunk in chunks)
    with Progress(total, "convert", unit="episode", quiet=launch.QUIET.value) as progress:
        convert(chunks, OUTPUT.value, progress.advance)
    print(f"{total:,} episodes of {chunks[0].rows - 1} steps in {OUTPUT.value}")


if __name__ == "__main__":
    launch.run(main)
