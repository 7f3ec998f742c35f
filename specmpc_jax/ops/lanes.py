"""Expensive work on the lanes of a batch, and on only those that need it.

A CPU works through lanes one after another: its cores are full with one of
them, whose intermediate results stay in the cache, and a `lax.cond` inside a
loop skips the lanes in no need. An accelerator works on lanes side by side.
Under `vmap` a `lax.cond` becomes a select and both branches run, so there the
lanes in need are gathered into the smallest of a few static bucket sizes. More lanes
than fill it are worked through in chunks, or thousands would not fit into its memory.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from specmpc_jax.types import Array

# Every bucket is compiled apart, so small batches do without the quarter.
_LANES_FOR_QUARTERS = 8
# A plan of the published size holds some 10 MB a lane; an accelerator is full with far fewer.
_LANES_SIDE_BY_SIDE = 256


def over_lanes(function: Callable[..., Any], *arguments: Any) -> Any:
    """Applies a function to every lane.

    Args:
      function: takes one lane's arguments.
      *arguments: pytrees whose leaves have a leading axis B.

    Returns:
      The results, with a leading axis B.
    """
    return jax.lax.platform_dependent(
        *arguments,
        cpu=lambda *arguments: jax.lax.map(lambda lane: function(*lane), arguments),
        default=lambda *arguments: side_by_side(function, *arguments),
    )


def on_lanes(
    function: Callable[..., Any], need: Array, arguments: tuple[Any, ...], default: Any
) -> Any:
    """Applies a function to the lanes that need it and keeps the default elsewhere.

    Args:
      function: takes one lane's arguments, returns a pytree shaped like one
        lane of `default`.
      need: `[B]` bool.
      arguments: pytrees whose leaves have a leading axis B.
      default: pytree whose leaves have a leading axis B.

    Returns:
      `default` with the results written over the lanes in need.
    """
    return jax.lax.platform_dependent(
        need,
        arguments,
        default,
        cpu=lambda *inputs: in_turn(function, *inputs),
        default=lambda *inputs: gathered(function, *inputs),
    )


def in_turn(
    function: Callable[..., Any], need: Array, arguments: tuple[Any, ...], default: Any
) -> Any:
    """`on_lanes`, one lane after another; costs as much as the lanes in need."""

    def lane(inputs: tuple[Array, tuple[Any, ...], Any]) -> Any:
        need, arguments, default = inputs
        return jax.lax.cond(need, lambda: function(*arguments), lambda: default)

    return jax.lax.map(lane, (need, arguments, default))


def gathered(
    function: Callable[..., Any], need: Array, arguments: tuple[Any, ...], default: Any
) -> Any:
    """`on_lanes`, side by side, as far as an accelerator does that."""
    way = in_buckets if need.shape[0] <= _LANES_SIDE_BY_SIDE else in_chunks
    return way(function, need, arguments, default)


def in_buckets(
    function: Callable[..., Any], need: Array, arguments: tuple[Any, ...], default: Any
) -> Any:
    """`on_lanes`, side by side; costs as much as the smallest bucket that holds them."""
    lanes = need.shape[0]
    sizes = bucket_sizes(lanes)

    def compute(size: int) -> Any:
        if size == 0:
            return default
        # Padding lanes point past the end: they read the last lane and write nowhere.
        index = jnp.nonzero(need, size=size, fill_value=lanes)[0]
        return _computed(function, index, arguments, default)

    branch = jnp.searchsorted(jnp.asarray(sizes), need.sum())
    return jax.lax.switch(branch, [lambda s=size: compute(s) for size in sizes])


def in_chunks(
    function: Callable[..., Any],
    need: Array,
    arguments: tuple[Any, ...],
    default: Any,
    size: int = _LANES_SIDE_BY_SIDE,
) -> Any:
    """`on_lanes`, `size` lanes side by side at a time; costs as many chunks as hold them."""
    lanes = need.shape[0]
    index = jnp.nonzero(need, size=-(-lanes // size) * size, fill_value=lanes)[0]

    def compute(chunk: Array, results: Any) -> Any:
        part = jax.lax.dynamic_slice(index, (chunk * size,), (size,))
        return _computed(function, part, arguments, results)

    chunks = (need.sum() + size - 1) // size
    return jax.lax.fori_loop(0, chunks, compute, default)


def side_by_side(function: Callable[..., Any], *arguments: Any) -> Any:
    """`over_lanes`, side by side, as far as an accelerator does that."""
    lanes = jax.tree.leaves(arguments)[0].shape[0]
    if lanes <= _LANES_SIDE_BY_SIDE:
        return jax.vmap(function)(*arguments)
    return jax.lax.map(lambda lane: function(*lane), arguments, batch_size=_LANES_SIDE_BY_SIDE)


def _computed(
    function: Callable[..., Any], index: Array, arguments: tuple[Any, ...], results: Any
) -> Any:
    """`results`, overwritten by those of the lanes `index`; lanes past the end write nowhere."""
    gathered = jax.tree.map(lambda leaf: leaf.at[index].get(mode="clip"), arguments)
    new = jax.vmap(function)(*gathered)
    return jax.tree.map(lambda leaf, new: leaf.at[index].set(new, mode="drop"), results, new)


def bucket_sizes(lanes: int) -> tuple[int, ...]:
    """Static bucket sizes for a batch: none, (a quarter,) a half, all of the lanes."""
    sizes = {0, -(-lanes // 2), lanes}
    if lanes >= _LANES_FOR_QUARTERS:
        sizes.add(-(-lanes // 4))
    return tuple(sorted(sizes))
