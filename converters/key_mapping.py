"""Which torch key holds which Flax parameter, for each layout, in both directions.

`entries` is the whole mapping as data; `conversion` only walks it. Torch keeps
Dense weights as (out, in) and convolutions as (out, in, h, w); Flax as
(in, out) and (h, w, in, out). Source: spec section 10.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from converters.torch_reader import Layout
from specmpc_jax.config import ModelConfig

# Position of each convolution in the official pixel encoder; ReLUs and scaling lie between.
_CONVOLUTIONS = (2, 4, 6, 8)
_HIDDEN_LAYERS = 2

ONLINE_Q = "_Qs.params"
DETACHED_Q = "_detach_Qs_params"
TARGET_Q = "_target_Qs_params"
BATCH_SIZE = "__batch_size"
DEVICE = "__device"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor: its torch key, its path in the params tree, how its axes are turned.

    `axes` is the `transpose` argument that takes the torch tensor to the Flax
    array; None leaves it as it is.
    """

    key: str
    path: tuple[str, ...]
    axes: tuple[int, ...] | None = None

    @property
    def ndim(self) -> int:
        """Number of axes that the tensor has."""
        if self.axes is not None:
            return len(self.axes)
        return 2 if self.path[0] in ("q", "target_q", "task_embedding") else 1


@dataclasses.dataclass(frozen=True)
class Structure:
    """Which modules a checkpoint has: all that decides its key names."""

    encoder_layers: int = 2  # 0 for pixels
    episodic: bool = False
    multitask: bool = False

    @classmethod
    def of_config(cls, config: ModelConfig) -> "Structure":
        """Structure that a model of this configuration has."""
        layers = max(config.num_enc_layers - 1, 1) + 1 if config.observation == "state" else 0
        return cls(layers, config.episodic, config.multitask)

    @classmethod
    def of_state_dict(cls, state_dict: Mapping[str, Any]) -> "Structure":
        """Structure that a state dict of any layout shows by its keys."""
        pixels = any(key.startswith("_encoder.rgb.") for key in state_dict)
        return cls(
            encoder_layers=0 if pixels else _count_encoder_layers(state_dict),
            episodic=any(key.startswith("_termination.") for key in state_dict),
            multitask="_task_emb.weight" in state_dict,
        )


def entries(layout: Layout, structure: Structure) -> tuple[Entry, ...]:
    """Lists every tensor that ends up in the params tree, in the order of the official files."""
    found: list[Entry] = []
    if structure.multitask:
        found.append(Entry("_task_emb.weight", ("task_embedding",)))
    if structure.encoder_layers:
        names = _layer_names(layout, "_encoder.state", structure.encoder_layers, first=1)
        found += _mlp(("encoder",), names, has_head=False)
    else:
        found += _convolutions()
    found += _mlp(("dynamics",), _dynamics_names(layout), has_head=False)
    heads = {"_reward": "reward", "_termination": "termination", "_pi": "policy"}
    for prefix, module in heads.items():
        if module != "termination" or structure.episodic:
            names = _layer_names(layout, prefix, _HIDDEN_LAYERS + 1)
            found += _mlp((module,), names, has_head=True)
    target = TARGET_Q if layout is Layout.CURRENT else "_target_Qs.params"
    found += _ensemble(layout, ONLINE_Q, "q") + _ensemble(layout, target, "target_q")
    return tuple(found)


def _layer_names(layout: Layout, prefix: str, count: int, first: int = 0) -> list[tuple[str, str]]:
    """(linear, LayerNorm) key prefixes of each layer.

    The pre-release layout numbers Linear, LayerNorm and activation in a row,
    starting at `first` (its encoder has symlog at position 0).
    """
    if layout is Layout.PRE_RELEASE:
        starts = range(first, first + 3 * count, 3)
        return [(f"{prefix}.{i}", f"{prefix}.{i + 1}") for i in starts]
    return [(f"{prefix}.{i}", f"{prefix}.{i}.ln") for i in range(count)]


def _dynamics_names(layout: Layout) -> list[tuple[str, str]]:
    if layout is not Layout.PRE_RELEASE:
        return _layer_names(layout, "_dynamics", _HIDDEN_LAYERS + 1)
    names = _layer_names(layout, "_dynamics.0", _HIDDEN_LAYERS + 1)
    return names[:-1] + [(names[-1][0], "_dynamics.1")]


def _mlp(module: tuple[str, ...], names: list[tuple[str, str]], *, has_head: bool) -> list[Entry]:
    found = []
    for i, (linear, norm) in enumerate(names):
        is_head = has_head and i == len(names) - 1
        path = (*module, "head" if is_head else f"layer_{i}")
        found.append(Entry(f"{linear}.weight", (*path, "kernel"), (1, 0)))
        found.append(Entry(f"{linear}.bias", (*path, "bias")))
        if not is_head:
            found.append(Entry(f"{norm}.weight", (*path, "scale")))
            found.append(Entry(f"{norm}.bias", (*path, "offset")))
    return found


def _ensemble(layout: Layout, prefix: str, module: str) -> list[Entry]:
    """Entries of a Q ensemble; every tensor has a leading axis of members."""
    names = _layer_names(Layout.CURRENT, prefix, _HIDDEN_LAYERS + 1)
    found = [
        dataclasses.replace(entry, axes=entry.axes and (0, 2, 1))
        for entry in _mlp((module,), names, has_head=True)
    ]
    if layout is Layout.CURRENT:
        return found
    return [dataclasses.replace(e, key=f"{prefix}.{i}") for i, e in enumerate(found)]


def _convolutions() -> Iterator[Entry]:
    for i, position in enumerate(_CONVOLUTIONS):
        key = f"_encoder.rgb.{position}"
        yield Entry(f"{key}.weight", ("encoder", f"conv_{i}_kernel"), (2, 3, 1, 0))
        yield Entry(f"{key}.bias", ("encoder", f"conv_{i}_bias"))


def _count_encoder_layers(state_dict: Mapping[str, Any]) -> int:
    pattern = re.compile(r"_encoder\.state\.\d+\.weight")
    matrices = [
        key for key, value in state_dict.items() if pattern.fullmatch(key) and value.ndim == 2
    ]
    return max(len(matrices), 2)


def repeated_keys(layout: Layout) -> dict[str, str]:
    """Keys whose tensors repeat another one's: the detached copy of the online Q ensemble."""
    if layout is not Layout.CURRENT:
        return {}
    online = [entry.key for entry in _ensemble(layout, ONLINE_Q, "q")]
    return {key.replace(ONLINE_Q, DETACHED_Q): key for key in online}


def descriptive_keys(layout: Layout, structure: Structure) -> set[str]:
    """Keys that only describe: what they say is part of the configuration."""
    if layout is not Layout.CURRENT:
        return set()
    masks = {"_action_masks"} if structure.multitask else set()
    ensembles = (ONLINE_Q, DETACHED_Q, TARGET_Q)
    described = {f"{prefix}.{name}" for prefix in ensembles for name in (BATCH_SIZE, DEVICE)}
    return {"log_std_min", "log_std_dif"} | masks | described
