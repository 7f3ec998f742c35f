"""The TD-MPC2 update as eager PyTorch computes it: what `benchmark_training` compares with.

Written from the formulas (Hansen et al., arXiv 2310.16828; spec sections 2-5 and 8) in the
usual way of PyTorch code: one call a layer, the Q ensemble as stacked batched products,
`torch.optim.Adam`, `clip_grad_norm_`. Single-task models of states only. A test holds its
losses and updated parameters to those of the JAX update.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from specmpc_jax.config import ModelConfig
from specmpc_jax.errors import UserError
from specmpc_jax.learning.batch import Batch, UpdateNoise
from specmpc_jax.learning.config import TrainConfig
from specmpc_jax.ops.activations import LAYER_NORM_EPSILON
from specmpc_jax.types import Params

# kernel (out, in), or [K, in, out] in ensembles; bias; scale and offset where it is normed
Layer = dict[str, torch.Tensor]
Tensors = dict[str, dict[str, Layer]]

_ENSEMBLES = ("q", "target_q")
_TRAINED = ("encoder", "dynamics", "reward", "q")
_LOG_TWO_PI = float(np.log(2 * np.pi))


class TorchLearner:
    """Parameters, optimisers and Q scale; `update` changes them in place."""

    def __init__(self, model: ModelConfig, config: TrainConfig, params: Params) -> None:
        """Copies JAX parameters into tensors.

        Raises:
          UserError: if the model is multi-task, episodic or sees pixels.
        """
        if model.multitask or model.episodic or model.observation != "state":
            raise UserError("the PyTorch update is for single-task, unepisodic models of states")
        self._model, self._config = model, config
        self.tensors = _to_tensors(params)
        self.scale = torch.ones(())
        self._bins = torch.linspace(model.vmin, model.vmax, model.num_bins)
        trained = {name: _leaves(self.tensors[name]) for name in _TRAINED}
        self._model_leaves = [leaf for leaves in trained.values() for leaf in leaves]
        self._policy_leaves = _leaves(self.tensors["policy"])
        for leaf in (*self._model_leaves, *self._policy_leaves):
            leaf.requires_grad_()
        encoder = {"params": trained.pop("encoder"), "lr": config.lr * config.enc_lr_scale}
        others = {"params": [leaf for leaves in trained.values() for leaf in leaves]}
        self._optimizer = torch.optim.Adam([encoder, others], lr=config.lr, eps=config.adam_epsilon)
        self._policy_optimizer = torch.optim.Adam(
            self._policy_leaves, lr=config.lr, eps=config.policy_adam_epsilon
        )

    def params(self) -> Params:
        """The parameters in the layout of the JAX model, as numpy arrays."""
        return {
            head: {
                name: {
                    key: _jax_layout(head, key, leaf.detach()).numpy()
                    for key, leaf in layer.items()
                }
                for name, layer in layers.items()
            }
            for head, layers in self.tensors.items()
        }

    def update(self, batch: Batch, noise: UpdateNoise) -> dict[str, float]:
        """Makes one update.

        Args:
          batch: B slices of numpy or JAX arrays, `[H+1, B, D]` and so on.
          noise: its arrays are used; a dropout key only says that there is dropout, whose
            masks PyTorch draws.

        Returns:
          Scalar metrics under the names of the JAX update.
        """
        drop = noise.dropout is not None
        observation, action, reward, terminated = map(
            _tensor, (batch.observation, batch.action, batch.reward, batch.terminated)
        )
        next_latent, value = self._targets(observation, reward, terminated, noise)
        losses, latents = self._model_loss(observation[0], action, reward, next_latent, value, drop)
        losses["total_loss"].backward()
        norm = torch.nn.utils.clip_grad_norm_(self._model_leaves, self._config.grad_clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

        policy_loss = self._policy_loss(latents.detach(), noise, drop)
        policy_loss.backward()
        policy_norm = torch.nn.utils.clip_grad_norm_(
            self._policy_leaves, self._config.grad_clip_norm
        )
        self._policy_optimizer.step()
        self._policy_optimizer.zero_grad(set_to_none=True)

        with torch.no_grad():
            targets, online = _leaves(self.tensors["target_q"]), _leaves(self.tensors["q"])
            torch._foreach_lerp_(targets, online, self._config.tau)
        metrics = {
            **losses,
            "gradient_norm": norm,
            "policy_loss": policy_loss,
            "policy_gradient_norm": policy_norm,
            "q_scale": self.scale,
        }
        return {name: float(value.detach()) for name, value in metrics.items()}

    @torch.no_grad()
    def _targets(
        self,
        observation: torch.Tensor,
        reward: torch.Tensor,
        terminated: torch.Tensor,
        noise: UpdateNoise,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        latent = self._encode(observation[1:])
        action, _ = self._policy(latent, _tensor(noise.target))
        members = torch.as_tensor(np.array(noise.target_members), dtype=torch.long)
        logits = self._q("target_q", torch.cat([latent, action], -1), members=members)
        value = self._decode(logits).min(0).values
        return latent, reward + self._model.discounts[0] * (1 - terminated) * value

    def _model_loss(
        self,
        observation: torch.Tensor,
        action: torch.Tensor,
        reward: torch.Tensor,
        next_latent: torch.Tensor,
        value: torch.Tensor,
        drop: bool,
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        config = self._config
        latents = [self._encode(observation)]
        for step in action:
            x = torch.cat([latents[-1], step], -1)
            latents.append(self._simnorm(_mlp(self.tensors["dynamics"], x)))
        z = torch.stack(latents)
        x = torch.cat([z[:-1], action], -1)
        consistency = (z[1:] - next_latent).square().mean((1, 2))
        reward_loss = self._cross_entropy(_mlp(self.tensors["reward"], x), reward).mean(1)
        value_loss = self._cross_entropy(self._q("q", x, drop=drop), value[None]).mean((0, 2))
        losses = {
            "consistency_loss": self._weighted(consistency),
            "reward_loss": self._weighted(reward_loss),
            "value_loss": self._weighted(value_loss),
        }
        losses["total_loss"] = (
            config.consistency_coef * losses["consistency_loss"]
            + config.reward_coef * losses["reward_loss"]
            + config.value_coef * losses["value_loss"]
        )
        return losses, z

    def _policy_loss(self, latents: torch.Tensor, noise: UpdateNoise, drop: bool) -> torch.Tensor:
        config = self._config
        action, scaled_entropy = self._policy(latents, _tensor(noise.policy))
        members = torch.as_tensor(np.array(noise.policy_members), dtype=torch.long)
        x = torch.cat([latents, action], -1)
        q = self._decode(self._q("q", x, members=members, drop=drop, frozen=True)).mean(0)
        with torch.no_grad():
            low, high = torch.quantile(q[0], torch.tensor([0.05, 0.95]))
            self.scale = self.scale + config.tau * ((high - low).clamp(min=1.0) - self.scale)
        objective = config.entropy_coef * scaled_entropy + q / self.scale
        return self._weighted(-objective.mean(1))

    def _weighted(self, losses: torch.Tensor) -> torch.Tensor:
        """Mean over time, weighted by rho^t."""
        return (losses * self._config.rho ** torch.arange(len(losses))).mean()

    def _encode(self, observation: torch.Tensor) -> torch.Tensor:
        return self._simnorm(_mlp(self.tensors["encoder"], observation))

    def _simnorm(self, x: torch.Tensor) -> torch.Tensor:
        return F.softmax(x.unflatten(-1, (-1, self._model.simnorm_dim)), -1).flatten(-2)

    def _policy(self, z: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Actions and scaled entropies (spec section 4)."""
        low, high = self._model.log_std_min, self._model.log_std_max
        mean, log_std = _mlp(self.tensors["policy"], z).chunk(2, -1)
        log_std = low + 0.5 * (high - low) * (torch.tanh(log_std) + 1)
        gaussian = (-0.5 * noise.square() - log_std - 0.5 * _LOG_TWO_PI).sum(-1)
        action = torch.tanh(mean + noise * log_std.exp())
        log_prob = gaussian - (F.relu(1 - action.square()) + 1e-6).log().sum(-1)
        scaled = -log_prob * (gaussian * action.shape[-1] / (log_prob + 1e-8))
        return action, scaled

    def _q(
        self,
        name: str,
        x: torch.Tensor,
        *,
        members: torch.Tensor | None = None,
        drop: bool = False,
        frozen: bool = False,
    ) -> torch.Tensor:
        """Logits `[M, ..., num_bins]`; `frozen` lets no gradient reach the weights."""
        layers = self.tensors[name]
        if frozen:
            layers = {n: {k: v.detach() for k, v in layer.items()} for n, layer in layers.items()}
        if members is not None:
            layers = {n: {k: v[members] for k, v in layer.items()} for n, layer in layers.items()}
        count = len(layers["head"]["bias"])
        rows = x.flatten(0, -2).expand(count, -1, -1)
        for index, layer in enumerate(layers.values()):
            rows = torch.baddbmm(layer["bias"][:, None], rows, layer["kernel"])
            if index == 0:
                rows = F.dropout(rows, self._model.dropout, training=drop)
            if "scale" in layer:
                rows = F.layer_norm(rows, rows.shape[-1:], eps=LAYER_NORM_EPSILON)
                rows = F.mish(rows * layer["scale"][:, None] + layer["offset"][:, None])
        return rows.unflatten(1, x.shape[:-1])

    def _decode(self, logits: torch.Tensor) -> torch.Tensor:
        x = (F.softmax(logits, -1) * self._bins).sum(-1)
        return x.sign() * (x.abs().exp() - 1)

    def _cross_entropy(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Cross entropy with two-hot targets (spec section 3)."""
        low, high = self._model.vmin, self._model.vmax
        width = (high - low) / (self._model.num_bins - 1)
        x = (target.sign() * target.abs().log1p()).clamp(low, high)
        place = (x - low) / width
        lower = place.floor()
        fraction = (place - lower)[..., None]
        index = lower.long()[..., None]
        two_hot = torch.zeros(*target.shape, self._model.num_bins)
        two_hot.scatter_(-1, index, 1 - fraction)
        two_hot.scatter_(-1, (index + 1) % self._model.num_bins, fraction)
        return -(two_hot * F.log_softmax(logits, -1)).sum(-1)


def _mlp(layers: Mapping[str, Layer], x: torch.Tensor) -> torch.Tensor:
    """Mish follows every normed layer but one that comes last."""
    last = list(layers)[-1]
    for name, layer in layers.items():
        x = F.linear(x, layer["kernel"], layer["bias"])
        if "scale" in layer:
            x = F.layer_norm(x, x.shape[-1:], layer["scale"], layer["offset"], LAYER_NORM_EPSILON)
        if name != last:
            x = F.mish(x)
    return x


def _to_tensors(params: Params) -> Tensors:
    """Tensors of a parameter tree, layers in the order of their use."""
    tensors: Tensors = {}
    for head, layers in params.items():
        order = sorted(layers, key=lambda name: (name == "head", name))
        tensors[head] = {
            name: {key: _torch_layout(head, key, leaf) for key, leaf in layers[name].items()}
            for name in order
        }
    return tensors


def _torch_layout(head: str, key: str, leaf: Any) -> torch.Tensor:
    tensor = _tensor(leaf)
    transposed = key == "kernel" and head not in _ENSEMBLES
    return tensor.T.contiguous() if transposed else tensor.clone()


def _jax_layout(head: str, key: str, tensor: torch.Tensor) -> torch.Tensor:
    return tensor.T if key == "kernel" and head not in _ENSEMBLES else tensor


def _tensor(array: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(array))


def _leaves(layers: Mapping[str, Layer]) -> list[torch.Tensor]:
    return [leaf for layer in layers.values() for leaf in layer.values()]
