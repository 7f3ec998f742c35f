"""How far reality has left the plan (spec: speculation, "the mismatch must mean the same")."""

import jax.numpy as jnp

from specmpc_jax.types import Array

# A latent that has not moved has no scale of its own; this keeps the quotient finite.
MINIMUM_TRAVEL = 1e-6


def mismatch(kind: str, z_real: Array, z_pred: Array, z_start: Array) -> Array:
    """Distance between the real and the predicted latent.

    Args:
      kind: "relative" divides by the distance that the latent really travelled
        since the plan was made, so that 1 means "the plan knew nothing",
        whatever the model; "l2" is the raw distance.
      z_real: `[..., L]` encoded observation.
      z_pred: `[..., L]` prediction for the same step.
      z_start: `[..., L]` latent at which the plan was made.

    Returns:
      `[...]`, zero or more.
    """
    distance = jnp.linalg.norm(z_real - z_pred, axis=-1)
    if kind == "l2":
        return distance
    travelled = jnp.linalg.norm(z_real - z_start, axis=-1)
    return distance / jnp.maximum(travelled, MINIMUM_TRAVEL)
