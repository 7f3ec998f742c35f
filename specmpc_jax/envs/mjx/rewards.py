"""The suite's way to reward: 1 within bounds, less with the distance from them.

The shape is that of Tassa et al., "DeepMind Control Suite" (arXiv 1801.00690), section 3.
"""

import jax.numpy as jnp
import numpy as np

from specmpc_jax.types import Array

_INFINITY = float("inf")


def tolerance(
    x: Array,
    lower: float = 0.0,
    upper: float = 0.0,
    margin: float = 0.0,
    shape: str = "gaussian",
    at_margin: float = 0.1,
) -> Array:
    """1 where x lies in [lower, upper], falling with its distance beyond.

    Args:
      x: `[...]`.
      lower: smallest x of full reward.
      upper: largest x of full reward.
      margin: distance at which the reward is `at_margin`; 0 gives none outside of the bounds.
      shape: "gaussian", "linear" or "quadratic".
      at_margin: see `margin`.

    Returns:
      `[...]` in [0, 1].

    Raises:
      ValueError: if the shape is unknown.
    """
    inside = (lower <= x) & (x <= upper)
    if margin == 0:
        return jnp.where(inside, 1.0, 0.0)
    distance = jnp.where(x < lower, lower - x, x - upper) / margin
    if shape == "gaussian":
        outside = jnp.exp(np.log(at_margin) * distance**2)
    elif shape == "linear":
        outside = jnp.maximum(1.0 - (1.0 - at_margin) * distance, 0.0)
    elif shape == "quadratic":
        outside = jnp.maximum(1.0 - (1.0 - at_margin) * distance**2, 0.0)
    else:
        raise ValueError(f"shape is {shape!r}; it can be gaussian, linear or quadratic")
    return jnp.where(inside, 1.0, outside)


def at_least(
    x: Array, lower: float, margin: float, shape: str = "gaussian", at_margin: float = 0.1
) -> Array:
    """`tolerance` without an upper bound."""
    return tolerance(x, lower, _INFINITY, margin, shape, at_margin)


def small_control(control: Array) -> Array:
    """1 for no control, 0.8 for the largest; the mean over actuators `[U]`."""
    return (4.0 + tolerance(control, margin=1.0, shape="quadratic", at_margin=0.0).mean()) / 5.0
