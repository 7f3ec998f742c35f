"""The learned correctors by name. To add one: write a module, list it here."""

from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from specmpc_jax.config import CorrectorConfig
from specmpc_jax.correctors.bc import BehaviourCloning
from specmpc_jax.correctors.gated import Gated, GatedParts
from specmpc_jax.correctors.published import PublishedTemporal, PublishedTwoTower
from specmpc_jax.correctors.temporal import Temporal
from specmpc_jax.correctors.two_tower import TwoTower
from specmpc_jax.errors import UserError, nearest_names
from specmpc_jax.types import Array, CorrectFunction, CorrectionContext, Params, PlannedStep

MODULES: dict[str, type[nn.Module]] = {
    "two_tower": TwoTower,
    "temporal": Temporal,
    "bc": BehaviourCloning,
    "gated": Gated,
    "published_two_tower": PublishedTwoTower,
    "published_temporal": PublishedTemporal,
}
# Kinds that know the teacher's action without a plan, and so learn where one was just made too.
LEARN_AT_PLANS = ("bc", "gated")


def module(config: CorrectorConfig) -> nn.Module:
    """Builds the network of a configuration.

    Raises:
      UserError: if its kind is not registered.
    """
    if config.kind not in MODULES:
        raise UserError(
            f"corrector kind {config.kind!r} is unknown; nearest are "
            f"{nearest_names(config.kind, MODULES)}"
        )
    return MODULES[config.kind](config)


def init(config: CorrectorConfig, key: Array) -> Params:
    """Draws fresh parameters; consumes `key`."""
    return module(config).init(key, example_context(config))["params"]


def apply(
    config: CorrectorConfig,
    params: Params,
    context: CorrectionContext,
    dropout_key: Array | None = None,
    clip: bool = True,
) -> Array:
    """Corrects actions.

    Args:
      config: architecture.
      params: its parameters.
      context: any leading axes.
      dropout_key: switches dropout on and is consumed by it.
      clip: limit the actions to [-1, 1].

    Returns:
      Actions `[..., A]`.
    """
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    action = cast(
        Array,
        module(config).apply(
            {"params": params}, context, deterministic=dropout_key is None, rngs=rngs
        ),
    )
    return jnp.clip(action, -1.0, 1.0) if clip else action


def gated_parts(
    config: CorrectorConfig,
    params: Params,
    context: CorrectionContext,
    dropout_key: Array | None = None,
) -> GatedParts:
    """What a gated corrector weighs against each other; arguments as in `apply`."""
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    parts = Gated(config).apply(
        {"params": params},
        context,
        deterministic=dropout_key is None,
        rngs=rngs,
        method=Gated.parts,
    )
    return cast(GatedParts, parts)


def correct_function(config: CorrectorConfig, params: Params) -> CorrectFunction:
    """Binds parameters for the executor; the key is not needed and not consumed."""
    return lambda context, key: apply(config, params, context)


def example_context(config: CorrectorConfig) -> CorrectionContext:
    """A context of zeros with the shapes that a corrector expects."""

    def steps(*lead: int) -> PlannedStep:
        return PlannedStep(
            z_real=jnp.zeros((*lead, config.latent_dim)),
            z_pred=jnp.zeros((*lead, config.latent_dim)),
            a_plan=jnp.zeros((*lead, config.action_dim)),
            offset=jnp.zeros(lead, jnp.int32),
            mismatch=jnp.zeros(lead),
        )

    return CorrectionContext(
        step=steps(),
        window=steps(config.history_len),
        window_mask=jnp.ones((config.history_len,), bool),
        plan_mean=jnp.zeros((1, config.action_dim)),
    )


def parameter_shapes(config: CorrectorConfig) -> Params:
    """The parameter tree as shapes and dtypes, for strict loading."""
    return jax.eval_shape(lambda: init(config, jax.random.key(0)))
