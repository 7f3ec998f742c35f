"""Forward passes of published correctors in torch, to compare imported ones with.

Written for this comparison from the networks' description (spec: speculation,
"correctors") and the keys of their state dicts; attention is torch's own.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from specmpc_jax.config import CorrectorConfig
from specmpc_jax.types import CorrectionContext


@torch.no_grad()
def forward(
    config: CorrectorConfig, state: Mapping[str, Any], context: CorrectionContext
) -> np.ndarray:
    """Corrected actions `[B, A]`, unclipped.

    Args:
      config: of kind `published_two_tower` or `published_temporal`.
      state: the state dict, as in the file.
      context: NumPy arrays with a leading axis B.
    """
    state = {key: value.to(torch.float32) for key, value in state.items()}
    plan = torch.from_numpy(context.step.a_plan)
    action = _mlp(state, "mlp_a", plan)
    if config.kind == "published_temporal":
        seen = _attend(config, state, context)
    else:
        real, predicted = map(torch.from_numpy, (context.step.z_real, context.step.z_pred))
        inputs = {"mlp_real": real, "mlp_pred": predicted, "mlp_delta": real - predicted}
        seen = torch.cat([_mlp(state, name, x) for name, x in inputs.items()], dim=-1)
    both = torch.cat([seen, action], dim=-1)
    gate = torch.sigmoid(_mlp(state, "mlp_g", both))
    mixed = torch.lerp(action, _mlp(state, "mlp_u", both), gate)
    change = functional.linear(mixed, state["out.weight"], state["out.bias"])
    return (plan + (torch.tanh(change) if config.tanh_output else change)).numpy()


def _mlp(state: Mapping[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    index = 0
    while f"{name}.{index}.weight" in state:
        x = functional.silu(x) if index else x
        x = functional.linear(x, state[f"{name}.{index}.weight"], state[f"{name}.{index}.bias"])
        index += 2
    return x


def _attend(
    config: CorrectorConfig, state: Mapping[str, torch.Tensor], context: CorrectionContext
) -> torch.Tensor:
    window = context.window
    past = [window.z_real, window.z_pred, window.z_real - window.z_pred, window.a_plan]
    features = np.concatenate(past, axis=-1) * context.window_mask[..., None]
    tokens = torch.from_numpy(features.astype(np.float32))
    tokens = functional.linear(tokens, state["input_proj.weight"], state["input_proj.bias"])
    layer = torch.nn.TransformerEncoderLayer(
        config.token_dim,
        config.num_heads,
        config.feedforward_dim,
        activation="gelu",
        batch_first=True,
    )
    encoder = torch.nn.TransformerEncoder(layer, config.num_blocks, enable_nested_tensor=False)
    prefix = "encoder."
    encoder.load_state_dict(
        {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}
    )
    return encoder.eval()(tokens + state["pos_emb"])[:, 0]
