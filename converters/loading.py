"""From an official checkpoint file to parameters in one call."""

import pathlib
import re
from collections.abc import Sequence

from converters import architecture, conversion, torch_reader
from specmpc_jax.config import ModelConfig
from specmpc_jax.types import Params

# Released files: walker-run-1.pt (task and seed), mt30-5M.pt (task set and size).
_RELEASED_NAMES = (r"(?P<task>mt\d+)-\d+M\.pt", r"(?P<task>[a-z][a-z0-9-]*)-[123]\.pt")


def load_torch(
    path: str | pathlib.Path,
    *,
    task: str = "",
    action_dims: Sequence[int] = (),
    episode_lengths: Sequence[int] = (),
    model_size: int | None = None,
) -> tuple[Params, ModelConfig]:
    """Reads an official checkpoint of any layout.

    Args:
      path: the `.pt` file.
      task: a single-task model's task, a task set (`mt30`), or all task names
        joined by commas; taken from a released file's name if empty.
      action_dims: for multi-task files without masks whose tasks are no known set.
      episode_lengths: agent steps of an episode, one a task or one for all;
        known tasks need none.
      model_size: the size expected, if it is to be checked.

    Returns:
      The params tree as nested dicts of numpy float32 arrays, and its configuration.

    Raises:
      UserError: if the file cannot be used, or contradicts what was said of it.
    """
    return convert(
        torch_reader.read(path),
        task=task,
        action_dims=action_dims,
        episode_lengths=episode_lengths,
        model_size=model_size,
    )


def convert(
    checkpoint: torch_reader.TorchCheckpoint,
    *,
    task: str = "",
    action_dims: Sequence[int] = (),
    episode_lengths: Sequence[int] = (),
    model_size: int | None = None,
) -> tuple[Params, ModelConfig]:
    """Converts a checkpoint that was read; see `load_torch`."""
    facts = architecture.TaskFacts(
        task=task or task_of_file_name(checkpoint.path.name),
        action_dims=tuple(action_dims),
        episode_lengths=tuple(episode_lengths),
    )
    params, config = conversion.to_flax(checkpoint.state_dict, facts)
    if model_size is not None:
        architecture.check_model_size(config, model_size)
    return params, config


def task_of_file_name(name: str) -> str:
    """Task or task set that a released file's name tells; empty for other names."""
    for pattern in _RELEASED_NAMES:
        match = re.fullmatch(pattern, name)
        if match:
            return match["task"]
    return ""
