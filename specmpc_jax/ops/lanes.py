"""Expensive work on the lanes of a batch, and on only those that need it.

A CPU works through lanes one after another: its cores are full with one of
them, whose intermediate results stay in the cache, and a `lax.cond` inside a
loop skips the lanes in no need. An accelerator works on lanes side by side.
Under `vmap` a `lax.cond` becomes a select and both branches run, so there the
lanes in need are gathered into the smallest of a few static bucket sizes.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from specmpc_jax.types import Array

# Every bucket is compiled apart, so small batches do without the quarter.
_LANES_FOR_QUARTERS = 8


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
        default=jax.vmap(function),
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
        default=lambda *inputs: in_buckets(function, *inputs),
    )


def in_turn(
    function: Callable[..., Any], need: Array, arguments: tuple[Any, ...], default: Any
) -> Any:
    """`on_lanes`, one lane after another; costs as much as the lanes in need."""

    def lane(inputs: tuple[Array, tuple[Any, ...], Any]) -> Any:
        need, arguments, default = inputs
        return jax.lax.cond(need, lambda: function(*arguments), lambda: default)

    return jax.lax.map(lane, (need, arguments, default))


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
        gathered = jax.tree.map(lambda leaf: leaf.at[index].get(mode="clip"), arguments)
        results = jax.vmap(function)(*gathered)
        return jax.tree.map(
            lambda leaf, new: leaf.at[index].set(new, mode="drop"), default, results
        )

    branch = jnp.searchsorted(jnp.asarray(sizes), need.sum())
    return jax.lax.switch(branch, [lambda s=size: compute(s) for size in sizes])


def bucket_sizes(lanes: int) -> tuple[int, ...]:
    """Static bucket sizes for a batch: none, (a quarter,) a half, all of the lanes."""
    sizes = {0, -(-lanes // 2), lanes}
    if lanes >= _LANES_FOR_QUARTERS:
        sizes.add(-(-lanes // 4))
    return tuple(sorted(sizes))
