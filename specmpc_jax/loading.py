"""From a teacher's name or directory to an agent."""

import importlib.metadata
import os
from collections.abc import Callable
from pathlib import Path

from specmpc_jax import bundled, checkpointing
from specmpc_jax.agent import Agent
from specmpc_jax.config import PlannerConfig

# Group of the entry points that bring teachers, each named by its prefix without the colon.
TEACHER_ENTRY_POINTS = "specmpc_jax.teachers"


def load(path: str | os.PathLike[str], planner: PlannerConfig | None = None) -> Agent:
    """Loads an agent from a checkpoint directory.

    Args:
      path: directory that `converters.convert` or a training run wrote, or
        `bundled:NAME` for a teacher that ships with the package, or `official:NAME`
        for a released one (`official:dmcontrol/walker-walk-1`), which is downloaded,
        checked, converted by PyTorch and kept in the user's cache directory.
      planner: planner settings; the published ones if None.

    Raises:
      UserError: if there is no such checkpoint, or it is damaged or cannot be fetched.
    """
    path = bundled.resolve(path, bundled.TEACHERS)
    if isinstance(path, str):
        scheme, separator, name = path.partition(":")
        if separator and (fetch := _fetcher(scheme)):
            path = fetch(name)
    saved = checkpointing.load_model(path)
    fingerprint = checkpointing.fingerprint(saved.params)
    return Agent(saved.params, saved.config, planner, saved.metadata, fingerprint)


def _fetcher(scheme: str) -> Callable[[str], Path] | None:
    """What brings the teachers of a scheme, by the entry points of installed packages.

    So the library needs not know who brings them: the converters do `official:`.
    """
    found = importlib.metadata.entry_points(group=TEACHER_ENTRY_POINTS, name=scheme)
    return next((entry.load() for entry in found), None)
