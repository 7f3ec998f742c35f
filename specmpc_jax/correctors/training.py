"""Fits a corrector to distillation data and keeps the best by held-out loss."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from specmpc_jax.config import CorrectorConfig, CorrectorTrainConfig, to_json
from specmpc_jax.correctors import losses, registry
from specmpc_jax.correctors.corrector import Corrector
from specmpc_jax.correctors.dataset import CorrectorDataset
from specmpc_jax.correctors.losses import Targets
from specmpc_jax.errors import UserError
from specmpc_jax.speculation.calibration import mismatch_quantiles
from specmpc_jax.types import Array, CorrectionContext, Params, PlannedStep


@flax.struct.dataclass
class Examples:
    """A dataset on the device: all visited steps, and where their windows lie."""

    steps: PlannedStep  # [R, ...]
    teacher: Array  # [R, A]
    learns: Array  # [R] bool, see `losses.Targets`
    judges: Array  # [R] bool
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

    def targets(self, rows: Array) -> Targets:
        """What some rows `[M]` teach."""
        return Targets(self.teacher[rows], self.learns[rows], self.judges[rows])


class Epoch(NamedTuple):
    """Mean squared errors of one pass over the data, after a plan's first step."""

    epoch: int
    train_loss: float
    held_out_loss: float


class Rows(NamedTuple):
    """Indices of the rows that a corrector learns from and is chosen by."""

    train: np.ndarray
    referees: np.ndarray  # those of `train` that a gated corrector's trust is fitted to
    held_out: np.ndarray


def make_examples(data: CorrectorDataset, history_len: int) -> Examples:
    """Moves a dataset to the device, with windows of `history_len` steps."""
    window, mask = data.windows(history_len)
    names = ("z_real", "z_pred", "a_plan", "offset", "distance")
    steps = PlannedStep(*(jnp.asarray(data[name]) for name in names))
    every = jnp.ones(len(data), bool)
    return Examples(
        steps,
        jnp.asarray(data["a_teacher"]),
        learns=every,
        judges=every,
        window=jnp.asarray(window),
        window_mask=jnp.asarray(mask),
    )


def _stages(examples: Examples, referees: np.ndarray) -> tuple[Examples, Examples]:
    """The data of the first and of the second half of the epochs.

    At first a gated corrector's experts do not learn from the referees, which
    its trust is fitted to. Then they learn from all, and the trust stays.
    """
    if not len(referees):
        return examples, examples
    judges = jnp.zeros_like(examples.judges).at[referees].set(True)
    first = dataclasses.replace(examples, learns=~judges, judges=judges)
    return first, dataclasses.replace(examples, judges=jnp.zeros_like(judges))


def choose_rows(kind: str, training: CorrectorTrainConfig, data: CorrectorDataset) -> Rows:
    """Splits the data by episode; the seed decides how.

    Raises:
      UserError: if the data hold too few episodes, or no step after a plan.
    """
    train, held_out = data.split(training.held_out, training.seed)
    after_plan = data["offset"] > 0
    held_out = held_out[after_plan[held_out]]
    if not after_plan[train].any() or not len(held_out):
        raise UserError("the data hold no step after a plan: collect with blocks of 2 or more")
    if kind not in registry.LEARN_AT_PLANS or not training.plan_rows:
        train = train[after_plan[train]]
    referees = np.zeros(0, int)
    episodes = np.unique(data["episode"][train])
    if kind == "gated" and training.referee_share and len(episodes) > 1:
        count = min(max(1, round(training.referee_share * len(episodes))), len(episodes) - 1)
        chosen = np.random.default_rng(training.seed + 1).choice(episodes, count, replace=False)
        referees = train[np.isin(data["episode"][train], chosen)]
    return Rows(train, referees, held_out)


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
        context, targets = examples.context(rows), examples.targets(rows)
        gradient, error = jax.grad(
            lambda p: losses.imitation_loss(config, training, p, context, targets, key),
            has_aux=True,
        )(params)
        updates, optimiser = _optimiser(training).update(gradient, optimiser, params)
        return (optax.apply_updates(params, updates), optimiser), error

    keys = jax.random.split(key, len(batches))
    (params, optimiser), errors = jax.lax.scan(fit, (params, optimiser), (batches, keys))
    return params, optimiser, errors.mean()


