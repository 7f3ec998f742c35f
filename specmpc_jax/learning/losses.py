"""The losses of TD-MPC2 (spec section 8; Hansen et al., arXiv 2310.16828, section 3.1).

Parameters that a loss differentiates come first and apart from the rest, so
that what a gradient reaches can be read off a signature.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from specmpc_jax.learning.batch import Batch, UpdateNoise
from specmpc_jax.learning.config import TrainConfig
from specmpc_jax.ops.discrete_regression import soft_cross_entropy
from specmpc_jax.ops.running_scale import update_scale
from specmpc_jax.types import Array, Params
from specmpc_jax.world_model import WorldModel

Metrics = dict[str, Array]


class Targets(NamedTuple):
    """What the model loss regresses to, free of gradients."""

    latent: Array  # [H, B, L] encoded next observations
    value: Array  # [H, B] TD targets


class ModelLoss(NamedTuple):
    """By-products of the model loss."""

    latents: Array  # [H+1, B, L] the imagined latents
    metrics: Metrics


class PolicyLoss(NamedTuple):
    """By-products of the policy loss."""

    scale: Array  # [] the Q scale after its step
    metrics: Metrics


def targets(model: WorldModel, params: Params, batch: Batch, noise: UpdateNoise) -> Targets:
    """Computes latent and TD targets with the present encoder, policy and target ensemble."""
    shift = None if noise.shift is None else noise.shift[1:]
    latent = model.encode(params, batch.observation[1:], batch.task, shift)
    action = model.policy(params, latent, noise.target, batch.task).action
    value = model.q_value(
        params, latent, action, noise.target_members, batch.task, target=True, reduce="min"
    )
    discount = jnp.asarray(model.config.discounts, jnp.float32)
    discount = discount[0] if batch.task is None else discount[batch.task].reshape(1, -1)
    return Targets(latent, batch.reward + discount * (1 - batch.terminated) * value)


def model_loss(
    trainable: Params,
    model: WorldModel,
    config: TrainConfig,
    batch: Batch,
    noise: UpdateNoise,
    target: Targets,
) -> tuple[Array, ModelLoss]:
    """Loss of encoder, dynamics, reward, Q ensemble, termination and task embedding.

    Args:
      trainable: their parameters; the gradient reaches all of them.
      model: the world model.
      config: coefficients.
      batch: the slices.
      noise: the model loss's dropout key and the pixel shifts are used.
      target: see `targets`.

    Returns:
      The total loss `[]` and its by-products.
    """
    task = batch.task
    shift = None if noise.shift is None else noise.shift[0]
    latents = [model.encode(trainable, batch.observation[0], task, shift)]
    for action in batch.action:
        latents.append(model.next(trainable, latents[-1], action, task))
    z = jnp.stack(latents)

    reward_logits = model.reward(trainable, z[:-1], batch.action, task)
    q_logits = model.q(
        trainable,
        z[:-1],
        batch.action,
        task,
        dropout_key=None if noise.dropout is None else noise.dropout[0],
        rows=noise.rows,
    )
    consistency = jnp.mean(jnp.square(z[1:] - target.latent), axis=(1, 2))
    reward = jnp.mean(soft_cross_entropy(reward_logits, batch.reward, model.config), axis=1)
    value = jnp.mean(soft_cross_entropy(q_logits, target.value[None], model.config), axis=(0, 2))

    metrics = {
        "consistency_loss": _discounted_mean(consistency, config.rho),
        "reward_loss": _discounted_mean(reward, config.rho),
        "value_loss": _discounted_mean(value, config.rho),
    }
    total = (
        config.consistency_coef * metrics["consistency_loss"]
        + config.reward_coef * metrics["reward_loss"]
        + config.value_coef * metrics["value_loss"]
    )
    if model.config.episodic:
        logits = model.termination(trainable, z[1:], task)
        loss = jnp.mean(optax.sigmoid_binary_cross_entropy(logits, batch.terminated))
        total = total + config.termination_coef * loss
        metrics["termination_loss"] = loss
        metrics |= termination_statistics(logits[-1], batch.terminated[-1])
    return total, ModelLoss(z, {**metrics, "total_loss": total})


def policy_loss(
    trainable: Params,
    model: WorldModel,
    config: TrainConfig,
    params: Params,
    latents: Array,
    scale: Array,
    batch: Batch,
    noise: UpdateNoise,
    whole: Callable[[Array], Array] = lambda part: part,
) -> tuple[Array, PolicyLoss]:
    """Loss of the policy prior: scaled Q and entropy along imagined latents.

    Args:
      trainable: parameters of the policy. Whatever else is in there (the task
        embedding, to reproduce the official leak) gets its gradient too.
      model: the world model.
      config: coefficients.
      params: all other parameters; Q's gradient flows through the action only.
      latents: `[H+1, B, L]`.
      scale: the Q scale `[]` before its step.
      batch: only its tasks are used.
      noise: the policy's normals, members and dropout key are used.
      whole: joins what was computed for the parts of a batch, whose Q values the scale is
        made of; nothing to join if this is all of it.

    Returns:
      The loss `[]` and its by-products.
    """
    params = {**params, **trainable}
    latents = jax.lax.stop_gradient(latents)
    policy = model.policy(params, latents, noise.policy, batch.task)
    q_logits = model.q(
        params,
        latents,
        policy.action,
        batch.task,
        members=noise.policy_members,
        dropout_key=None if noise.dropout is None else noise.dropout[1],
        rows=noise.rows,
    )
    q = jnp.mean(model.decode(q_logits), axis=0)
    scale = update_scale(scale, whole(jax.lax.stop_gradient(q[0])), config.tau)
    objective = config.entropy_coef * policy.scaled_entropy + q / scale
    loss = _discounted_mean(-jnp.mean(objective, axis=1), config.rho)
    metrics = {
        "policy_loss": loss,
        "policy_entropy": jnp.mean(policy.entropy),
        "policy_scaled_entropy": jnp.mean(policy.scaled_entropy),
        "q_scale": scale,
    }
    return loss, PolicyLoss(scale, metrics)


def termination_statistics(logits: Array, terminated: Array) -> Metrics:
    """Share of terminated steps and F1 score of their prediction; both arguments `[B]`."""
    predicted = (logits > 0).astype(jnp.float32)
    hits = jnp.sum(predicted * terminated)
    marked = jnp.sum(predicted) + jnp.sum(terminated)
    return {
        "termination_rate": jnp.mean(terminated),
        "termination_f1": 2 * hits / jnp.maximum(marked, 1.0),
    }


def _discounted_mean(losses: Array, rho: float) -> Array:
    """Mean over time of losses `[T]` weighted by rho^t."""
    return jnp.mean(losses * rho ** jnp.arange(len(losses), dtype=jnp.float32))
