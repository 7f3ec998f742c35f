"""Running 5th-95th percentile range that normalises Q in the policy loss (spec section 8)."""

import jax.numpy as jnp

from specmpc_jax.types import Array


def percentile_range(x: Array) -> Array:
    """Distance between the 5th and the 95th percentile of all entries, at least 1."""
    low, high = jnp.percentile(x, jnp.array([5.0, 95.0]))
    return jnp.maximum(high - low, 1.0)


def update_scale(scale: Array, x: Array, tau: float) -> Array:
    """Moves the scale `[]` by a fraction tau towards the percentile range of x."""
    return scale + tau * (percentile_range(x) - scale)
