"""The world model laid out for planning: the readable one's numbers with less work.

Beyond the readable `world_model` it uses that

- LayerNorm ignores a shift of its input, so kernels and biases of normed layers are
  stored centred over their outputs and the mean need not be taken at run time;
- reward and dynamics, and the two members of the Q ensemble that were drawn, read
  the same input, so their first layers are one matrix product;
- a start latent `[L]` that all sequences share is multiplied once, and a task's
  embedding once for all, as a part of the first bias.

Source: TD-MPC2 (arXiv 2310.16828), section 3; the account of gains is docs/performance.md.
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

    kernel: Array  # [..., F, M]
    bias: Array  # [..., M]


@flax.struct.dataclass
class Normed:
    """Affine map with centred outputs, and the LayerNorm after it."""

    kernel: Array  # [..., F, M]
    bias: Array  # [..., M]
    scale: Array  # [..., M]
    offset: Array  # [..., M]


@flax.struct.dataclass
class Trunk:
    """The two hidden layers of R heads that read the same input."""

    first: Normed  # kernel [F, R, M], bias [num_tasks, R, M], scale and offset [R, M]
    second: Normed  # every field with a leading R


@flax.struct.dataclass
class FusedParams:
    """Weights of the planning functions; matrix products run in their kernels' type."""

    model: Trunk  # R = 2: dynamics, reward
    dynamics: Normed
    reward: Linear
    q: Trunk  # R = K
    q_head: Linear  # leading K
    policy: Trunk  # R = 1
    policy_head: Linear
    termination: Trunk | None  # R = 1
    termination_head: Linear | None


