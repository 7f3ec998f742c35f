"""Imports correctors of the public PyTorch implementation of arXiv 2512.17250, or their data.

  python -m converters.import_corrector --checkpoint corrector_5m_two_tower.pth \\
      --teacher teachers/mt30-5M --output correctors/corrector_5m_two_tower
  python -m converters.import_corrector --data corrector_data_5m.pt \\
      --teacher teachers/mt30-5M --task walker-walk --output data/corrector_data_5m.npz

Files are read without running anything in them, keys that are unknown or missing
are refused by name, and a corrector is compared with a torch forward pass before
it is written. Such files do not say which teacher they belong to: you do.
"""

from pathlib import Path

from absl import flags

from experiments.support import launch
from specmpc_jax import Agent, load
from specmpc_jax.correctors.corrector import Corrector
from specmpc_jax.correctors.dataset import CorrectorDataset
from specmpc_jax.errors import UserError
from specmpc_jax.speculation.calibration import mismatch_quantiles

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Corrector file (.pth) to import.")
_DATA = flags.DEFINE_string(
    "data",
    None,
    "Corrector data (.pt) to import; with --checkpoint, data that calibrate it (.npz).",
)
_TEACHER = flags.DEFINE_string(
    "teacher", None, "Teacher that the file was made with: a converted directory or bundled:NAME."
)
_TASK = flags.DEFINE_string("task", "", "Task of the data.")
_OUTPUT = flags.DEFINE_string("output", None, "Directory of the corrector, or .npz file of data.")
_NUM_HEADS = flags.DEFINE_integer(
    "num_heads",
    None,
    "Attention heads of a temporal corrector, which its weights do not show (default 4).",
    lower_bound=1,
)
_EPISODE_LENGTH = flags.DEFINE_integer(
    "episode_length",
    None,
    "Rows of each episode of the data, where neither a field nor histories tell.",
    lower_bound=2,
)
_OVERWRITE = flags.DEFINE_boolean("overwrite", False, "Replace an existing --output.")


def main() -> None:
    """Reads, compares, then writes."""
    if not (_CHECKPOINT.value or _DATA.value) or not _TEACHER.value or not _OUTPUT.value:
        raise UserError("give --checkpoint or --data, and --teacher and --output")
    output = Path(_OUTPUT.value)
    if output.exists() and not _OVERWRITE.value:
        raise UserError(f"{output} exists already; choose another --output or add --overwrite")
    teacher = load(_TEACHER.value)
    if _CHECKPOINT.value:
        _import_corrector(teacher, Path(_CHECKPOINT.value), output)
    else:
        _import_data(teacher, Path(_DATA.value), output)


def _import_corrector(teacher: Agent, path: Path, output: Path) -> None:
    # Torch is optional, and slow to import.
    from converters import corrector_import

    read = corrector_import.read(path, _NUM_HEADS.value)
    quantiles = {}
    if _DATA.value:
        data = CorrectorDataset.load(_DATA.value)
        quantiles = mismatch_quantiles(data["distance"], data["offset"])
    corrector = Corrector(read.config, read.params, teacher.fingerprint, quantiles, read.record)
    corrector.check_teacher(teacher.fingerprint, teacher.config)
    corrector.save(str(output), overwrite=_OVERWRITE.value)
    print(
        f"{read.config.kind}: {corrector.num_parameters:,} parameters, largest difference to torch "
        f"{read.record['parity']:.2g}"
    )
    print(f"wrote {output}")


def _import_data(teacher: Agent, path: Path, output: Path) -> None:
    from converters import corrector_data_import

    if output.suffix != ".npz":
        raise UserError(f"--output is {output}; data are kept in a file ending in .npz")
    data = corrector_data_import.read(
        path, teacher, _TASK.value, _EPISODE_LENGTH.value, {"provenance": launch.provenance()}
    )
    data.save(output)
    print(f"{len(data)} steps of {data.num_episodes} episodes")
    print(f"wrote {output}")


if __name__ == "__main__":
    launch.run(main)
