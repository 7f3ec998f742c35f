"""Trains correctors from collected data.

python -m experiments.train_corrector --data=data/corrector_data_1m.npz --corrector_type=both
"""

from pathlib import Path

from absl import flags

from experiments import corrector_files, launch, tables
from specmpc_jax import files
from specmpc_jax.config import CorrectorConfig, CorrectorTrainConfig
from specmpc_jax.correctors.dataset import CorrectorDataset
from specmpc_jax.correctors.training import Epoch, train
from specmpc_jax.errors import UserError
from specmpc_jax.progress import Progress

MODEL_SIZE = flags.DEFINE_string(
    "model_size", None, "Size of the teacher whose data to use (1, 5, ...), or all; any if empty."
)
DATA_DIR = flags.DEFINE_string("data_dir", corrector_files.DATA_DIR, "Directory of the data.")
DATA = flags.DEFINE_string("data", None, "One data file; looked for in --data_dir if empty.")
KIND = flags.DEFINE_enum(
    "corrector_type",
    "both",
    ["two_tower", "temporal", "bc", "both", "all"],
    "Which correctors: both are two_tower and temporal, all adds the bc baseline.",
)
CORRECTOR_DIR = flags.DEFINE_string(
    "corrector_dir", corrector_files.CORRECTOR_DIR, "Directory that gets the correctors."
)
EPOCHS = flags.DEFINE_integer("epochs", 60, "Passes over the data.", lower_bound=1)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "Rows of a batch.", lower_bound=1)
LEARNING_RATE = flags.DEFINE_float("learning_rate", 1e-3, "AdamW's learning rate.", lower_bound=0.0)
WEIGHT_DECAY = flags.DEFINE_float("weight_decay", 1e-2, "AdamW's weight decay.", lower_bound=0.0)
DROPOUT = flags.DEFINE_float("dropout", 0.1, "Dropout rate.", lower_bound=0.0, upper_bound=0.9)
PLAN_PENALTY = flags.DEFINE_float(
    "plan_penalty", 0.0, "Weight of the squared distance to the planned action.", lower_bound=0.0
)
HELD_OUT = flags.DEFINE_float("held_out", 0.15, "Share of episodes held out.")
HISTORY_LEN = flags.DEFINE_integer(
    "history_len",
    None,
    "Window of temporal correctors, in steps; as collected if empty.",
    lower_bound=1,
)
HIDDEN_DIM = flags.DEFINE_integer("hidden_dim", 256, "Width of hidden layers.", lower_bound=1)
NUM_LAYERS = flags.DEFINE_integer("num_layers", 2, "Layers of each MLP.", lower_bound=1)

_KINDS = {"both": ("two_tower", "temporal"), "all": ("two_tower", "temporal", "bc")}


def main() -> None:
    """Trains every corrector kind that was asked for, on every data file that was."""
    rows = []
    for path in _data_files():
        data = CorrectorDataset.load(path)
        for kind in _KINDS.get(KIND.value, (KIND.value,)):
            rows.append(_train(kind, data))
    print(tables.format_text(rows))


def _train(kind: str, data: CorrectorDataset) -> dict[str, object]:
    config = CorrectorConfig(
        kind=kind,
        hidden_dim=HIDDEN_DIM.value,
        num_layers=NUM_LAYERS.value,
        history_len=HISTORY_LEN.value or data.metadata["history_len"],
        dropout=DROPOUT.value,
    )
    training = CorrectorTrainConfig(
        epochs=EPOCHS.value,
        batch_size=BATCH_SIZE.value,
        learning_rate=LEARNING_RATE.value,
        weight_decay=WEIGHT_DECAY.value,
        plan_penalty=PLAN_PENALTY.value,
        held_out=HELD_OUT.value,
        seed=launch.SEED.value,
    )
    with Progress(EPOCHS.value, kind, unit="epoch", quiet=launch.QUIET.value) as progress:

        def report(epoch: Epoch) -> None:
            progress.advance(train=epoch.train_loss, held_out=epoch.held_out_loss)

        corrector, epochs = train(config, training, data, report)
    path = corrector_files.corrector_path(CORRECTOR_DIR.value, data.metadata["model_size"], kind)
    corrector.record["provenance"] = launch.provenance()
    corrector.save(str(path), overwrite=True)
    launch.write_run_record(path)
    files.write_csv(
        path.with_name(path.name + "_losses.csv"), [e._asdict() for e in epochs], Epoch._fields
    )
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