@functools.partial(jax.jit, static_argnums=0)
def _held_out_loss(
    config: CorrectorConfig, params: Params, examples: Examples, rows: Array
) -> Array:
    return losses.squared_error(config, params, examples.context(rows), examples.teacher[rows])


_apply = jax.jit(registry.apply, static_argnums=0)
_gated_parts = jax.jit(registry.gated_parts, static_argnums=0)


def _optimiser(training: CorrectorTrainConfig) -> optax.GradientTransformation:
    return optax.adamw(training.learning_rate, weight_decay=training.weight_decay)


def train(
    config: CorrectorConfig,
    training: CorrectorTrainConfig,
    data: CorrectorDataset,
    report: Callable[[Epoch], None] | None = None,
) -> tuple[Corrector, list[Epoch]]:
    """Fits one corrector.

    Errors that are reported and chosen by are those of steps after a plan's
    first, for all kinds alike.

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
    config = dataclasses.replace(
        config, latent_dim=data["z_real"].shape[1], action_dim=data["a_plan"].shape[1]
    )
    rows = choose_rows(config.kind, training, data)
    examples = make_examples(data, config.history_len)
    stages = _stages(examples, rows.referees)
    held_out_rows = jnp.asarray(rows.held_out)
    key = jax.random.key(training.seed)
    params = jax.jit(registry.init, static_argnums=0)(config, jax.random.fold_in(key, 0))
    optimiser = _optimiser(training).init(params)
    shuffle = np.random.default_rng(training.seed)
    size = min(training.batch_size, len(rows.train))
    epochs: list[Epoch] = []
    best, chosen = params, Epoch(0, math.nan, math.inf)
    for number in range(1, training.epochs + 1):
        order = shuffle.permutation(rows.train)
        batches = order[: len(order) // size * size].reshape(-1, size)
        params, optimiser, error = _run_epoch(
            config,
            training,
            stages[number > training.epochs // 2],
            jax.tree.map(jnp.copy, params),
            optimiser,
            jnp.asarray(batches),
            jax.random.fold_in(key, number),
        )
        held_out = _held_out_loss(config, params, examples, held_out_rows)
        epoch = Epoch(number, float(error), float(held_out))
        epochs.append(epoch)
        if not chosen.epoch or epoch.held_out_loss < chosen.held_out_loss:
            best, chosen = params, epoch
        if report is not None:
            report(epoch)
    record = {
        "training": to_json(training),
        "rows": len(rows.train),
        "held_out_rows": len(rows.held_out),
        "episodes": data.num_episodes,
        "best_epoch": chosen.epoch,
        "train_loss": chosen.train_loss,
        "held_out_loss": chosen.held_out_loss,
        "plan_error": float(np.mean(np.square(data["a_plan"] - data["a_teacher"])[rows.held_out])),
        **_evidence(config, best, data, examples, rows.held_out),
        "data": data.metadata,
    }
    quantiles = mismatch_quantiles(data["distance"], data["offset"])
    params = jax.tree.map(np.asarray, best)
    return Corrector(config, params, data.teacher, quantiles, record), epochs


def _evidence(
    config: CorrectorConfig,
    params: Params,
    data: CorrectorDataset,
    examples: Examples,
    held_out: np.ndarray,
) -> dict[str, Any]:
    """Held-out error of the corrector by offset, and of a gated one's parts, with its trust."""
    context = examples.context(jnp.asarray(held_out))
    teacher, offset = data["a_teacher"][held_out], data["offset"][held_out]

    def by_offset(values: Array) -> dict[str, float]:
        return {str(k): float(np.mean(np.asarray(values)[offset == k])) for k in np.unique(offset)}

    def error(action: Array) -> dict[str, float]:
        return by_offset(np.square(np.asarray(action) - teacher).mean(-1))

    action = _apply(config, params, context)
    evidence = {"held_out_by_offset": error(action), "plan_by_offset": error(context.step.a_plan)}
    if config.kind == "gated":
        parts = _gated_parts(config, params, context)
        evidence["proposal_by_offset"] = error(parts.proposal)
        evidence["correction_by_offset"] = error(np.clip(parts.correction, -1.0, 1.0))
        evidence["trust_by_offset"] = by_offset(parts.trust)
    return evidence
