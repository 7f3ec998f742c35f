"""Limits on the mismatch, from what users give."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from specmpc_jax.config import SpeculationConfig
from specmpc_jax.correctors.corrector import Corrector
from specmpc_jax.errors import UserError
from specmpc_jax.speculation.executor import Thresholds
from specmpc_jax.types import Array

# One number for all offsets, or one for each.
Threshold = float | Sequence[float]


def thresholds_from(
    speculation: SpeculationConfig,
    corrector: Corrector | None,
    accept: tuple[Threshold | None, float | None],
    replan: tuple[Threshold | None, float | None],
) -> Thresholds:
    """Both limits; each is given as a value, or as a quantile, or not at all.

    Without either, nothing that a corrector could mend is accepted, and no plan
    is dropped; a tolerance that adapts starts from 1.

    Args:
      speculation: kind of mismatch, X as its `exec_horizon`, and whether it adapts.
      corrector: what quantiles refer to.
      accept: value and quantile.
      replan: likewise.

    Raises:
      UserError: if settings contradict each other, or there is nothing to adapt.
    """
    adapts = speculation.replan_rate > 0
    if adapts and replan == (None, None):
        # A relative mismatch of 1 means that the plan knew nothing: a start in its own unit.
        if speculation.mismatch != "relative":
            raise UserError("replan_rate needs a tau_replan to adapt if the mismatch is l2")
        replan = (1.0, None)
    limits = Thresholds(
        accept=threshold("accept", *accept, 0.0, corrector, speculation),
        replan=threshold("replan", *replan, np.inf, corrector, speculation),
    )
    if adapts and not np.isfinite(limits.replan).all():
        raise UserError("replan_rate needs a finite tau_replan, which it multiplies")
    return limits


def threshold(
    name: str,
    value: Threshold | None,
    quantile: float | None,
    default: float,
    corrector: Corrector | None,
    speculation: SpeculationConfig,
) -> Array:
    """Thresholds `[X]` from a number, a number per offset, or a calibrated quantile.

    Args:
      name: "accept" or "replan", for messages.
      value: one number, or one for each offset 1..X-1.
      quantile: instead of a value, a quantile of the mismatch in the corrector's data.
      default: the value where neither is given.
      corrector: what quantiles refer to.
      speculation: kind of mismatch, and X as its `exec_horizon`.

    Raises:
      UserError: if both or a wrong number of values are given, or a value is negative.
    """
    horizon = speculation.exec_horizon
    if quantile is not None:
        if value is not None:
            raise UserError(f"give tau_{name} or {name}_quantile, not both")
        if corrector is None:
            raise UserError(f"{name}_quantile needs a corrector, whose data it refers to")
        return jnp.asarray(corrector.thresholds_at(quantile, speculation))
    values = np.atleast_1d(default if value is None else value).astype(np.float32)
    if values.size not in (1, horizon - 1):
        raise UserError(
            f"tau_{name} has {values.size} entries; give one, or one for each offset "
            f"1..{horizon - 1}"
        )
    if np.isnan(values).any() or (values < 0).any():
        raise UserError(f"tau_{name} must be zero or more")
    later = np.broadcast_to(values, (max(horizon - 1, 1),))[: horizon - 1]
    return jnp.asarray(np.concatenate([[0.0], later]).astype(np.float32))
