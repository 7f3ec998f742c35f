"""Corrector data of the public PyTorch implementation of arXiv 2512.17250.

Its files hold a dict of tensors, or of lists of tensors, one row a labelled
step: `z_real`, `z_pred`, `a_plan` (older: `a_spec`), `a_teacher`, `distance` and
`history_feats` `[R, K, 3L + A]`, oldest first, with zeros before an episode's
start. What it does not hold is worked out where that is safe:

- `offset`: 1, as it labels only the step after a plan;
- `episode` and `step`: from the padding of the histories;
- the relative mismatch: from the real latent `offset` rows earlier. Its own
  `distance` is a raw norm, which nothing can be calibrated by, and is dropped,
  and so are rows before which the plan's start was not recorded.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from converters import torch_reader
from specmpc_jax.agent import Agent
from specmpc_jax.checkpointing import file_sha256
from specmpc_jax.correctors.dataset import ARRAYS, CorrectorDataset
from specmpc_jax.errors import UserError
from specmpc_jax.speculation.mismatch import mismatch

_NEEDED = ("z_real", "z_pred", "a_plan", "a_teacher")
_FACTS = ("model_id", "model_name", "model_size")
_OPTIONAL = ("offset", "episode", "step", "task", "reward", "history_feats")
# Known, and not needed: raw distances, and what another executor decided.
_DROPPED = ("distance", "accepted", "a_spec")


def read(
    path: Path,
    teacher: Agent,
    task: str = "",
    episode_length: int | None = None,
    record: Mapping[str, Any] | None = None,
) -> CorrectorDataset:
    """Reads a file of corrector data.

    Args:
      path: the `.pt` file.
      teacher: the teacher it was collected with.
      task: multi-task teachers need it, unless the file has a field of that name.
      episode_length: rows of an episode, where the file does not tell.
      record: further metadata.

    Raises:
      UserError: naming fields that are unknown, missing or of a wrong shape.
    """
    content = torch_reader.load_plain(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not a dict of corrector data")
    facts = {name: content[name] for name in _FACTS if name in content}
    fields = {name: _array(path, name, v) for name, v in content.items() if name not in facts}
    fields.setdefault("a_plan", fields.get("a_spec"))
    missing = [name for name in _NEEDED if fields.get(name) is None]
    unknown = sorted(set(fields) - {*_NEEDED, *_OPTIONAL, *_DROPPED})
    if missing or unknown:
        parts = [f"lacks the fields {', '.join(missing)}"] * bool(missing)
        parts += [f"has unknown fields {', '.join(unknown)}"] * bool(unknown)
        raise UserError(f"{path} {' and '.join(parts)}")
    _check_shapes(path, fields, teacher)
    rows = len(fields["z_real"])
    episode, step = _episodes(path, fields, episode_length)
    offset = fields.get("offset", np.ones(rows)).astype(np.int32)
    arrays = {
        **{name: fields[name] for name in _NEEDED},
        "offset": offset,
        "episode": episode,
        "step": step,
        "reward": fields.get("reward", np.zeros(rows)),
        "task": fields.get("task", np.full(rows, teacher.task_index(task or None))),
        "round": np.zeros(rows),
    }
    kept = np.flatnonzero(step >= offset)
    start = fields["z_real"][kept - offset[kept]]
    arrays = {name: values[kept] for name, values in arrays.items()}
    # Rows that go are the first of their episodes; what is left is numbered from 0 again.
    arrays["step"] = arrays["step"] - _first_of_each(arrays["episode"], arrays["step"])
    arrays["distance"] = np.asarray(mismatch("relative", arrays["z_real"], arrays["z_pred"], start))
    history = fields.get("history_feats")
    metadata = {
        "teacher": teacher.fingerprint,
        "model_size": teacher.config.model_size,
        "task": task,
        "history_len": history.shape[1] if history is not None else 1,
        "source": {"file": path.name, "sha256": file_sha256(path), **facts},
        **(record or {}),
    }
    typed = {name: arrays[name].astype(dtype) for name, dtype in ARRAYS.items()}
    return CorrectorDataset(typed, metadata)


def _array(path: Path, name: str, value: Any) -> np.ndarray:
    """A tensor, or a list of tensors or numbers, as an array."""
    try:
        if isinstance(value, (list, tuple)) and value and isinstance(value[0], torch.Tensor):
            value = torch.stack(list(value))
        return torch.as_tensor(value).detach().to("cpu", torch.float32).numpy()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: field {name} is no array of numbers: {error}") from error


def _check_shapes(path: Path, fields: Mapping[str, np.ndarray], teacher: Agent) -> None:
    rows = len(fields["z_real"])
    latent, action = teacher.config.latent_dim, teacher.config.action_dim
    expected = {
        "z_real": (rows, latent),
        "z_pred": (rows, latent),
        "a_plan": (rows, action),
        "a_teacher": (rows, action),
        **{name: (rows,) for name in ("offset", "episode", "step", "task", "reward")},
    }
    for name, shape in expected.items():
        if name in fields and fields[name].shape != shape:
            raise UserError(
                f"{path}: field {name} has shape {fields[name].shape}, but this teacher and "
                f"{rows} rows call for {shape}"
            )
    history = fields.get("history_feats")
    if history is not None and (history.ndim != 3 or len(history) != rows):
        raise UserError(f"{path}: field history_feats has shape {history.shape}, not [rows, K, F]")


def _episodes(
    path: Path, fields: Mapping[str, np.ndarray], episode_length: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Episode and step of each row."""
    rows = len(fields["z_real"])
    if "episode" in fields and "step" in fields:
        episode, step = fields["episode"].astype(np.int32), fields["step"].astype(np.int32)
    elif episode_length:
        if rows % episode_length:
            raise UserError(f"{path} has {rows} rows, which are no episodes of {episode_length}")
        episode, step = np.divmod(np.arange(rows, dtype=np.int32), episode_length)
        return episode, step
    elif "history_feats" in fields:
        # The first step of an episode has nothing but itself in its history.
        starts = (np.abs(fields["history_feats"]).sum(-1) > 0).sum(-1) <= 1
        if not starts[0]:
            raise UserError(f"{path}: the first row's history is of an episode that is not there")
        episode = (np.cumsum(starts) - 1).astype(np.int32)
        step = np.arange(rows, dtype=np.int32) - np.flatnonzero(starts)[episode]
    else:
        raise UserError(
            f"{path} has neither episode and step nor history_feats, from which episodes could be "
            "told apart; give --episode_length, the rows of each"
        )
    same = episode[1:] == episode[:-1]
    if (step[1:][same] != step[:-1][same] + 1).any() or (np.diff(episode) < 0).any():
        raise UserError(f"{path}: rows are not in the order of their episodes and steps")
    return episode, step


def _first_of_each(episode: np.ndarray, step: np.ndarray) -> np.ndarray:
    """For each row, the first step that is left of its episode."""
    _, first, inverse = np.unique(episode, return_index=True, return_inverse=True)
    return step[first][inverse]
