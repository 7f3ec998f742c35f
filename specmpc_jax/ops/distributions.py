"""The squashed Gaussian of the policy prior (spec section 4)."""

import math

import jax
import jax.numpy as jnp

from specmpc_jax.types import Array

LOG_TWO_PI = math.log(2 * math.pi)


def bounded_log_std(x: Array, minimum: float, maximum: float) -> Array:
    """Maps raw network outputs `[...]` smoothly into [minimum, maximum]."""
    return minimum + 0.5 * (maximum - minimum) * (jnp.tanh(x) + 1)


def gaussian_log_prob(noise: Array, log_std: Array) -> Array:
    """Log density of mean + noise * std: `[..., A]` -> `[...]`."""
    return jnp.sum(-0.5 * jnp.square(noise) - log_std - 0.5 * LOG_TWO_PI, axis=-1)


def squash_correction(action: Array) -> Array:
    """Log determinant of tanh at a squashed action: `[..., A]` -> `[...]`.

    Subtract it from the Gaussian log density. The relu and the 1e-6 keep
    saturated actions finite, as in the official code.
    """
    return jnp.sum(jnp.log(jax.nn.relu(1 - jnp.square(action)) + 1e-6), axis=-1)
