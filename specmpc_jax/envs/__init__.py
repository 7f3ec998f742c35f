"""Environments behind one protocol; simulators are imported only when one is made."""

from specmpc_jax.envs.batch import BatchTransition, EnvironmentBatch
from specmpc_jax.envs.protocol import Environment, EnvironmentSpec, Transition
from specmpc_jax.envs.registry import make, make_batch, task_names

__all__ = [
    "BatchTransition",
    "Environment",
    "EnvironmentBatch",
    "EnvironmentSpec",
    "Transition",
    "make",
    "make_batch",
    "task_names",
]
