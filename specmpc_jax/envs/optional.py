"""Imports of simulators that only some tasks need."""

import importlib
from types import ModuleType

from specmpc_jax.errors import UserError


def import_optional(module: str, task: str, extra: str) -> ModuleType:
    """Imports a module of an optional package.

    Args:
      module: what to import.
      task: the task that needs it, for the message.
      extra: the extra of pyproject.toml that installs it.

    Raises:
      UserError: if it, or something that it needs, is not installed; names the extra.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise missing(task, str(error.name), extra) from error


def missing(task: str, package: str, extra: str) -> UserError:
    """The error for a package that is not there."""
    return UserError(f"task {task!r} needs {package}: pip install -e '.[{extra}]'")
