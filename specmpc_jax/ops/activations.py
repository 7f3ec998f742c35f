"""Activations and normalisation without parameters of their own (spec section 2)."""

import jax
import jax.numpy as jnp

from specmpc_jax.types import Array

LAYER_NORM_EPSILON = 1e-5


def mish(x: Array) -> Array:
    """Mish activation x tanh(softplus(x)), any shape."""
    return x * jnp.tanh(jax.nn.softplus(x))


def mish_of_one_exponential(x: Array) -> Array:
    """`mish` from one exponential, any shape.

    With t = e^x, 1 - tanh(ln(1 + t)) = 2 / (t^2 + 2t + 2); where t overflows, the fraction
    is 0, as it should be. The error is a few roundings of x, so results far below zero,
    which are tiny, keep few correct digits.
    """
    t = jnp.exp(x)
    return x - (x + x) / (t * (t + 2.0) + 2.0)


def simnorm(x: Array, group: int) -> Array:
    """Simplicial normalisation: softmax within groups of the last axis, same shape."""
    grouped = x.reshape(*x.shape[:-1], -1, group)
    return jax.nn.softmax(grouped, axis=-1).reshape(x.shape)


def layer_norm(x: Array, scale: Array, offset: Array) -> Array:
    """Normalises the last axis of `[..., F]` to mean 0 and variance 1, then scales and shifts."""
    return centred_layer_norm(x - jnp.mean(x, axis=-1, keepdims=True), scale, offset)


def centred_layer_norm(x: Array, scale: Array, offset: Array) -> Array:
    """`layer_norm` of `[..., F]` whose mean over the last axis is zero already.

    Scale and offset are `[..., F]` with at most as many axes as x.
    """
    variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    normed = x * jax.lax.rsqrt(variance + LAYER_NORM_EPSILON)
    return normed * _align(scale, x.ndim) + _align(offset, x.ndim)


def _align(x: Array, ndim: int) -> Array:
    """Inserts leading axes of size one until x has `ndim` of them."""
    return x.reshape((1,) * (ndim - x.ndim) + x.shape)
