"""Official state dicts to parameter trees and back, with every key accounted for."""

import collections
from collections.abc import Iterator, Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import torch

from converters import architecture, key_mapping
from converters.key_mapping import Entry, Structure
from converters.torch_reader import Layout, detect_layout
from specmpc_jax.config import ModelConfig
from specmpc_jax.errors import UserError
from specmpc_jax.ops.task_embedding import action_masks
from specmpc_jax.types import Params
from specmpc_jax.world_model import WorldModel

# Names listed in a message before the rest is only counted.
_NAMES_LISTED = 5


def to_flax(
    state_dict: Mapping[str, Any], facts: architecture.TaskFacts | None = None
) -> tuple[Params, ModelConfig]:
    """Converts a state dict of any layout.

    Args:
      state_dict: float32 torch tensors under the official keys, with the few
        descriptive entries of the current layout.
      facts: what is known of the tasks besides the weights.

    Returns:
      The params tree as nested dicts of numpy float32 arrays, and the
      configuration that the weights show.

    Raises:
      UserError: naming the keys that are unknown, missing or ill-shaped.
    """
    layout = detect_layout(state_dict)
    structure = Structure.of_state_dict(state_dict)
    entries = key_mapping.entries(layout, structure)
    repeated = key_mapping.repeated_keys(layout)
    tensors = {entry.key for entry in entries} | set(repeated)
    _check_keys(state_dict, tensors | key_mapping.descriptive_keys(layout, structure))
    for key in sorted(tensors | {"_action_masks"} & set(state_dict)):
        _check_tensor(key, state_dict[key])
    for entry in entries:
        _check_rank(entry, state_dict[entry.key])
    arrays = {e.path: _turn(state_dict[e.key].detach().numpy(), e.axes) for e in entries}
    masks = state_dict.get("_action_masks")
    config = architecture.infer(
        {path: array.shape for path, array in arrays.items()},
        masks=None if masks is None else masks.numpy(),
        log_std=_log_std_range(state_dict),
        symlog_observations=layout is Layout.PRE_RELEASE,
        facts=facts or architecture.TaskFacts(),
    )
    _check_shapes(entries, arrays, config)
    _check_repeated(state_dict, repeated, config)
    return flax.traverse_util.unflatten_dict(arrays), config


def to_torch(params: Params, config: ModelConfig) -> "collections.OrderedDict[str, Any]":
    """Writes parameters in the current official layout; the inverse of `to_flax`.

    Raises:
      UserError: if the model applies symlog to its observations, which the
        current official code does not do.
    """
    if config.symlog_observations:
        raise UserError(
            "this model applies symlog to its observations (pre-release layout), which no "
            "published code does; it cannot be written in the current layout"
        )
    arrays = flax.traverse_util.flatten_dict(params)
    state_dict = collections.OrderedDict(_descriptions(config))
    for entry in key_mapping.entries(Layout.CURRENT, Structure.of_config(config)):
        inverse = None if entry.axes is None else tuple(np.argsort(entry.axes))
        state_dict[entry.key] = torch.from_numpy(_turn(np.asarray(arrays[entry.path]), inverse))
    for copy, original in key_mapping.repeated_keys(Layout.CURRENT).items():
        state_dict[copy] = state_dict[original].clone()
    return state_dict


