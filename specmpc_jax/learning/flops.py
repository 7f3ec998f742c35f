"""Floating-point operations that one update needs, whatever computes it.

Only matrix products (and convolutions) count, two operations for each product of two
numbers, and of them only what the algorithm asks for:

- targets: encoder, policy and two target Q members, forward, for H steps;
- model loss: encoder, H dynamics steps, and reward, all Q members and termination for H
  steps, forward; backward the gradient of every weight, and of every input that leads to a
  weight (latents and task embedding, not observations or actions);
- policy loss: policy and two Q members for H + 1 steps, forward; backward the policy's
  weights, and through Q the gradient of the action alone, of no weight and no latent.
"""

from typing import NamedTuple

from specmpc_jax.config import ModelConfig
from specmpc_jax.learning.config import TrainConfig
from specmpc_jax.networks.encoders import CONVOLUTIONS

DRAWN_MEMBERS = 2


class UpdateFlops(NamedTuple):
    """Operations of one update by its parts."""

    targets: int
    model_forward: int
    model_backward: int
    policy_forward: int
    policy_backward: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self)


class _Network(NamedTuple):
    """Operations for one row of a network's input."""

    forward: int
    hidden: int  # of which behind the first layer
    first_width: int  # outputs of the first layer, to which each input has one weight

    @property
    def weight_gradients(self) -> int:
        return self.forward

    def input_gradients(self, columns: int) -> int:
        """Backward through the hidden layers and to `columns` of the input."""
        return self.hidden + 2 * columns * self.first_width


def update_flops(model: ModelConfig, config: TrainConfig) -> UpdateFlops:
    """Counts the operations of one update of `config.batch_size` slices."""
    latent, task, action = model.latent_dim, model.task_dim, model.action_dim
    encoder = _encoder(model)
    dynamics = _mlp(model, latent + task + action, latent)
    bins = _mlp(model, latent + task + action, model.num_bins)
    policy = _mlp(model, latent + task, 2 * action)
    heads = [dynamics, bins] + [bins] * model.num_q
    if model.episodic:
        heads.append(_mlp(model, latent + task, 1))

    start = config.batch_size
    steps = start * config.horizon
    imagined = start + steps
    leaked = task if config.leak_embedding_gradient else 0
    return UpdateFlops(
        targets=steps * (encoder.forward + policy.forward + DRAWN_MEMBERS * bins.forward),
        model_forward=start * encoder.forward + steps * sum(head.forward for head in heads),
        model_backward=start * (encoder.weight_gradients + encoder.input_gradients(task))
        + steps
        * sum(head.weight_gradients + head.input_gradients(latent + task) for head in heads),
        policy_forward=imagined * (policy.forward + DRAWN_MEMBERS * bins.forward),
        policy_backward=imagined
        * (
            policy.weight_gradients
            + policy.input_gradients(leaked)
            + DRAWN_MEMBERS * bins.input_gradients(action + leaked)
        ),
    )


def _mlp(model: ModelConfig, width: int, out: int) -> _Network:
    hidden = 2 * (model.mlp_dim * model.mlp_dim + model.mlp_dim * out)
    return _Network(2 * width * model.mlp_dim + hidden, hidden, model.mlp_dim)


def _encoder(model: ModelConfig) -> _Network:
    if model.observation == "rgb":
        return _convolutions(model)
    count = max(model.num_enc_layers - 1, 1)
    hidden = 2 * ((count - 1) * model.enc_dim**2 + model.enc_dim * model.latent_dim)
    first = 2 * (model.observation_shape[0] + model.task_dim) * model.enc_dim
    return _Network(first + hidden, hidden, model.enc_dim)


def _convolutions(model: ModelConfig) -> _Network:
    channels, size, _ = model.observation_shape
    layers = []
    for kernel, stride in CONVOLUTIONS:
        size = (size - kernel) // stride + 1
        layers.append(2 * size**2 * kernel**2 * channels * model.num_channels)
        channels = model.num_channels
    return _Network(sum(layers), sum(layers[1:]), 0)
