"""Correctors of the public PyTorch implementation of arXiv 2512.17250 as Flax parameters.

Its files hold a dict with the state dict under `corrector`, and facts about it
beside. Keys are those of its `TwoTowerCorrector` and `TemporalTransformerCorrector`:

    two_tower   mlp_{real,pred,delta,a,u,g}.{0,2,...}.{weight,bias}  out.{weight,bias}
    temporal    input_proj  pos_emb  encoder.layers.{i}.{self_attn.in_proj_weight, ...}
                mlp_{a,u,g}.{0,2,...}  out
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch

from converters import corrector_reference, torch_reader
from specmpc_jax.checkpointing import file_sha256
from specmpc_jax.config import CorrectorConfig
from specmpc_jax.correctors import registry
from specmpc_jax.errors import UserError
from specmpc_jax.types import CorrectionContext, Params, PlannedStep

# What may stand beside the weights.
_FACTS = {"corrector_type", "model_id", "model_name", "model_size"}
_FACTS |= {"latent_dim", "act_dim", "hparams"}
# Hyper-parameters that weights do not show, and what they are called here.
_UNSEEN = {"num_heads": "num_heads", "tanh_output": "tanh_output"}
_SEEN = {
    "hidden_dim": "hidden_dim",
    "num_layers": "num_layers",
    "history_len": "history_len",
    "d_model": "token_dim",
    "ff_dim": "feedforward_dim",
}
# The largest difference to torch that rounding explains, in units of the action.
TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class ImportedCorrector:
    """A corrector as it was read, before it is bound to a teacher."""

    config: CorrectorConfig
    params: Params
    record: dict[str, Any]


def read(path: Path, num_heads: int | None = None) -> ImportedCorrector:
    """Reads a corrector file, strictly, and compares it with a torch forward pass.

    Args:
      path: the `.pth` file.
      num_heads: attention heads of a temporal corrector, which weights do not
        show; what the file says if None, else 4.

    Raises:
      UserError: if the file is none of that implementation's, has keys that
        are unknown or lacks some (all are named), or torch computes something else.
    """
    content = torch_reader.load_plain(path)
    if not isinstance(content, Mapping) or not isinstance(content.get("corrector"), Mapping):
        held = ", ".join(map(str, content)) if isinstance(content, Mapping) else "no dict"
        raise UserError(f"{path} holds no 'corrector' (a state dict); it holds {held}")
    unknown = sorted(set(content) - _FACTS - {"corrector"})
    if unknown:
        raise UserError(f"{path} has unknown entries beside 'corrector': {', '.join(unknown)}")
    state = dict(content["corrector"])
    config = _configuration(path, state, content, num_heads)
    params = convert(config, state, source=path)
    difference = parity(config, params, state)
    if difference > TOLERANCE:
        raise UserError(
            f"{path}: torch and Flax differ by {difference:.2g}, which is more than rounding "
            f"({TOLERANCE:g}); a wrong --num_heads would explain it"
        )
    facts = {name: content[name] for name in sorted(_FACTS & set(content))}
    record = {"source": path.name, "sha256": file_sha256(path), "facts": facts}
    return ImportedCorrector(config, params, record | {"parity": difference})


def convert(config: CorrectorConfig, state: Mapping[str, Any], source: object = "") -> Params:
    """Turns a state dict into parameters; every key is used, every parameter filled.

    Raises:
      UserError: naming all keys that are unknown, missing, or of another shape.
    """
    shapes = registry.parameter_shapes(config)
    places = _places(config)
    unknown, missing = sorted(set(state) - set(places)), sorted(set(places) - set(state))
    if unknown or missing:
        parts = [f"unknown keys {', '.join(unknown)}"] * bool(unknown)
        parts += [f"missing keys {', '.join(missing)}"] * bool(missing)
        raise UserError(f"{source} is no {config.kind} corrector: {'; '.join(parts)}")
    params: Params = jax.tree.map(lambda leaf: None, shapes)
    for key, place in places.items():
        array = np.asarray(state[key].detach().to(torch.float32))
        array = array.T if place[-1] == "kernel" else array
        *parents, name = place
        owner, expected = params, shapes
        for parent in parents:
            owner, expected = owner[parent], expected[parent]
        if array.shape != expected[name].shape:
            raise UserError(
                f"{source}: {key} has shape {array.shape}, not {expected[name].shape} (transposed "
                "where it is a matrix)"
            )
        owner[name] = np.ascontiguousarray(array)
    return params


def parity(config: CorrectorConfig, params: Params, state: Mapping[str, Any]) -> float:
    """Largest difference between Flax and torch over random inputs, in units of the action."""
    rng = np.random.default_rng(0)
    rows, window = 32, config.history_len

    def steps(*lead: int) -> PlannedStep:
        return PlannedStep(
            z_real=rng.normal(size=(*lead, config.latent_dim)).astype(np.float32),
            z_pred=rng.normal(size=(*lead, config.latent_dim)).astype(np.float32),
            a_plan=rng.uniform(-1, 1, size=(*lead, config.action_dim)).astype(np.float32),
            offset=np.ones(lead, np.int32),
            mismatch=np.ones(lead, np.float32),
        )

    past = steps(rows, window)
    # Windows of all fillings, from the present step alone to a full one.
    seen = np.arange(window)[None] >= window - 1 - np.arange(rows)[:, None] % window
    present = jax.tree.map(lambda leaf: leaf[:, -1], past)
    context = CorrectionContext(
        present, past, seen, np.zeros((rows, 1, config.action_dim), np.float32)
    )
    ours = registry.apply(config, params, context, clip=False)
    theirs = corrector_reference.forward(config, state, context)
    return float(np.abs(np.asarray(ours) - theirs).max())


def _configuration(
    path: Path, state: Mapping[str, Any], content: Mapping[str, Any], num_heads: int | None
) -> CorrectorConfig:
    """Sizes from the weights; what the file says of itself has to agree with them."""
    if "mlp_real.0.weight" in state:
        kind, fields = "two_tower", {"latent_dim": state["mlp_real.0.weight"].shape[1]}
    elif {"pos_emb", "input_proj.weight", "encoder.layers.0.linear1.weight"} <= set(state):
        kind = "temporal"
        history_len, token_dim = state["pos_emb"].shape
        features = state["input_proj.weight"].shape[1]
        fields = {
            "latent_dim": (features - state["mlp_a.0.weight"].shape[1]) // 3,
            "history_len": history_len,
            "token_dim": token_dim,
            "feedforward_dim": state["encoder.layers.0.linear1.weight"].shape[0],
            "num_blocks": len({m[1] for m in map(_LAYER.match, state) if m}),
        }
    else:
        raise UserError(
            f"{path} holds neither a two-tower corrector (with a key mlp_real.0.weight) nor a "
            f"temporal one (pos_emb); its keys are {', '.join(sorted(state)[:6]) or 'none'}, ..."
        )
    first = state.get("mlp_a.0.weight")
    if first is None:
        raise UserError(f"{path} is no {kind} corrector: missing keys mlp_a.0.weight")
    fields |= {
        "action_dim": first.shape[1],
        "hidden_dim": first.shape[0],
        "num_layers": sum(bool(re.fullmatch(r"mlp_a\.\d+\.weight", key)) for key in state),
    }
    said = dict(content.get("hparams") or {})
    hidden = {ours: said.pop(theirs) for theirs, ours in _UNSEEN.items() if theirs in said}
    said |= {n: content[n] for n in ("latent_dim", "act_dim", "corrector_type") if content.get(n)}
    names = {**_SEEN, "latent_dim": "latent_dim", "act_dim": "action_dim"}
    shown = {theirs: fields[ours] for theirs, ours in names.items() if ours in fields}
    shown["corrector_type"] = kind
    wrong = [
        f"{n} {said[n]!r} (weights: {shown.get(n)!r})" for n in said if said[n] != shown.get(n)
    ]
    if wrong:
        raise UserError(f"{path} says of itself what its weights do not show: {', '.join(wrong)}")
    if num_heads is not None:
        hidden["num_heads"] = num_heads
    config = CorrectorConfig(kind=f"published_{kind}", dropout=0.0, **fields, **hidden)
    if kind == "temporal" and config.token_dim % config.num_heads:
        raise UserError(f"{config.num_heads} heads do not divide {config.token_dim} features")
    if kind == "two_tower":
        config = dataclasses.replace(config, history_len=1)
    return config


_LAYER = re.compile(r"encoder\.layers\.(\d+)\.")


def _places(config: CorrectorConfig) -> dict[str, tuple[str, ...]]:
    """Where each torch key goes in the parameter tree."""
    temporal = config.kind == "published_temporal"
    towers = ("mlp_a", "mlp_u", "mlp_g") if temporal else _TOWERS
    places: dict[str, tuple[str, ...]] = {}

    def dense(key: str, *place: str) -> None:
        places[f"{key}.weight"] = (*place, "kernel")
        places[f"{key}.bias"] = (*place, "bias")

    for tower in towers:
        for i in range(config.num_layers):  # activations take every other index
            dense(f"{tower}.{2 * i}", tower, f"dense_{i}")
    dense("out", "out")
    if temporal:
        places["pos_emb"] = ("pos_emb",)
        dense("input_proj", "input_proj")
        for i in range(config.num_blocks):
            layer, name = f"encoder.layers.{i}", f"layer_{i}"
            places[f"{layer}.self_attn.in_proj_weight"] = (name, "in_proj", "kernel")
            places[f"{layer}.self_attn.in_proj_bias"] = (name, "in_proj", "bias")
            dense(f"{layer}.self_attn.out_proj", name, "out_proj")
            dense(f"{layer}.linear1", name, "linear1")
            dense(f"{layer}.linear2", name, "linear2")
            for norm in ("norm1", "norm2"):
                places[f"{layer}.{norm}.weight"] = (name, norm, "scale")
                places[f"{layer}.{norm}.bias"] = (name, norm, "bias")
    return places


_TOWERS = ("mlp_real", "mlp_pred", "mlp_delta", "mlp_a", "mlp_u", "mlp_g")