def rename_to_current(state_dict: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Gives the tensors of any layout the current layout's keys; values stay untouched."""
    structure = Structure.of_state_dict(state_dict)
    old = key_mapping.entries(detect_layout(state_dict), structure)
    new = key_mapping.entries(Layout.CURRENT, structure)
    return {n.key: state_dict[o.key] for o, n in zip(old, new, strict=True)}


def _turn(array: np.ndarray, axes: tuple[int, ...] | None) -> np.ndarray:
    """Transposed copy in C order, so that no result aliases its source."""
    return np.array(array if axes is None else array.transpose(axes), order="C")


def _descriptions(config: ModelConfig) -> Iterator[tuple[str, Any]]:
    """Entries of the current layout that say what the configuration says."""
    if config.multitask:
        yield "_action_masks", torch.from_numpy(action_masks(config))
    yield "log_std_min", _scalar(config.log_std_min)
    yield "log_std_dif", _scalar(config.log_std_max - config.log_std_min)
    for prefix in (key_mapping.ONLINE_Q, key_mapping.DETACHED_Q, key_mapping.TARGET_Q):
        yield f"{prefix}.{key_mapping.BATCH_SIZE}", torch.Size([config.num_q])
        yield f"{prefix}.{key_mapping.DEVICE}", None


def _scalar(value: float) -> torch.Tensor:
    # The official code turns its configuration's integers into int64 tensors.
    return torch.tensor(int(value) if float(value).is_integer() else value)


def _log_std_range(state_dict: Mapping[str, Any]) -> tuple[float, float]:
    if "log_std_min" not in state_dict:
        return ModelConfig.log_std_min, ModelConfig.log_std_max
    values = []
    for key in ("log_std_min", "log_std_dif"):
        tensor = _tensor(key, state_dict[key])
        if tensor.numel() != 1:
            raise UserError(f"{key} has shape {list(tensor.shape)}; it must be a scalar")
        values.append(float(tensor))
    minimum, difference = values
    return minimum, minimum + difference


def _check_keys(found: Mapping[str, Any], expected: set[str]) -> None:
    unknown, missing = sorted(set(found) - expected), sorted(expected - set(found))
    faults = [
        f"{what} keys: {_listing(keys)}"
        for what, keys in (("missing", missing), ("unknown", unknown))
        if keys
    ]
    if faults:
        raise UserError(f"the checkpoint has {'; '.join(faults)}")


def _listing(names: list[str]) -> str:
    rest = len(names) - _NAMES_LISTED
    return ", ".join(names[:_NAMES_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def _tensor(key: str, value: object) -> torch.Tensor:
    """Accepts plain CPU tensors that own all the memory they show."""
    if not isinstance(value, torch.Tensor):
        raise UserError(f"{key} is a {type(value).__name__}; it must be a tensor")
    if value.layout is not torch.strided or value.device.type != "cpu":
        raise UserError(f"{key} is no plain dense tensor")
    # A view with stride 0 would let a tiny file ask for any amount of memory.
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise UserError(f"{key} shows more numbers than the file holds")
    return value


def _check_tensor(key: str, value: object) -> None:
    tensor = _tensor(key, value)
    if tensor.dtype is not torch.float32:
        raise UserError(f"{key} has dtype {tensor.dtype}; it must be float32")
    if tensor.numel() == 0:
        raise UserError(f"{key} is empty, with shape {list(tensor.shape)}")


def _check_rank(entry: Entry, tensor: torch.Tensor) -> None:
    if tensor.ndim != entry.ndim:
        raise UserError(
            f"{entry.key} has shape {list(tensor.shape)}; it must have {entry.ndim} axes"
        )


def _check_shapes(
    entries: tuple[Entry, ...], arrays: Mapping[tuple[str, ...], np.ndarray], config: ModelConfig
) -> None:
    """Holds every array against the tree that the configuration's own model has."""
    abstract = jax.eval_shape(WorldModel(config).init, jax.random.key(0))
    expected = flax.traverse_util.flatten_dict(abstract)
    if set(expected) != set(arrays):
        odd = ["/".join(path) for path in set(expected) ^ set(arrays)]
        raise UserError(f"the checkpoint does not fill the model's tree: {_listing(sorted(odd))}")
    for entry in entries:
        shape, wanted = arrays[entry.path].shape, expected[entry.path].shape
        if shape != wanted:
            raise UserError(
                f"{entry.key} ({'/'.join(entry.path)} turned to Flax) has shape {list(shape)}; "
                f"the other weights ask for {list(wanted)}"
            )


def _check_repeated(
    state_dict: Mapping[str, Any], repeated: Mapping[str, str], config: ModelConfig
) -> None:
    """Refuses copies and descriptions that contradict the weights they belong to."""
    for copy, original in repeated.items():
        if not torch.equal(state_dict[copy], state_dict[original]):
            raise UserError(f"{copy} differs from {original}; it must be a copy of it")
    for key, value in state_dict.items():
        if key.endswith(key_mapping.BATCH_SIZE) and value != (config.num_q,):
            raise UserError(f"{key} is {value}; the ensemble has {config.num_q} members")
