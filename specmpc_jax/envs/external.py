"""Environments from outside of the project, named `MODULE:FACTORY`.

A name that says where the code is needs no registration: it means the same in every
process, in a binary's `--task` as in a record of what a model was trained on.
"""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from specmpc_jax.envs.protocol import Environment, EnvironmentSpec
from specmpc_jax.errors import UserError


def make(task: str, **options: Any) -> Environment:
    """Makes the environment that `FACTORY(task, **options)` of a module returns.

    Args:
      task: such as "my_package.environments:PointMass", the module as `import` takes it.
      **options: handed to the factory; only what the caller asked for.

    Raises:
      UserError: if there is no such module or factory, it does not take these options,
        or what it makes does not name itself `task`.
    """
    factory = _find(task)
    try:
        inspect.signature(factory).bind(task, **options)
    except TypeError as error:
        call = ", ".join(["task", *(f"{name}={value!r}" for name, value in options.items())])
        raise UserError(f"{task} cannot be called with ({call}): {error}") from error
    environment = factory(task, **options)
    spec = getattr(environment, "spec", None)
    if not isinstance(spec, EnvironmentSpec):
        raise UserError(f"{task} made {environment!r}; its spec must be an EnvironmentSpec")
    if spec.task != task:
        # Models remember spec.task; by another name they would not be found again.
        raise UserError(f"{task} made a spec whose task is {spec.task!r}; it must be {task!r}")
    return environment


def _find(task: str) -> Callable[..., Environment]:
    name, _, attribute = task.partition(":")
    try:
        module = importlib.import_module(name)
    except (ModuleNotFoundError, ValueError, TypeError) as error:
        missing = getattr(error, "name", None)
        if missing and missing != name and not name.startswith(f"{missing}."):
            raise  # the module is there, and misses something itself
        raise UserError(
            f"task {task!r}: there is no module {name!r}; a task of your own is MODULE:FACTORY "
            "with a module in the current directory or on PYTHONPATH"
        ) from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise UserError(f"task {task!r}: module {name!r} has no class or function {attribute!r}")
    return factory
