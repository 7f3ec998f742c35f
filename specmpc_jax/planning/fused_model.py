"""The world model laid out for planning: the readable one's numbers with less work.

Beyond the readable `world_model` it uses that

- LayerNorm ignores a shift of its input, so kernels and biases of normed layers are
  stored centred over their outputs, and no mean is taken at run time;
- reward and dynamics read the same input, so their first layers are one matrix product;
- a start latent `[L]` that all sequences share is multiplied once, and a task's
  embedding once for all, as a part of the first bias;
- of the Q ensemble, only the two members that were drawn are evaluated.

Source: TD-MPC2 (arXiv 2310.16828), section 3. docs/performance.md gives the account
of what was tried.
"""

import flax.struct
import jax
import jax.numpy as jnp

from specmpc_jax.config import ModelConfig
from specmpc_jax.ops import discrete_regression, distributions, task_embedding
from specmpc_jax.ops.activations import simnorm
from specmpc_jax.planning import fused_network
from specmpc_jax.planning.fused_network import Network, Shared
from specmpc_jax.types import Array, Params, PlanningModel


@flax.struct.dataclass
class FusedParams:
    """Weights of the planning functions; matrix products run in their kernels' type."""

    model: Network  # heads: dynamics, reward
    policy: Network
    q: Network | tuple[Network, Network]  # stacked over K; a pair needs no choice, so no stack
    termination: Network | None


def prepare(config: ModelConfig, params: Params, matmul_dtype: str = "float32") -> FusedParams:
    """Lays the weights out for planning; do it once, when they are loaded or changed.

    Args:
      config: the architecture.
      params: the world model's parameter tree; it may be traced.
      matmul_dtype: type of the operands of the layers' matrix products, "float32" or
        "bfloat16"; they are summed, and all else is computed, in float32.
    """
    embedding = None
    if config.multitask:
        tasks = jnp.arange(config.num_tasks)
        embedding = task_embedding.look_up(params["task_embedding"], tasks)

    def network(*heads: Params) -> Network:
        return fused_network.join(heads, embedding, config.latent_dim)

    if config.num_q == 2:
        members = [jax.tree.map(lambda leaf, i=i: leaf[i], params["q"]) for i in range(2)]
        q: Network | tuple[Network, Network] = (network(members[0]), network(members[1]))
    else:
        q = jax.vmap(network)(params["q"])
    fused = FusedParams(
        model=network(params["dynamics"], params["reward"]),
        policy=network(params["policy"]),
        q=q,
        termination=network(params["termination"]) if config.episodic else None,
    )

    def cast(path: tuple, leaf: Array) -> Array:
        return leaf.astype(matmul_dtype) if path[-1].name == "kernel" else leaf

    return jax.tree_util.tree_map_with_path(cast, fused)


def planning_model(config: ModelConfig, fused: FusedParams, task: Array) -> PlanningModel:
    """Binds laid-out weights and one task to the functions that planners use.

    Args:
      config: the architecture.
      fused: from `prepare`.
      task: index `[]`; ignored by single-task models.
    """
    index = task if config.multitask else 0
    mask = jnp.asarray(task_embedding.action_masks(config))[task] if config.multitask else None

    def masked(x: Array) -> Array:
        return x if mask is None else x * fused_network.align(mask, x.ndim)

    def step(z: Array | Shared, action: Array) -> tuple[Array, Array]:
        latent, reward = fused_network.evaluate(fused.model, index, z, action)
        reward = discrete_regression.two_hot_inverse(reward, config)
        return reward, simnorm(latent, config.simnorm_dim)

    def policy_head(z: Array) -> tuple[Array, Array]:
        (raw,) = fused_network.evaluate(fused.policy, index, z)
        mean, log_std = jnp.split(raw, 2, axis=-1)
        log_std = distributions.bounded_log_std(log_std, config.log_std_min, config.log_std_max)
        return masked(mean), masked(log_std)

    def policy(z: Array, noise: Array) -> Array:
        mean, log_std = (fused_network.align(x, noise.ndim) for x in policy_head(z))
        return jnp.tanh(mean + masked(noise) * jnp.exp(log_std))

    def value(z: Array, action: Array, members: Array) -> Array:
        logits = [
            fused_network.evaluate(member, index, z, action)[0]
            for member in _drawn_members(fused.q, members)
        ]
        first, second = (discrete_regression.two_hot_inverse(x, config) for x in logits)
        return 0.5 * (first + second)

    def termination(z: Array) -> Array:
        assert fused.termination is not None
        (logit,) = fused_network.evaluate(fused.termination, index, z)
        return jax.nn.sigmoid(logit[..., 0])

    return PlanningModel(
        step=step,
        policy=policy,
        policy_mean=lambda z: jnp.tanh(policy_head(z)[0]),
        value=value,
        termination=termination if config.episodic else None,
        discount=jnp.asarray(config.discounts, jnp.float32)[index],
        action_mask=mask,
        num_q=config.num_q,
        share=lambda z: fused_network.share(fused.model, z),
    )


def _drawn_members(q: Network | tuple[Network, Network], members: Array) -> list[Network]:
    """The networks of two distinct members `[2]` in any order: only their average is wanted."""
    if isinstance(q, tuple):
        return list(q)

    def take(member: Array) -> Network:
        return jax.tree.map(
            lambda leaf: jax.lax.dynamic_index_in_dim(leaf, member, keepdims=False), q
        )

    return [take(members[0]), take(members[1])]
