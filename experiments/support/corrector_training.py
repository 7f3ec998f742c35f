"""Flags of the binaries that train correctors, and the training itself with its progress bar."""

import dataclasses
from pathlib import Path

from absl import flags

from experiments.support import launch
from specmpc_jax import files
from specmpc_jax.config import CorrectorConfig, CorrectorTrainConfig, to_json
from specmpc_jax.correctors.corrector import Corrector
from specmpc_jax.correctors.dataset import CorrectorDataset
from specmpc_jax.correctors.training import Epoch, train
from specmpc_jax.progress import Progress

EPOCHS = flags.DEFINE_integer("epochs", 60, "Passes over the data.", lower_bound=1)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "Rows of a batch.", lower_bound=1)
LEARNING_RATE = flags.DEFINE_float("learning_rate", 1e-3, "AdamW's learning rate.", lower_bound=0.0)
WEIGHT_DECAY = flags.DEFINE_float("weight_decay", 1e-2, "AdamW's weight decay.", lower_bound=0.0)
DROPOUT = flags.DEFINE_float("dropout", 0.1, "Dropout rate.", lower_bound=0.0, upper_bound=0.9)
LOSS = flags.DEFINE_enum(
    "loss", "squared", ["squared", "huber"], "Error to the teacher; huber minds outliers less."
)
HUBER_WIDTH = flags.DEFINE_float(
    "huber_width", 0.3, "Error, in units of the action, beyond which huber grows linearly."
)
PLAN_ROWS = flags.DEFINE_bool(
    "plan_rows", True, "Let bc and gated also learn from steps at which a plan was just made."
)
REFEREE_SHARE = flags.DEFINE_float(
    "referee_share",
    0.25,
    "Share of the training episodes that a gated corrector's trust is fitted to, and its experts "
    "do not learn from before the second half of the epochs.",
)
CORRECTION_BOUND = flags.DEFINE_float(
    "correction_bound", 0.5, "How far a gated corrector moves a planned action at most."
)
PLAN_PENALTY = flags.DEFINE_float(
    "plan_penalty", 0.0, "Weight of the squared distance to the planned action.", lower_bound=0.0
)
HELD_OUT = flags.DEFINE_float("held_out", 0.15, "Share of episodes held out.")
HIDDEN_DIM = flags.DEFINE_integer("hidden_dim", 256, "Width of hidden layers.", lower_bound=1)
NUM_LAYERS = flags.DEFINE_integer("num_layers", 2, "Layers of each MLP.", lower_bound=1)


def corrector_config(kind: str, history_len: int) -> CorrectorConfig:
    """The architecture that the flags describe; `history_len` is the window in steps."""
    return CorrectorConfig(
        kind=kind,
        hidden_dim=HIDDEN_DIM.value,
        num_layers=NUM_LAYERS.value,
        history_len=history_len,
        dropout=DROPOUT.value,
        correction_bound=CORRECTION_BOUND.value,
    )


def train_config() -> CorrectorTrainConfig:
    """The training that the flags describe."""
    return CorrectorTrainConfig(
        epochs=EPOCHS.value,
        batch_size=BATCH_SIZE.value,
        learning_rate=LEARNING_RATE.value,
        weight_decay=WEIGHT_DECAY.value,
        loss=LOSS.value,
        huber_width=HUBER_WIDTH.value,
        plan_rows=PLAN_ROWS.value,
        referee_share=REFEREE_SHARE.value,
        plan_penalty=PLAN_PENALTY.value,
        held_out=HELD_OUT.value,
        seed=launch.SEED.value,
    )


def train_with_progress(
    config: CorrectorConfig, training: CorrectorTrainConfig, data: CorrectorDataset
) -> tuple[Corrector, list[Epoch]]:
    """`training.train` under a progress bar; stores where the corrector comes from."""
    with Progress(training.epochs, config.kind, unit="epoch", quiet=launch.QUIET.value) as progress:

        def report(epoch: Epoch) -> None:
            progress.advance(train=epoch.train_loss, held_out=epoch.held_out_loss)

        corrector, epochs = train(config, training, data, report)
    corrector.record["provenance"] = launch.provenance()
    return corrector, epochs


def trained_before(
    path: Path, config: CorrectorConfig, training: CorrectorTrainConfig, data: CorrectorDataset
) -> Corrector | None:
    """The corrector at `path`, if it was trained in this way on these data."""
    if not path.exists():
        return None
    kept = Corrector.load(str(path))
    sizes = {"latent_dim": kept.config.latent_dim, "action_dim": kept.config.action_dim}
    same = (
        kept.config == dataclasses.replace(config, **sizes)
        and kept.record.get("training") == files.to_plain(to_json(training))
        and kept.record.get("data") == files.to_plain(data.metadata)
        and kept.record.get("episodes") == data.num_episodes
    )
    return kept if same else None
