"""Trains correctors from collected data.

python -m experiments.train_corrector --data=data/corrector_data_1m.npz --corrector_type=both
"""

from pathlib import Path

from absl import flags

from experiments.support import corrector_files, corrector_training, launch, tables
from specmpc_jax import files
from specmpc_jax.correctors.dataset import CorrectorDataset
from specmpc_jax.correctors.training import Epoch
from specmpc_jax.errors import UserError

MODEL_SIZE = flags.DEFINE_string(
    "model_size", None, "Size of the teacher whose data to use (1, 5, ...), or all; any if empty."
)
DATA_DIR = flags.DEFINE_string("data_dir", corrector_files.DATA_DIR, "Directory of the data.")
DATA = flags.DEFINE_string("data", None, "One data file; looked for in --data_dir if empty.")
KIND = flags.DEFINE_enum(
    "corrector_type",
    "both",
    ["two_tower", "temporal", "bc", "gated", "both", "all"],
    "Which correctors: both are two_tower and temporal, all adds bc and gated.",
)
CORRECTOR_DIR = flags.DEFINE_string(
    "corrector_dir", corrector_files.CORRECTOR_DIR, "Directory that gets the correctors."
)
HISTORY_LEN = flags.DEFINE_integer(
    "history_len",
    None,
    "Window of temporal correctors, in steps; as collected if empty.",
    lower_bound=1,
)

_KINDS = {"both": ("two_tower", "temporal"), "all": ("two_tower", "temporal", "bc", "gated")}


def main() -> None:
    """Trains every corrector kind that was asked for, on every data file that was."""
    rows = []
    for path in _data_files():
        data = CorrectorDataset.load(path)
        for kind in _KINDS.get(KIND.value, (KIND.value,)):
            rows.append(_train(kind, data))
    print(tables.format_text(rows))


def _train(kind: str, data: CorrectorDataset) -> dict[str, object]:
    config = corrector_training.corrector_config(
        kind, HISTORY_LEN.value or data.metadata["history_len"]
    )
    training = corrector_training.train_config()
    path = corrector_files.corrector_path(CORRECTOR_DIR.value, data.metadata["model_size"], kind)
    corrector = corrector_training.trained_before(path, config, training, data)
    if corrector is not None:
        print(f"{path} is complete, skipped", flush=True)
    else:
        corrector, epochs = corrector_training.train_with_progress(config, training, data)
        losses = path.with_name(path.name + "_losses.csv")
        files.write_csv(losses, [epoch._asdict() for epoch in epochs], Epoch._fields)
        corrector.save(str(path), overwrite=True)
        launch.write_run_record(path)
    return {
        "corrector": str(path),
        "rows": corrector.record["rows"],
        "parameters": corrector.num_parameters,
        "train error": corrector.record["train_loss"],
        "held-out error": corrector.record["held_out_loss"],
        "plan's own error": corrector.record["plan_error"],
        "best epoch": corrector.record["best_epoch"],
    }


def _data_files() -> list[Path]:
    if DATA.value:
        return [Path(DATA.value)]
    size = MODEL_SIZE.value
    if size in (None, "all"):
        found = corrector_files.data_files(DATA_DIR.value)
        if size is None and len(found) > 1:
            raise UserError(
                f"{DATA_DIR.value} holds data of several sizes "
                f"({', '.join(p.name for p in found)}): name one with --model_size, or all"
            )
        return found
    if not size.isdecimal():
        raise UserError(f"model size {size!r} is no number; it can be 1, 5, 19, 48, 317 or all")
    return [corrector_files.data_path(DATA_DIR.value, int(size))]


if __name__ == "__main__":
    launch.run(main)
