"""Parity of a torch checkpoint and its Flax parameters, module by module.

The torch side is a reference of its own: plain `torch.nn.functional` over the
file's tensors, so that neither the transposes of the conversion nor the Flax
modules are trusted. Source: spec sections 2 and 4.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F

from converters import conversion
from specmpc_jax.config import ModelConfig
from specmpc_jax.errors import UserError
from specmpc_jax.ops.task_embedding import action_masks, look_up
from specmpc_jax.types import Params
from specmpc_jax.world_model import WorldModel

# Rounding in float32 stays far below this, a wrong key far above.
RELATIVE_TOLERANCE = 1e-4
ABSOLUTE_TOLERANCE = 1e-6
BATCH_SIZE = 16

_CONVOLUTIONS = ((2, 2), (4, 2), (6, 2), (8, 1))  # (position, stride)


@dataclasses.dataclass(frozen=True)
class Parity:
    """Largest difference between the torch and the Flax output of one module.

    `relative` is `difference` over the largest magnitude that torch puts out.
    """

    module: str
    difference: float
    relative: float

    @property
    def within_tolerance(self) -> bool:
        """Whether rounding can explain the difference; NaN never is within."""
        return self.relative <= RELATIVE_TOLERANCE or self.difference <= ABSOLUTE_TOLERANCE


def parity_report(
    state_dict: Mapping[str, Any], params: Params, config: ModelConfig, seed: int = 0
) -> list[Parity]:
    """Compares every module on random inputs drawn from `seed`.

    Args:
      state_dict: official state dict of any layout.
      params: the Flax parameters made from it.
      config: their configuration.
      seed: of the random inputs.

    Returns:
      One row a module, in the order of the model.
    """
    inputs = _random_inputs(config, np.random.default_rng(seed))
    expected = _torch_outputs(conversion.rename_to_current(state_dict), config, inputs)
    with jax.default_matmul_precision("highest"):
        actual = _flax_outputs(params, config, inputs)
    return [_compare(name, expected[name], np.asarray(actual[name])) for name in expected]


def require_parity(report: Sequence[Parity]) -> None:
    """Refuses a report with a module beyond tolerance.

    Raises:
      UserError: naming the modules.
    """
    beyond = [f"{row.module} ({row.relative:.1e})" for row in report if not row.within_tolerance]
    if beyond:
        raise UserError(
            f"torch and Flax disagree beyond {RELATIVE_TOLERANCE:.0e} in {', '.join(beyond)}"
        )


def format_report(report: Sequence[Parity]) -> str:
    """The report as a table of text."""
    lines = [f"{'module':<16} {'largest difference':>18} {'relative':>9}"]
    lines += [f"{row.module:<16} {row.difference:18.1e} {row.relative:9.1e}" for row in report]
    return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class _Inputs:
    observation: np.ndarray  # [B, D], or [B, C, 64, 64] in 0..255
    latent: np.ndarray  # [B, L]
    action: np.ndarray  # [B, A]
    task: np.ndarray  # [B]


def _random_inputs(config: ModelConfig, rng: np.random.Generator) -> _Inputs:
    shape = (BATCH_SIZE, *config.observation_shape)
    if config.observation == "rgb":
        observation = rng.integers(0, 256, shape).astype(np.float32)
    else:
        observation = 3 * rng.standard_normal(shape, np.float32)
    groups = rng.standard_normal((BATCH_SIZE, config.latent_dim), np.float32)
    return _Inputs(
        observation=observation,
        latent=_simnorm(torch.from_numpy(groups), config).numpy(),
        action=rng.uniform(-1, 1, (BATCH_SIZE, config.action_dim)).astype(np.float32),
        task=rng.integers(0, config.num_tasks, BATCH_SIZE),
    )


def _compare(module: str, expected: np.ndarray, actual: np.ndarray) -> Parity:
    if expected.shape != actual.shape:
        raise UserError(f"{module} gives {list(actual.shape)} in Flax, {list(expected.shape)} here")
    difference = float(np.max(np.abs(expected - actual)))
    scale = float(np.max(np.abs(expected)))
    return Parity(module, difference, difference / scale if scale else difference)


def _flax_outputs(params: Params, config: ModelConfig, inputs: _Inputs) -> dict[str, Any]:
    model = WorldModel(config)
    z, action, task = map(jnp.asarray, (inputs.latent, inputs.action, inputs.task))
    policy = model.policy(params, z, jnp.zeros_like(action), task)
    outputs = {
        "encoder": model.encode(params, jnp.asarray(inputs.observation), task),
        "dynamics": model.next(params, z, action, task),
        "reward": model.reward(params, z, action, task),
        "policy mean": policy.mean,
        "policy log_std": policy.log_std,
        "q": model.q(params, z, action, task),
        "target_q": model.q(params, z, action, task, target=True),
    }
    if config.episodic:
        outputs["termination"] = model.termination(params, z, task)
    if config.multitask:
        outputs["task_embedding"] = look_up(jnp.asarray(params["task_embedding"]), task)
    return outputs


@torch.no_grad()
def _torch_outputs(
    tensors: Mapping[str, torch.Tensor], config: ModelConfig, inputs: _Inputs
) -> dict[str, np.ndarray]:
    z, action = torch.from_numpy(inputs.latent), torch.from_numpy(inputs.action)
    task, observation = torch.from_numpy(inputs.task), torch.from_numpy(inputs.observation)
    embedding = None
    if config.multitask:
        # F.embedding rescales rows in place; the checkpoint's own stay as they are.
        table = tensors["_task_emb.weight"].clone()
        embedding = F.embedding(task, table, max_norm=1.0)
    state = z if embedding is None else torch.cat([z, embedding], -1)
    state_action = torch.cat([state, action], -1)

    mean, log_std = _mlp(tensors, "_pi", state).chunk(2, -1)
    log_std = config.log_std_min + 0.5 * (config.log_std_max - config.log_std_min) * (
        torch.tanh(log_std) + 1
    )
    if config.multitask:
        mask = torch.from_numpy(action_masks(config))[task]
        mean, log_std = mean * mask, log_std * mask
    outputs = {
        "encoder": _encode(tensors, config, observation, embedding),
        "dynamics": _simnorm(_mlp(tensors, "_dynamics", state_action), config),
        "reward": _mlp(tensors, "_reward", state_action),
        "policy mean": torch.tanh(mean),
        "policy log_std": log_std,
        "q": _ensemble(tensors, "_Qs.params", config.num_q, state_action),
        "target_q": _ensemble(tensors, "_target_Qs_params", config.num_q, state_action),
    }
    if config.episodic:
        outputs["termination"] = _mlp(tensors, "_termination", state)[..., 0]
    if embedding is not None:
        outputs["task_embedding"] = embedding
    return {name: value.numpy() for name, value in outputs.items()}


def _encode(
    tensors: Mapping[str, torch.Tensor],
    config: ModelConfig,
    observation: torch.Tensor,
    embedding: torch.Tensor | None,
) -> torch.Tensor:
    if config.observation == "rgb":
        x = observation / 255 - 0.5
        for position, stride in _CONVOLUTIONS:
            key = f"_encoder.rgb.{position}"
            x = F.relu(x) if position > 2 else x
            x = F.conv2d(x, tensors[f"{key}.weight"], tensors[f"{key}.bias"], stride)
        return _simnorm(x.flatten(1), config)
    if config.symlog_observations:
        observation = torch.sign(observation) * torch.log1p(torch.abs(observation))
    x = observation if embedding is None else torch.cat([observation, embedding], -1)
    return _simnorm(_mlp(tensors, "_encoder.state", x), config)


def _ensemble(
    tensors: Mapping[str, torch.Tensor], prefix: str, num_q: int, x: torch.Tensor
) -> torch.Tensor:
    members = []
    for member in range(num_q):
        own = {key: value[member] for key, value in tensors.items() if key.startswith(prefix)}
        members.append(_mlp(own, prefix, x))
    return torch.stack(members)


def _mlp(tensors: Mapping[str, torch.Tensor], prefix: str, x: torch.Tensor) -> torch.Tensor:
    """Layers 0, 1, … of a module, Mish between them; no activation after the last."""
    layer = 0
    while f"{prefix}.{layer}.weight" in tensors:
        x = F.mish(x) if layer else x
        key = f"{prefix}.{layer}"
        x = F.linear(x, tensors[f"{key}.weight"], tensors[f"{key}.bias"])
        if f"{key}.ln.weight" in tensors:
            scale, offset = tensors[f"{key}.ln.weight"], tensors[f"{key}.ln.bias"]
            x = F.layer_norm(x, scale.shape, scale, offset, 1e-5)
        layer += 1
    return x


def _simnorm(x: torch.Tensor, config: ModelConfig) -> torch.Tensor:
    return F.softmax(x.unflatten(-1, (-1, config.simnorm_dim)), -1).flatten(-2)
