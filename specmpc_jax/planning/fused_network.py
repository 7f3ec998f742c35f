"""Networks of the world model laid out for planning, and their evaluation.

A `Network` is one or more heads that read the same input: dynamics and reward share their
first matrix product, and so its input is read once.
"""

from collections.abc import Sequence
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from specmpc_jax.ops.activations import centred_layer_norm
from specmpc_jax.ops.activations import mish_of_one_exponential as mish
from specmpc_jax.types import Array, Params


@flax.struct.dataclass
class Linear:
    """Affine map."""

    kernel: Array  # [F, M]
    bias: Array  # [M]


@flax.struct.dataclass
class Normed:
    """Affine map whose outputs have mean zero, and the LayerNorm after it."""

    kernel: Array  # [F, M]
    bias: Array  # [M]
    scale: Array  # [M]
    offset: Array  # [M]


@flax.struct.dataclass
class Head:
    """What follows a network's first layer."""

    hidden: Normed
    last: Linear | Normed


@flax.struct.dataclass
class Network:
    """R heads that read the same input, with their first layers side by side."""

    # kernel [L + A, R, M], or [L, R, M] where no action is read; bias [num_tasks, R, M];
    # scale and offset [R, M].
    first: Normed
    heads: tuple[Head, ...]  # R


class Shared(NamedTuple):
    """A latent multiplied once for all evaluations that begin with it."""

    product: Array  # [R * M] with the first kernel's rows for latents


def join(heads: Sequence[Params], embedding: Array | None, latent_dim: int) -> Network:
    """Lays out heads that read the same input.

    Args:
      heads: their parameters, as in the readable world model.
      embedding: of the tasks, `[num_tasks, T]`; None for a single-task model.
      latent_dim: L; of the rows of a first kernel, the latent's come first, then T of the
        embedding, then the action's.
    """
    first = [_normed(head["layer_0"]) for head in heads]
    first = jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=-2), *first)
    task_dim = 0 if embedding is None else embedding.shape[-1]
    latent, task, action = jnp.split(first.kernel, (latent_dim, latent_dim + task_dim))
    bias = first.bias[None]
    if embedding is not None:
        bias = bias + jnp.einsum("tf,frm->trm", embedding, task, precision="highest")
    first = first.replace(kernel=jnp.concatenate([latent, action]), bias=bias)
    return Network(first, tuple(_head(head) for head in heads))


def share(network: Network, z: Array) -> Shared:
    """Multiplies a latent `[L]`, so that `evaluate` need not do it again for other actions."""
    kernel = network.first.kernel[: z.shape[-1]]
    return Shared(_product(z, kernel.reshape(z.shape[-1], -1)))


def evaluate(
    network: Network, task: Array | int, z: Array | Shared, action: Array | None = None
) -> list[Array]:
    """Outputs of R heads.

    Args:
      network: the heads.
      task: index `[]`, 0 for single-task models.
      z: latents `[..., L]`, or what `share` made of one.
      action: `[..., A]` if the heads read it; leading axes broadcast.

    Returns:
      `[..., M]` of each head.
    """
    first = network.first
    count, width = first.kernel.shape[1:]
    x = _first_product(first.kernel.reshape(-1, count * width), z, action)
    outputs = []
    for i, head in enumerate(network.heads):
        part = x[..., i * width : (i + 1) * width]
        part = part + align(first.bias[task, i], part.ndim)
        part = mish(centred_layer_norm(part, first.scale[i], first.offset[i]))
        outputs.append(_apply(mish(_apply(part, head.hidden)), head.last))
    return outputs


def align(x: Array, ndim: int) -> Array:
    """Inserts leading axes of size one until x has `ndim` of them."""
    return x.reshape((1,) * (ndim - x.ndim) + x.shape)


def _first_product(kernel: Array, z: Array | Shared, action: Array | None) -> Array:
    """Latents beside actions, times the kernel `[L + A, R * M]`."""
    if isinstance(z, Shared):
        assert action is not None
        return align(z.product, action.ndim) + _product(action, kernel[-action.shape[-1] :])
    if action is None:
        return _product(z, kernel)
    if z.shape[:-1] != action.shape[:-1]:  # few latents for many actions
        return _in_parts(kernel, z, action)
    # A CPU loses more by the sum than by the copy. The matrix units of a GPU want widths
    # that the few actions beside the latent spoil.
    return jax.lax.platform_dependent(kernel, z, action, cpu=_in_one, default=_in_parts)


def _in_one(kernel: Array, z: Array, action: Array) -> Array:
    return _product(jnp.concatenate([z, action], axis=-1), kernel)


def _in_parts(kernel: Array, z: Array, action: Array) -> Array:
    latents = z.shape[-1]
    return align(_product(z, kernel[:latents]), action.ndim) + _product(action, kernel[latents:])


def _apply(x: Array, layer: Linear | Normed) -> Array:
    x = _product(x, layer.kernel)
    x = x + align(layer.bias, x.ndim)
    return centred_layer_norm(x, layer.scale, layer.offset) if isinstance(layer, Normed) else x


def _product(x: Array, kernel: Array) -> Array:
    """`[..., F]`, `[F, M]` -> `[..., M]` in float32, from operands of the kernel's type."""
    return jnp.matmul(x.astype(kernel.dtype), kernel, preferred_element_type=jnp.float32)


def _head(head: Params) -> Head:
    last = Linear(**head["head"]) if "head" in head else _normed(head["layer_2"])
    return Head(_normed(head["layer_1"]), last)


def _normed(layer: Params) -> Normed:
    """Centres a normed layer over its outputs."""
    kernel, bias = layer["kernel"], layer["bias"]
    return Normed(
        kernel=kernel - jnp.mean(kernel, axis=-1, keepdims=True),
        bias=bias - jnp.mean(bias),
        scale=layer["scale"],
        offset=layer["offset"],
    )
