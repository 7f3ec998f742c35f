"""One TD-MPC2 update (spec section 8) and any number of them in one compiled call."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from specmpc_jax.learning import losses, train_state
from specmpc_jax.learning.batch import Batch, UpdateNoise, draw_noise
from specmpc_jax.learning.config import TrainConfig
from specmpc_jax.learning.losses import Metrics
from specmpc_jax.learning.train_state import TrainState
from specmpc_jax.ops import task_embedding
from specmpc_jax.types import Array, Params
from specmpc_jax.world_model import WorldModel

# (state, batches with a leading axis U) -> state, metrics [U]
UpdateFunction = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def update(
    state: TrainState,
    batch: Batch,
    noise: UpdateNoise,
    *,
    model: WorldModel,
    config: TrainConfig,
) -> tuple[TrainState, Metrics]:
    """Makes one update: model, Q scale, policy, target ensemble, in this order.

    Args:
      state: where training stands.
      batch: B slices.
      noise: the update's random numbers, see `batch.draw_noise`.
      model: the world model, static.
      config: hyper-parameters, static.

    Returns:
      The next state and scalar metrics; gradient norms are those before clipping.
    """
    state = bind_embedding(state, batch.task)
    gradients, loss = model_gradients(state.params, batch, noise, model=model, config=config)
    state, norm = step_model(state, gradients, config)
    state = bind_embedding(state, batch.task)
    policy_gradients, policy = policy_gradients_of(
        state, loss.latents, batch, noise, model=model, config=config
    )
    state, policy_norm = step_policy(state, policy_gradients, policy.scale, config)
    norms = {"gradient_norm": norm, "policy_gradient_norm": policy_norm}
    return finish(state, config), loss.metrics | policy.metrics | norms


def update_many(
    state: TrainState, batches: Batch, *, model: WorldModel, config: TrainConfig
) -> tuple[TrainState, Metrics]:
    """Makes one update for each entry of the batches' leading axis U.

    Update n draws its noise from fold_in(state.key, n), so U updates in one
    call equal U calls of one.

    Returns:
      The last state and metrics `[U]`.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        noise = draw_noise(jax.random.fold_in(state.key, state.updates), batch, model.config)
        return update(state, batch, noise, model=model, config=config)

    return jax.lax.scan(step, state, batches)


def compile_updates(model: WorldModel, config: TrainConfig) -> UpdateFunction:
    """Compiles `update_many` for one model; the state passed in is donated, hence used up."""

    def update_donated(state: TrainState, batches: Batch) -> tuple[TrainState, Metrics]:
        return update_many(state, batches, model=model, config=config)

    return jax.jit(update_donated, donate_argnums=0)


def clip_by_norm(gradients: Params, maximum: float) -> tuple[Params, Array]:
    """Scales gradients to a global norm of at most `maximum`.

    Returns:
      The scaled gradients and their norm `[]` before. The 1e-6 is PyTorch's.
    """
    norm = optax.tree.norm(gradients)
    factor = jnp.minimum(maximum / (norm + 1e-6), 1.0)
    return jax.tree.map(lambda leaf: factor * leaf, gradients), norm


def model_gradients(
    params: Params, batch: Batch, noise: UpdateNoise, *, model: WorldModel, config: TrainConfig
) -> tuple[Params, losses.ModelLoss]:
    """Gradients of the model loss, and its by-products."""
    target = losses.targets(model, params, batch, noise)
    return jax.grad(losses.model_loss, has_aux=True)(
        train_state.in_model_loss(params), model, config, batch, noise, target
    )


def policy_gradients_of(
    state: TrainState,
    latents: Array,
    batch: Batch,
    noise: UpdateNoise,
    *,
    model: WorldModel,
    config: TrainConfig,
) -> tuple[Params, losses.PolicyLoss]:
    """Gradients of the policy loss, and its by-products; `latents` as in `policy_loss`."""
    return jax.grad(losses.policy_loss, has_aux=True)(
        policy_trainable(state), model, config, state.params, latents, state.scale, batch, noise
    )


def policy_trainable(state: TrainState) -> Params:
    """The parameters by which the policy loss is differentiated."""
    leaks = state.embedding_gradient is not None
    return {name: state.params[name] for name in ("policy", *(("task_embedding",) * leaks))}


def step_model(
    state: TrainState, gradients: Params, config: TrainConfig
) -> tuple[TrainState, Array]:
    """Applies gradients of the model loss; returns also their norm `[]` before clipping."""
    if state.embedding_gradient is not None:
        total = gradients["task_embedding"] + state.embedding_gradient
        gradients = {**gradients, "task_embedding": total}
    gradients, norm = clip_by_norm(gradients, config.grad_clip_norm)
    trainable = train_state.in_model_loss(state.params)
    steps, optimizer = train_state.model_optimizer(config).update(gradients, state.model_optimizer)
    params = {**state.params, **optax.apply_updates(trainable, steps)}
    return dataclasses.replace(state, params=params, model_optimizer=optimizer), norm


def step_policy(
    state: TrainState, gradients: Params, scale: Array, config: TrainConfig
) -> tuple[TrainState, Array]:
    """Applies gradients of the policy loss and stores the Q scale that it used.

    Returns:
      The next state and the norm `[]` of the policy's gradients before clipping.
    """
    clipped, norm = clip_by_norm(gradients["policy"], config.grad_clip_norm)
    steps, optimizer = train_state.policy_optimizer(config).update(clipped, state.policy_optimizer)
    policy = optax.apply_updates(state.params["policy"], steps)
    state = dataclasses.replace(
        state,
        params={**state.params, "policy": policy},
        policy_optimizer=optimizer,
        scale=scale,
        embedding_gradient=gradients.get("task_embedding"),
    )
    return state, norm


def finish(state: TrainState, config: TrainConfig) -> TrainState:
    """Moves the target ensemble and counts the update."""
    params = state.params
    target_q = optax.incremental_update(params["q"], params["target_q"], config.tau)
    return dataclasses.replace(
        state, params={**params, "target_q": target_q}, updates=state.updates + 1
    )


def bind_embedding(state: TrainState, task: Array | None) -> TrainState:
    """Stores the rescaled embedding rows of a batch's tasks, as the official lookup does."""
    if task is None:
        return state
    table = state.params["task_embedding"]
    table = table.at[task].set(task_embedding.look_up(table, task))
    return dataclasses.replace(state, params={**state.params, "task_embedding": table})
