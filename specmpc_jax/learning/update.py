"""One TD-MPC2 update (spec section 8) and any number of them in one compiled call."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from specmpc_jax.config import TrainConfig
from specmpc_jax.learning import losses, train_state
from specmpc_jax.learning.batch import Batch, UpdateNoise, draw_noise
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
    state, latents, model_metrics = _update_model(state, batch, noise, model, config)
    state, policy_metrics = _update_policy(state, latents, batch, noise, model, config)
    params = state.params
    target_q = optax.incremental_update(params["q"], params["target_q"], config.tau)
    state = state.replace(params={**params, "target_q": target_q}, updates=state.updates + 1)
    return state, model_metrics | policy_metrics


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


def _update_model(
    state: TrainState, batch: Batch, noise: UpdateNoise, model: WorldModel, config: TrainConfig
) -> tuple[TrainState, Array, Metrics]:
    params = _bound_embedding(state.params, batch.task)
    target = losses.targets(model, params, batch, noise)
    trainable = train_state.in_model_loss(params)
    gradients, loss = jax.grad(losses.model_loss, has_aux=True)(
        trainable, model, config, batch, noise, target
    )
    if state.embedding_gradient is not None:
        total = gradients["task_embedding"] + state.embedding_gradient
        gradients = {**gradients, "task_embedding": total}
    gradients, norm = clip_by_norm(gradients, config.grad_clip_norm)
    steps, optimizer = train_state.model_optimizer(config).update(gradients, state.model_optimizer)
    params = {**params, **optax.apply_updates(trainable, steps)}
    metrics = {**loss.metrics, "gradient_norm": norm}
    return state.replace(params=params, model_optimizer=optimizer), loss.latents, metrics


def _update_policy(
    state: TrainState,
    latents: Array,
    batch: Batch,
    noise: UpdateNoise,
    model: WorldModel,
    config: TrainConfig,
) -> tuple[TrainState, Metrics]:
    params = _bound_embedding(state.params, batch.task)
    leaks = state.embedding_gradient is not None
    trainable = {name: params[name] for name in ("policy", *(("task_embedding",) * leaks))}
    gradients, loss = jax.grad(losses.policy_loss, has_aux=True)(
        trainable, model, config, params, latents, state.scale, batch, noise
    )
    policy_gradient, norm = clip_by_norm(gradients["policy"], config.grad_clip_norm)
    steps, optimizer = train_state.policy_optimizer(config).update(
        policy_gradient, state.policy_optimizer
    )
    params = {**params, "policy": optax.apply_updates(params["policy"], steps)}
    state = state.replace(
        params=params,
        policy_optimizer=optimizer,
        scale=loss.scale,
        embedding_gradient=gradients.get("task_embedding"),
    )
    return state, {**loss.metrics, "policy_gradient_norm": norm}


def _bound_embedding(params: Params, task: Array | None) -> Params:
    """Stores the rescaled embedding rows of the batch's tasks, as the official lookup does."""
    if task is None:
        return params
    table = params["task_embedding"]
    table = table.at[task].set(task_embedding.look_up(table, task))
    return {**params, "task_embedding": table}
