"""Fits a corrector to distillation data and keeps the best by held-out loss."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from specmpc_jax.config import CorrectorConfig, CorrectorTrainConfig, to_json
from specmpc_jax.correctors import registry
from specmpc_jax.correctors.corrector import Corrector
from specmpc_jax.correctors.dataset import CorrectorDataset
from specmpc_jax.errors import UserError
from specmpc_jax.speculation.calibration import mismatch_quantiles
from specmpc_jax.types import Array, CorrectionContext, Params, PlannedStep


@flax.struct.dataclass
class Examples:
    """A dataset on the device: all visited steps, and where their windows lie."""

    steps: PlannedStep  # [R, ...]
    teacher: Array  # [R, A]
    window: Array  # [R, W] int
    window_mask: Array  # [R, W] bool

    def context(self, rows: Array) -> CorrectionContext:
        """What the corrector would have seen at some rows `[M]`."""

        def take(index: Array) -> PlannedStep:
            return jax.tree.map(lambda leaf: leaf[index], self.steps)

        return CorrectionContext(
            step=take(rows),
            window=take(self.window[rows]),
            window_mask=self.window_mask[rows],
            plan_mean=jnp.zeros((*rows.shape, 1, self.teacher.shape[-1])),
        )


class Epoch(NamedTuple):
    """Losses of one pass over the data."""

    epoch: int
    train_loss: float
    held_out_loss: float


def make_examples(data: CorrectorDataset, history_len: int) -> Examples:
    """Moves a dataset to the device, with windows of `history_len` steps."""
    window, mask = data.windows(history_len)
    steps = PlannedStep(
        *(jnp.asarray(data[name]) for name in ("z_real", "z_pred", "a_plan", "offset"))
    )
    return Examples(steps, jnp.asarray(data["a_teacher"]), jnp.asarray(window), jnp.asarray(mask))


def squared_error(
    config: CorrectorConfig,
    params: Params,
    examples: Examples,
    rows: Array,
    plan_penalty: float,
    dropout_key: Array | None = None,
) -> Array:
    """Mean squared distance to the teacher, plus a penalty on leaving the plan.

    Args:
      config: architecture.
      params: its parameters.
      examples: the data.
      rows: `[M]` indices.
      plan_penalty: weight of the squared distance to the planned action.
      dropout_key: switches dropout on and is consumed by it. Predictions are
        then left unclipped, so that gradients reach saturated ones.
    """
    context = examples.context(rows)
    action = registry.apply(config, params, context, dropout_key, clip=dropout_key is None)
    loss = jnp.mean(jnp.square(action - examples.teacher[rows]))
    return loss + plan_penalty * jnp.mean(jnp.square(action - context.step.a_plan))


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(3, 4))
def _run_epoch(
    config: CorrectorConfig,
    training: CorrectorTrainConfig,
    examples: Examples,
    params: Params,
    optimiser: optax.OptState,
    batches: Array,
    key: Array,
) -> tuple[Params, optax.OptState, Array]:
    """Fits minibatches of rows `[S, M]` in order; consumes `key`."""

    def fit(carry: tuple, inputs: tuple[Array, Array]) -> tuple[tuple, Array]:
        params, optimiser = carry
        rows, key = inputs
        loss, gradient = jax.value_and_grad(
            lambda p: squared_error(config, p, examples, rows, training.plan_penalty, key)
        )(params)
        updates, optimiser = _optimiser(training).update(gradient, optimiser, params)
        return (optax.apply_updates(params, updates), optimiser), loss

    keys = jax.random.split(key, len(batches))
    (params, optimiser), losses = jax.lax.scan(fit, (params, optimiser), (batches, keys))
    return params, optimiser, losses.mean()


_held_out_loss = jax.jit(squared_error, static_argnums=0)


def _optimiser(training: CorrectorTrainConfig) -> optax.GradientTransformation:
    return optax.adamw(training.learning_rate, weight_decay=training.weight_decay)


def train(
    config: CorrectorConfig,
    training: CorrectorTrainConfig,
    data: CorrectorDataset,
    report: Callable[[Epoch], None] | None = None,
) -> tuple[Corrector, list[Epoch]]:
    """Fits one corrector to the rows that a corrector would see (offsets from 1 on).

    Args:
      config: architecture; latent and action sizes are taken from the data.
      training: how; its seed decides the split, the start and the batches.
      data: distillation data of one teacher.
      report: called after each epoch.

    Returns:
      The corrector of the epoch with the least held-out loss, and all epochs.

    Raises:
      UserError: if the data hold too few episodes, or no step after a plan.
    """
    config = CorrectorConfig(
        **{
            **to_json(config),
            "latent_dim": data["z_real"].shape[1],
            "action_dim": data["a_plan"].shape[1],
        }
    )
    train_rows, held_out_rows = (
        rows[data["offset"][rows] > 0] for rows in data.split(training.held_out, training.seed)
    )
    if not len(train_rows) or not len(held_out_rows):
        raise UserError("the data hold no step after a plan: collect with blocks of 2 or more")
    examples = make_examples(data, config.history_len)
    key = jax.random.key(training.seed)
    params = jax.jit(registry.init, static_argnums=0)(config, jax.random.fold_in(key, 0))
    optimiser = _optimiser(training).init(params)
    shuffle = np.random.default_rng(training.seed)
    size = min(training.batch_size, len(train_rows))
    epochs: list[Epoch] = []
    best = params
    for number in range(1, training.epochs + 1):
        order = shuffle.permutation(train_rows)
        batches = order[: len(order) // size * size].reshape(-1, size)
        params, optimiser, loss = _run_epoch(
            config,
            training,
            examples,
            jax.tree.map(jnp.copy, params),
            optimiser,
            jnp.asarray(batches),
            jax.random.fold_in(key, number),
        )
        held_out = _held_out_loss(config, params, examples, jnp.asarray(held_out_rows), 0.0)
        epochs.append(Epoch(number, float(loss), float(held_out)))
        if epochs[-1].held_out_loss <= min(epoch.held_out_loss for epoch in epochs):
            best = params
        if report is not None:
            report(epochs[-1])
    chosen = min(epochs, key=lambda epoch: epoch.held_out_loss)
    record = {
        "training": to_json(training),
        "rows": len(train_rows),
        "held_out_rows": len(held_out_rows),
        "episodes": data.num_episodes,
        "best_epoch": chosen.epoch,
        "train_loss": chosen.train_loss,
        "held_out_loss": chosen.held_out_loss,
        "plan_error": float(np.mean(np.square(data["a_plan"] - data["a_teacher"])[held_out_rows])),
        "data": data.metadata,
    }
    quantiles = mismatch_quantiles(data["distance"], data["offset"])
    params = jax.tree.map(np.asarray, best)
    return Corrector(config, params, data.teacher, quantiles, record), epochs
