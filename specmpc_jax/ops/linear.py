"""Affine maps whose gradients are laid out for speed; docs/training.md has the account."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from specmpc_jax.types import Array


def affine(parts: Sequence[Array], kernel: Array, bias: Array) -> Array:
    """Maps inputs that stand side by side: `[..., F_1], [..., F_2], ... -> [..., M]`.

    Args:
      parts: inputs with the same leading axes. Each has a gradient of its own, so that a
        compiler drops the product for an input whose gradient nobody wants.
      kernel: `[F_1 + F_2 + ..., M]`.
      bias: `[M]`.

    Leading axes are merged, since XLA forms the kernel's gradient without a transposed
    copy only for matrices. Only reverse-mode differentiation works.
    """
    lead = parts[0].shape[:-1]
    rows = tuple(part.reshape(-1, part.shape[-1]) for part in parts)
    return _affine_of_rows(rows, kernel, bias).reshape(*lead, kernel.shape[-1])


def sum_of_rows(x: Array) -> Array:
    """Sums `[N, M]` over N, as a product, which XLA vectorises on CPUs and a sum it does not."""
    return jnp.matmul(jnp.ones((x.shape[0],), x.dtype), x, precision="highest")


@jax.custom_vjp
def _affine_of_rows(parts: tuple[Array, ...], kernel: Array, bias: Array) -> Array:
    return jnp.concatenate(parts, axis=-1) @ kernel + bias[None]


def _forward(
    parts: tuple[Array, ...], kernel: Array, bias: Array
) -> tuple[Array, tuple[tuple[Array, ...], Array]]:
    return _affine_of_rows(parts, kernel, bias), (parts, kernel)


def _backward(
    saved: tuple[tuple[Array, ...], Array], gradient: Array
) -> tuple[tuple[Array, ...], Array, Array]:
    parts, kernel = saved
    of_parts, start = [], 0
    for part in parts:
        rows = kernel[start : start + part.shape[-1]]
        of_parts.append(gradient @ rows.T)
        start += part.shape[-1]
    of_kernel = jnp.concatenate(parts, axis=-1).T @ gradient
    return tuple(of_parts), of_kernel, sum_of_rows(gradient)


_affine_of_rows.defvjp(_forward, _backward)
