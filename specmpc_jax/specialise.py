"""A multi-task model's function of one task, as a single-task model.

The task embedding enters each network through its first layer only, where a constant
input is a bias: folded in, nothing of the function is lost, and what padding and masks
leave unused falls away. Training may then go on as for any single-task model.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from specmpc_jax.config import ModelConfig
from specmpc_jax.errors import UserError, nearest_names
from specmpc_jax.ops import task_embedding
from specmpc_jax.types import Array, Params

ZERO = "zero"
MEAN = "mean"


def specialise(
    params: Params,
    config: ModelConfig,
    task: str,
    *,
    observation_dim: int,
    action_dim: int,
    episode_length: int,
    start: str | None = None,
) -> tuple[Params, ModelConfig]:
    """Cuts a multi-task model down to one task, known to it or new.

    Args:
      params: parameter tree.
      config: its configuration.
      task: name of the task.
      observation_dim: observation size of the task, at most the model's.
      action_dim: action size of the task, at most the model's.
      episode_length: in agent steps, for the discount.
      start: whose task embedding to take: the name of a task of the model, "zero",
        "mean" over all tasks, or None for that of `task` itself.

    Returns:
      Parameters and configuration of a single-task model. For a task of the model's own
      its latents, rewards, values and policy means are those of the multi-task one.

    Raises:
      UserError: if the model is no multi-task one, the task too wide for it, or
        `start` unknown.
    """
    if not config.multitask:
        raise UserError("the model was trained on a single task; there is nothing to specialise")
    (widest,) = config.observation_shape
    if observation_dim > widest or action_dim > config.action_dim:
        raise UserError(
            f"{task} has {observation_dim} observation and {action_dim} action dimensions; the "
            f"model has {widest} and {config.action_dim}"
        )
    embedding = _embedding(params["task_embedding"], config, task, start)
    lead = {"encoder": widest, "policy": config.latent_dim}
    cut: Params = {}
    for name, part in params.items():
        if name == "task_embedding":
            continue
        before = lead.get(name, config.latent_dim)
        cut[name] = _fold(part, before, embedding)
        if name == "encoder":
            cut[name] = _keep_inputs(cut[name], np.arange(observation_dim))
        elif name == "policy":
            cut[name] = _keep_policy_outputs(cut[name], config.action_dim, action_dim)
        else:
            cut[name] = _keep_inputs(cut[name], np.arange(config.latent_dim + action_dim))
    single = dataclasses.replace(
        config,
        task_dim=0,
        tasks=(task,),
        action_dim=action_dim,
        action_dims=(action_dim,),
        observation_shape=(observation_dim,),
        observation_dims=(observation_dim,),
        episode_lengths=(episode_length,),
    )
    return cut, single


def _embedding(table: Array, config: ModelConfig, task: str, start: str | None) -> Array:
    """The embedding `[T]` to begin with, of norm at most 1 as the model looks it up."""
    table = jnp.asarray(table)
    if start == ZERO:
        return jnp.zeros(table.shape[-1])
    rows = task_embedding.look_up(table, jnp.arange(len(table)))
    if start == MEAN:
        return rows.mean(0)
    name = start or task
    if name not in config.tasks:
        known = nearest_names(name, config.tasks)
        if start is None:
            raise UserError(
                f"{task} is new to the model; say whose embedding to begin with: a task of the "
                f"model (the nearest are {known}), {ZERO} or {MEAN}"
            )
        raise UserError(
            f"the model has no task {name!r} to take the embedding of; the nearest are {known}, "
            f"and {ZERO} and {MEAN} are possible"
        )
    return rows[config.tasks.index(name)]


def _fold(part: Params, before: int, embedding: Array) -> Params:
    """Moves the embedding, inputs `before` to `before + T`, into the first layer's bias."""
    layer = part["layer_0"]
    kernel = jnp.asarray(layer["kernel"])
    end = before + len(embedding)
    # Kernels of an ensemble have a leading axis K.
    weights = kernel[..., before:end, :]
    bias = layer["bias"] + jnp.einsum("t,...tf->...f", embedding, weights)
    rest = jnp.concatenate([kernel[..., :before, :], kernel[..., end:, :]], -2)
    return {**part, "layer_0": {**layer, "kernel": rest, "bias": bias}}


def _keep_inputs(part: Params, kept: np.ndarray) -> Params:
    """Drops inputs of the first layer that are always zero."""
    layer = part["layer_0"]
    return {**part, "layer_0": {**layer, "kernel": layer["kernel"][..., kept, :]}}


def _keep_policy_outputs(part: Params, action_dim: int, used: int) -> Params:
    """Drops the means and log stds of unused action dimensions."""
    kept = np.concatenate([np.arange(used), action_dim + np.arange(used)])
    head = part["head"]
    return {**part, "head": {"kernel": head["kernel"][:, kept], "bias": head["bias"][kept]}}
