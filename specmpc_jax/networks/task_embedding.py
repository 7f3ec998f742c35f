"""Task embedding and action masks, which planning shares: see `ops.task_embedding`."""

from specmpc_jax.ops.task_embedding import MAX_NORM, action_masks, look_up

__all__ = ["MAX_NORM", "action_masks", "look_up"]
