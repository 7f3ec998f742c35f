"""Tasks of the suite as pure functions on the device, by MJX."""

import contextlib
import io

# Where Warp, which is not used here, is not installed, MJX says so on stdout.
with contextlib.redirect_stdout(io.StringIO()):
    from mujoco import mjx as _mjx  # noqa: F401

from specmpc_jax.envs.mjx.environment import MjxEnvironment, MjxState, task_names
from specmpc_jax.envs.mjx.lanes import MjxLanes, starts_of_seeds
from specmpc_jax.envs.mjx.perturbation import perturbed

__all__ = [
    "MjxEnvironment",
    "MjxLanes",
    "MjxState",
    "perturbed",
    "starts_of_seeds",
    "task_names",
]
