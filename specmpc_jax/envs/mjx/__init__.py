"""Tasks of the suite as pure functions on the device, by MJX."""

from specmpc_jax.envs.mjx.environment import MjxEnvironment, MjxState, task_names

__all__ = ["MjxEnvironment", "MjxState", "task_names"]
