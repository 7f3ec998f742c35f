"""From a task's name to its environment.

An environment from outside of the project needs no change here: its task is named
`MODULE:FACTORY` (docs/environments.md). To add a simulator to the project, write a
module with `task_names() -> tuple[str, ...]` and `make(task, **options) -> Environment`
(state observations) and give it a row in `BACKENDS`.
"""

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from specmpc_jax.envs import external
from specmpc_jax.envs.batch import EnvironmentBatch
from specmpc_jax.envs.protocol import Environment
from specmpc_jax.errors import UserError

# Prefix of a task's name -> the module that makes it, imported on first use.
# The longest prefix that fits wins; the empty one takes all other names.
BACKENDS: Mapping[str, str] = {
    "": "specmpc_jax.envs.dm_control",
    "gym:": "specmpc_jax.envs.gymnasium_tasks",
    "mujoco-": "specmpc_jax.envs.gymnasium_tasks",
    "bipedal-": "specmpc_jax.envs.gymnasium_tasks",
    "lunarlander-": "specmpc_jax.envs.gymnasium_tasks",
    "mw-": "specmpc_jax.envs.metaworld",
    "myo-": "specmpc_jax.envs.myosuite",
}


def make(task: str, observation: str = "state", **options: Any) -> Environment:
    """Makes the environment of a task.

    Args:
      task: a name of `task_names()`, such as "walker-walk", `gym:<id>` for one of
        Gymnasium's, or `MODULE:FACTORY` for an environment of the caller's own (see
        `external.make`).
      observation: "state" (flat float32) or "rgb" (stacked frames).
      **options: passed on to the simulator's module, such as `action_repeat` or
        `seed` (the start of the random stream of resets without a seed).

    Raises:
      UserError: if the task or the kind of observation is unknown, or the
        simulator is not installed.
    """
    if observation not in ("state", "rgb"):
        raise UserError(f"observation is {observation!r}; it can be 'state' or 'rgb'")
    prefix = max((known for known in BACKENDS if task.startswith(known)), key=len)
    if ":" in task and ":" not in prefix:
        environment = external.make(task, **options)
    else:
        environment = _backend(prefix).make(task, **options)
    if observation == "rgb":
        from specmpc_jax.envs.pixels import PixelEnvironment

        return PixelEnvironment(environment)
    return environment


def make_batch(
    task: str,
    num_envs: int,
    observation: str = "state",
    backend: str = "mujoco",
    **options: Any,
) -> EnvironmentBatch:
    """Makes several environments of one task, stepped side by side; see `make`.

    Args:
      task: as for `make`.
      num_envs: B.
      observation: as for `make`.
      backend: "mujoco" steps the task's own environments one after another; "mjx" steps
        all lanes of a task of the suite in one program on the device (`envs.mjx`).
      **options: as for `make`; those of `MjxLanes` for "mjx".

    Raises:
      UserError: as `make`; if `num_envs` is below 1; if the task does not run on MJX.
    """
    if num_envs < 1:
        raise UserError(f"num_envs is {num_envs}; it must be at least 1")
    if backend == "mjx":
        if observation != "state":
            raise UserError("the backend mjx simulates states only: leave --obs=rgb out")
        from specmpc_jax.envs.mjx.lanes import MjxLanes

        return MjxLanes(task, num_envs, **options)
    if backend != "mujoco":
        raise UserError(f"backend is {backend!r}; it can be 'mujoco' or 'mjx'")
    return EnvironmentBatch([make(task, observation, **options) for _ in range(num_envs)])


def task_names() -> tuple[str, ...]:
    """Every name of the project's own that `make` accepts, without aliases.

    Optional simulators need not be installed for it.

    Raises:
      UserError: if dm_control is not installed.
    """
    modules = dict.fromkeys(BACKENDS.values())
    return tuple(
        name for module in modules for name in importlib.import_module(module).task_names()
    )


def _backend(prefix: str) -> ModuleType:
    return importlib.import_module(BACKENDS[prefix])
