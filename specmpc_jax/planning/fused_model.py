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
from specmpc_jax.ops.activations import centred_layer_norm, simnorm
from specmpc_jax.ops.activations import mish_of_one_exponential as mish
from specmpc_jax.types import Array, Params, PlanningModel


@flax.struct.dataclass
class Linear:
    """Affine map."""

    kernel: Array  # [F, M]
    bias: Array  # [M]


@flax.struct.dataclass
class Normed:
    """Affine map whose outputs have mean zero, and the LayerNorm after it."""

    kernel: Array  # [F, M]
    bias: Array  # [M]
    scale: Array  # [M]
    offset: Array  # [M]


@flax.struct.dataclass
class Head:
    """What follows a network's first layer."""

    hidden: Normed
    last: Linear | Normed


@flax.struct.dataclass
class Network:
    """R heads that read the same input, with their first layers side by side."""

    # kernel [L + A, R, M], or [L, R, M] where no action is read; bias [num_tasks, R, M];
    # scale and offset [R, M].
    first: Normed
    heads: tuple[Head, ...]  # R


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
        return _network(config, embedding, *heads)

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
        return x if mask is None else x * _align(mask, x.ndim)

    def step(z: Array, action: Array) -> tuple[Array, Array]:
        latent, reward = _evaluate(fused.model, index, z, action)
        reward = discrete_regression.two_hot_inverse(reward, config)
        return reward, simnorm(latent, config.simnorm_dim)

    def policy_head(z: Array) -> tuple[Array, Array]:
        (raw,) = _evaluate(fused.policy, index, z)
        mean, log_std = jnp.split(raw, 2, axis=-1)
        log_std = distributions.bounded_log_std(log_std, config.log_std_min, config.log_std_max)
        return masked(mean), masked(log_std)

    def policy(z: Array, noise: Array) -> Array:
        mean, log_std = (_align(x, noise.ndim) for x in policy_head(z))
        return jnp.tanh(mean + masked(noise) * jnp.exp(log_std))

    def value(z: Array, action: Array, members: Array) -> Array:
        logits = [
            _evaluate(member, index, z, action)[0] for member in _drawn_members(fused.q, members)
        ]
        first, second = (discrete_regression.two_hot_inverse(x, config) for x in logits)
        return 0.5 * (first + second)

    def termination(z: Array) -> Array:
        assert fused.termination is not None
        (logit,) = _evaluate(fused.termination, index, z)
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
    )


def _network(config: ModelConfig, embedding: Array | None, *heads: Params) -> Network:
    """Joins heads that read the same input; `embedding` is `[num_tasks, T]`."""
    first = [_normed(head["layer_0"]) for head in heads]
    first = jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=-2), *first)
    ends = (config.latent_dim, config.latent_dim + config.task_dim)
    latent, task, action = jnp.split(first.kernel, ends)
    bias = first.bias[None]
    if embedding is not None:
        bias = bias + jnp.einsum("tf,frm->trm", embedding, task, precision="highest")
    first = first.replace(kernel=jnp.concatenate([latent, action]), bias=bias)
    return Network(first, tuple(_head(head) for head in heads))


def _head(head: Params) -> Head:
    last = Linear(**head["head"]) if "head" in head else _normed(head["layer_2"])
    return Head(_normed(head["layer_1"]), last)


def _normed(layer: Params) -> Normed:
    """Centres a normed layer over its outputs."""
    kernel, bias = layer["kernel"], layer["bias"]
    return Normed(
        kernel=kernel - jnp.mean(kernel, axis=-1, keepdims=True),
        bias=bias - jnp.mean(bias),
        scale=layer["scale"],
        offset=layer["offset"],
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


def _evaluate(
    network: Network, task: Array | int, z: Array, action: Array | None = None
) -> list[Array]:
    """Outputs of R heads, `[..., M]` each, from `[..., L]` and, if they read it, `[..., A]`."""
    first = network.first
    count, width = first.kernel.shape[1:]
    kernel = first.kernel.reshape(-1, count * width)
    if action is None:
        x = _product(z, kernel)
    elif z.shape[:-1] == action.shape[:-1]:
        x = _product(jnp.concatenate([z, action], axis=-1), kernel)
    else:  # few latents for many actions
        shared = _product(z, kernel[: z.shape[-1]])
        x = _align(shared, action.ndim) + _product(action, kernel[z.shape[-1] :])
    outputs = []
    for i, head in enumerate(network.heads):
        part = x[..., i * width : (i + 1) * width]
        part = part + _align(first.bias[task, i], part.ndim)
        part = mish(centred_layer_norm(part, first.scale[i], first.offset[i]))
        outputs.append(_apply(mish(_apply(part, head.hidden)), head.last))
    return outputs


def _apply(x: Array, layer: Linear | Normed) -> Array:
    x = _product(x, layer.kernel)
    x = x + _align(layer.bias, x.ndim)
    return centred_layer_norm(x, layer.scale, layer.offset) if isinstance(layer, Normed) else x


def _product(x: Array, kernel: Array) -> Array:
    """`[..., F]`, `[F, M]` -> `[..., M]` in float32, from operands of the kernel's type."""
    return jnp.matmul(x.astype(kernel.dtype), kernel, preferred_element_type=jnp.float32)


def _align(x: Array, ndim: int) -> Array:
    """Inserts leading axes of size one until x has `ndim` of them."""
    return x.reshape((1,) * (ndim - x.ndim) + x.shape)
