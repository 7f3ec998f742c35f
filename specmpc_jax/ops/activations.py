"""Activations and normalisation without parameters of their own (spec section 2)."""

import jax
import jax.numpy as jnp

from specmpc_jax.ops.linear import sum_of_rows
from specmpc_jax.types import Array

LAYER_NORM_EPSILON = 1e-5


@jax.custom_jvp
def mish(x: Array) -> Array:
    """Mish activation x tanh(softplus(x)), any shape.

    With t = e^x, tanh(ln(1 + t)) = n / (n + 2) where n = t (t + 2), so one exponential
    serves the value and its derivative.
    """
    return x * _mish_gate(x)[0]


@mish.defjvp
def _mish_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (tangent,) = primals, tangents
    gate, slope = _mish_gate(x)
    return x * gate, tangent * (gate + x * slope)


def _mish_gate(x: Array) -> tuple[Array, Array]:
    """tanh(softplus(x)) and its derivative."""
    # Beyond 20 the gate is 1 in float32; t to the fourth power must not overflow.
    t = jnp.exp(jnp.minimum(x, 20.0))
    n = t * (t + 2.0)
    inverse = 1.0 / (n + 2.0)
    return n * inverse, 4.0 * t * (t + 1.0) * inverse * inverse


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


@jax.custom_vjp
def layer_norm(x: Array, scale: Array, offset: Array) -> Array:
    """Normalises the last axis of `[..., F]` to mean 0 and variance 1, then scales and shifts.

    Scale and offset are `[F]`. Only reverse-mode differentiation works.
    """
    return _layer_norm_forward(x, scale, offset)[0]


def _layer_norm_forward(
    x: Array, scale: Array, offset: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    ones = jnp.ones_like(scale)
    centred = x - _weighted_mean(x, ones)
    inverse_std = jax.lax.rsqrt(_weighted_mean(jnp.square(centred), ones) + LAYER_NORM_EPSILON)
    normed = centred * inverse_std
    return normed * _align(scale, x.ndim) + _align(offset, x.ndim), (normed, inverse_std, scale)


def _layer_norm_backward(
    saved: tuple[Array, Array, Array], gradient: Array
) -> tuple[Array, Array, Array]:
    normed, inverse_std, scale = saved
    product = gradient * normed
    of_x = inverse_std * (
        gradient * _align(scale, normed.ndim)
        - _weighted_mean(gradient, scale)
        - normed * _weighted_mean(product, scale)
    )
    rows = (-1, scale.shape[0])
    return of_x, sum_of_rows(product.reshape(rows)), sum_of_rows(gradient.reshape(rows))


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


def centred_layer_norm(x: Array, scale: Array, offset: Array) -> Array:
    """`layer_norm` of `[..., F]` whose mean over the last axis is zero already.

    Scale and offset are `[..., F]` with at most as many axes as x.
    """
    variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    normed = x * jax.lax.rsqrt(variance + LAYER_NORM_EPSILON)
    return normed * _align(scale, x.ndim) + _align(offset, x.ndim)


def _weighted_mean(x: Array, weights: Array) -> Array:
    """Mean of weights times x over the last axis, `[..., F]`, `[F]` -> `[..., 1]`.

    As a product, which XLA vectorises on CPUs and a sum it does not.
    """
    weights = (weights / weights.shape[0]).reshape(-1, 1)
    return jnp.matmul(x, weights, precision="highest")


def _align(x: Array, ndim: int) -> Array:
    """Inserts leading axes of size one until x has `ndim` of them."""
    return x.reshape((1,) * (ndim - x.ndim) + x.shape)
