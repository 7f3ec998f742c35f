"""Work on only those lanes of a batch that need it.

Under `vmap` a `lax.cond` becomes a select and both branches run, so the saving
of not planning would be lost. Instead, the lanes in need are gathered into the
smallest of a few static bucket sizes, and only that bucket is computed.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from specmpc_jax.types import Array

# Every bucket is compiled apart, so small batches do without the quarter.
_LANES_FOR_QUARTERS = 8


def bucket_sizes(lanes: int) -> tuple[int, ...]:
    """Static bucket sizes for a batch: none, (a quarter,) a half, all of the lanes."""
    sizes = {0, -(-lanes // 2), lanes}
    if lanes >= _LANES_FOR_QUARTERS:
        sizes.add(-(-lanes // 4))
    return tuple(sorted(sizes))


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
      `default` with the results written over the lanes in need. The cost is
      that of the smallest bucket that holds them.
    """
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
