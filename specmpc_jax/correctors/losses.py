"""What correctors are fitted to: the teacher's action, and how much errors count."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from specmpc_jax.config import CorrectorConfig, CorrectorTrainConfig
from specmpc_jax.correctors import registry
from specmpc_jax.types import Array, CorrectionContext, Params


@flax.struct.dataclass
class Targets:
    """What rows are to teach; leading axis M as their context."""

    teacher: Array  # [M, A] the teacher's action
    learns: Array  # [M] bool, rows that the experts of a gated corrector learn from
    judges: Array  # [M] bool, rows that its trust is fitted to


def imitation_loss(
    config: CorrectorConfig,
    training: CorrectorTrainConfig,
    params: Params,
    context: CorrectionContext,
    targets: Targets,
    dropout_key: Array,
) -> tuple[Array, Array]:
    """What training minimises: the error to the teacher, plus a penalty on leaving the plan.

    Predictions are left unclipped, so that gradients reach saturated ones.

    Args:
      config: architecture.
      training: loss and penalty.
      params: its parameters.
      context: rows `[M]`.
      targets: likewise.
      dropout_key: consumed.

    Returns:
      The loss `[]`, and the mean squared error `[]` of the corrected action
      alone, over rows after a plan's first step.
    """
    if config.kind == "gated":
        return _gated_loss(config, training, params, context, targets, dropout_key)
    action = registry.apply(config, params, context, dropout_key, clip=False)
    loss = jnp.mean(_row_error(training, action, targets.teacher))
    return loss + _penalty(training, action, context), _reported(action, context, targets)


def _gated_loss(
    config: CorrectorConfig,
    training: CorrectorTrainConfig,
    params: Params,
    context: CorrectionContext,
    targets: Targets,
    dropout_key: Array,
) -> tuple[Array, Array]:
    """Three losses, none of which reaches into another's parameters (see `gated`)."""
    teacher = targets.teacher
    after_plan = context.step.offset > 0
    experts = registry.gated_parts(config, params, context, dropout_key)
    # The referee judges the experts as they will act, without dropout, and teaches them nothing.
    judged = registry.gated_parts(config, params, context)
    judged = dataclasses.replace(
        judged,
        proposal=jax.lax.stop_gradient(judged.proposal),
        correction=jax.lax.stop_gradient(judged.correction),
    )

    def mean(error: Array, rows: Array) -> Array:
        return jnp.sum(error * rows) / jnp.maximum(jnp.sum(rows), 1)

    loss = (
        mean(_row_error(training, experts.proposal, teacher), targets.learns)
        + mean(_row_error(training, experts.correction, teacher), targets.learns & after_plan)
        + mean(_row_error(training, judged.action(), teacher), targets.judges & after_plan)
    )
    penalty = _penalty(training, experts.correction, context)
    return loss + penalty, _reported(judged.action(), context, targets)


def _row_error(training: CorrectorTrainConfig, action: Array, teacher: Array) -> Array:
    """Error of each row `[M]`; beyond `huber_width` a Huber error grows linearly."""
    distance = jnp.abs(action - teacher)
    error = jnp.square(distance)
    if training.loss == "huber":
        width = training.huber_width
        error = jnp.where(distance <= width, error, width * (2.0 * distance - width))
    return jnp.mean(error, axis=-1)


def _penalty(training: CorrectorTrainConfig, action: Array, context: CorrectionContext) -> Array:
    return training.plan_penalty * jnp.mean(jnp.square(action - context.step.a_plan))


def _reported(action: Array, context: CorrectionContext, targets: Targets) -> Array:
    after_plan = (context.step.offset > 0).astype(action.dtype)
    error = jnp.mean(jnp.square(jax.lax.stop_gradient(action) - targets.teacher), axis=-1)
    return jnp.sum(error * after_plan) / jnp.maximum(jnp.sum(after_plan), 1.0)


def squared_error(
    config: CorrectorConfig, params: Params, context: CorrectionContext, teacher: Array
) -> Array:
    """Mean squared distance of the corrected actions, as they are executed, to the teacher's."""
    return jnp.mean(jnp.square(registry.apply(config, params, context) - teacher))