def prepare(config: ModelConfig, params: Params, matmul_dtype: str = "float32") -> FusedParams:
    """Lays the weights out for planning; do it once, when they are loaded or changed.

    Args:
      config: the architecture.
      params: the world model's parameter tree; it may be traced.
      matmul_dtype: type of the operands of the layers' matrix products, "float32" or
        "bfloat16"; they are summed, and all else is computed, in float32.
    """

    def trunk(*heads: Params) -> Trunk:
        return _trunk(config, params, jax.tree.map(lambda *leaves: jnp.stack(leaves), *heads))

    fused = FusedParams(
        model=trunk(_hidden(params["dynamics"]), _hidden(params["reward"])),
        dynamics=_normed(params["dynamics"]["layer_2"]),
        reward=Linear(**params["reward"]["head"]),
        q=_trunk(config, params, params["q"]),
        q_head=Linear(**params["q"]["head"]),
        policy=trunk(params["policy"]),
        policy_head=Linear(**params["policy"]["head"]),
        termination=trunk(params["termination"]) if config.episodic else None,
        termination_head=Linear(**params["termination"]["head"]) if config.episodic else None,
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
        to_latent, to_reward = _run(fused.model, index, z, action)
        z = _affine(to_latent, fused.dynamics)
        z = centred_layer_norm(z, fused.dynamics.scale, fused.dynamics.offset)
        return _decode(config, _affine(to_reward, fused.reward)), simnorm(z, config.simnorm_dim)

    def policy_head(z: Array) -> tuple[Array, Array]:
        raw = _affine(_run(fused.policy, index, z)[0], fused.policy_head)
        mean, log_std = jnp.split(raw, 2, axis=-1)
        log_std = distributions.bounded_log_std(log_std, config.log_std_min, config.log_std_max)
        return masked(mean), masked(log_std)

    def policy(z: Array, noise: Array) -> Array:
        mean, log_std = (_align(x, noise.ndim) for x in policy_head(z))
        return jnp.tanh(mean + masked(noise) * jnp.exp(log_std))

    def value(z: Array, action: Array, members: Array) -> Array:
        trunk, head = _members(fused, members)
        return jnp.mean(_decode(config, _affine(_run(trunk, index, z, action), head)), axis=0)

    def termination(z: Array) -> Array:
        hidden = _run(fused.termination, index, z)[0]
        return jax.nn.sigmoid(_affine(hidden, fused.termination_head)[..., 0])

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


def _hidden(head: Params) -> Params:
    """The hidden layers of a head."""
    return {name: head[name] for name in ("layer_0", "layer_1")}


def _normed(layer: Params) -> Normed:
    """Centres a normed layer over its outputs, which its LayerNorm cannot see."""
    kernel, bias = layer["kernel"], layer["bias"]
    return Normed(
        kernel=kernel - jnp.mean(kernel, axis=-1, keepdims=True),
        bias=bias - jnp.mean(bias, axis=-1, keepdims=True),
        scale=layer["scale"],
        offset=layer["offset"],
    )


def _trunk(config: ModelConfig, params: Params, heads: Params) -> Trunk:
    """Joins the hidden layers of R heads, whose leaves have a leading R."""
    first = _normed(heads["layer_0"])
    latent, task, action = jnp.split(
        first.kernel, (config.latent_dim, config.latent_dim + config.task_dim), axis=1
    )
    bias = first.bias[None]
    if config.multitask:
        table = task_embedding.look_up(params["task_embedding"], jnp.arange(config.num_tasks))
        bias = bias + jnp.einsum("tf,rfm->trm", table, task)
    kernel = jnp.moveaxis(jnp.concatenate([latent, action], axis=1), 0, 1)
    return Trunk(first.replace(kernel=kernel, bias=bias), _normed(heads["layer_1"]))


def _members(fused: FusedParams, members: Array) -> tuple[Trunk, Linear]:
    """The Q functions of two distinct members, `[2]`; their order does not matter."""
    if fused.q_head.bias.shape[0] == 2:
        return fused.q, fused.q_head
    first = jax.tree.map(lambda leaf: jnp.take(leaf, members, axis=-2), fused.q.first)
    second, head = jax.tree.map(lambda leaf: leaf[members], (fused.q.second, fused.q_head))
    return Trunk(first, second), head


def _run(trunk: Trunk, task: Array | int, z: Array, action: Array | None = None) -> Array:
    """Hidden activations of R heads: `[..., L]` and `[..., A]` -> `[R, ..., M]`."""
    first = trunk.first
    heads, width = first.kernel.shape[-2:]
    kernel = first.kernel.reshape(-1, heads * width)
    if action is None:
        x = _product(z, kernel)
    elif z.shape[:-1] == action.shape[:-1]:
        x = _product(jnp.concatenate([z, action], axis=-1), kernel)
    else:  # one latent for many actions
        shared = _product(z, kernel[: z.shape[-1]])
        x = _align(shared, action.ndim) + _product(action, kernel[z.shape[-1] :])
    x = jnp.moveaxis(x.reshape(*x.shape[:-1], heads, width), -2, 0)

    def per_head(field: Array) -> Array:
        return field.reshape(heads, *(1,) * (x.ndim - 2), width)

    x = x + per_head(first.bias[task])
    x = mish(centred_layer_norm(x, per_head(first.scale), per_head(first.offset)))
    second = trunk.second
    x = _affine(x, second)
    return mish(centred_layer_norm(x, per_head(second.scale), per_head(second.offset)))


def _affine(x: Array, layer: Linear | Normed) -> Array:
    """`[..., F] -> [..., M]`; with a kernel `[R, F, M]`, `[R, ..., F] -> [R, ..., M]`."""
    x = _product(x, layer.kernel)
    bias = layer.bias
    if bias.ndim == 2:
        bias = bias.reshape(bias.shape[0], *(1,) * (x.ndim - 2), -1)
    return x + _align(bias, x.ndim)


def _product(x: Array, kernel: Array) -> Array:
    """Contracts `[..., F]` with `[F, M]`, or `[R, ..., F]` with `[R, F, M]`, into float32."""
    batch = tuple(range(kernel.ndim - 2))
    dimensions = (((x.ndim - 1,), (kernel.ndim - 2,)), (batch, batch))
    return jax.lax.dot_general(
        x.astype(kernel.dtype), kernel, dimensions, preferred_element_type=jnp.float32
    )


def _decode(config: ModelConfig, logits: Array) -> Array:
    """`discrete_regression.two_hot_inverse` with one sum for numerator and denominator."""
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    bins = discrete_regression.bin_centres(config)
    columns = jnp.stack([bins, jnp.ones_like(bins)], axis=-1)
    numerator, denominator = jnp.moveaxis(weights @ columns, -1, 0)
    return discrete_regression.symexp(numerator / denominator)


def _align(x: Array, ndim: int) -> Array:
    """Inserts leading axes of size one until x has `ndim` of them."""
    return x.reshape((1,) * (ndim - x.ndim) + x.shape)
