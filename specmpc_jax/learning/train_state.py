"""Everything that an update changes, as one pytree, and how it starts."""

import flax.struct
import jax
import jax.numpy as jnp
import optax

from specmpc_jax.learning.config import TrainConfig
from specmpc_jax.types import Array, Params
from specmpc_jax.world_model import WorldModel

# The model loss does not train these: the policy has a loss of its own, the
# target ensemble follows the online one.
NOT_IN_MODEL_LOSS = ("policy", "target_q")


@flax.struct.dataclass
class TrainState:
    """State of training between two updates."""

    params: Params
    model_optimizer: optax.OptState
    policy_optimizer: optax.OptState
    scale: Array  # [] running scale of Q in the policy loss
    updates: Array  # [] int32, updates made so far
    key: Array  # never replaced: update n draws from fold_in(key, n)
    # [n, T] embedding gradient that the next update inherits, None without the official leak
    embedding_gradient: Array | None


def init(
    model: WorldModel, config: TrainConfig, key: Array, params: Params | None = None
) -> TrainState:
    """Starts training.

    Args:
      model: the world model.
      config: hyper-parameters.
      key: consumed; the parameters and all later updates follow from it.
      params: parameters to go on from; drawn afresh if None.
    """
    init_key, update_key = jax.random.split(key)
    if params is None:
        params = model.init(init_key)
    leaks = config.leak_embedding_gradient and model.config.multitask
    return TrainState(
        params=params,
        model_optimizer=model_optimizer(config).init(in_model_loss(params)),
        policy_optimizer=policy_optimizer(config).init(params["policy"]),
        scale=jnp.ones(()),
        updates=jnp.zeros((), jnp.int32),
        key=update_key,
        embedding_gradient=jnp.zeros_like(params["task_embedding"]) if leaks else None,
    )


def in_model_loss(params: Params) -> Params:
    """The part of a parameter tree that the model loss trains."""
    return {name: part for name, part in params.items() if name not in NOT_IN_MODEL_LOSS}


def model_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Adam with a smaller step for the encoder; gradients are clipped by the caller."""

    def scale_by_module(updates: Params, _: Params | None) -> Params:
        rates = {name: -config.lr for name in updates}
        rates["encoder"] *= config.enc_lr_scale
        return {
            name: jax.tree.map(lambda leaf, rate=rates[name]: rate * leaf, part)
            for name, part in updates.items()
        }

    return optax.chain(
        optax.scale_by_adam(eps=config.adam_epsilon), optax.stateless(scale_by_module)
    )


def policy_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Adam of the policy prior; gradients are clipped by the caller."""
    return optax.adam(config.lr, eps=config.policy_adam_epsilon)
