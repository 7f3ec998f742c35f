"""The TD-MPC2 world model over one parameter tree: the readable reference.

Parameters are a plain nested dict with the keys `encoder`, `dynamics`,
`reward`, `policy`, `q` and `target_q` (leading axis K), and, where the model
has them, `termination` and `task_embedding`. Every function is pure; leading
axes are free, and a latent with fewer of them than the action is broadcast.

Source: Hansen et al., TD-MPC2 (arXiv 2310.16828), section 3 and appendix.
"""

import dataclasses
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from specmpc_jax.config import ModelConfig
from specmpc_jax.networks import encoders, heads
from specmpc_jax.ops import discrete_regression, distributions, task_embedding
from specmpc_jax.ops.dropout import Rows
from specmpc_jax.types import Array, Params, PlanningModel

TASK_EMBEDDING_INIT = 0.02


class PolicyOutput(NamedTuple):
    """A draw from the policy prior; log densities are those of spec section 4."""

    action: Array  # [..., A]
    mean: Array  # [..., A] squashed
    log_std: Array  # [..., A]
    entropy: Array  # [...]
    scaled_entropy: Array  # [...]


@dataclasses.dataclass(frozen=True)
class WorldModel:
    """Functions of one architecture; parameters are passed to each call."""

    config: ModelConfig

    def init(self, key: Array) -> Params:
        """Draws fresh parameters; consumes `key`. The target ensemble copies the online one."""
        config = self.config
        keys = dict(
            zip(
                ("encoder", "dynamics", "reward", "policy", "q", "termination", "task_embedding"),
                jax.random.split(key, 7),
                strict=True,
            )
        )
        state = jnp.zeros((config.latent_dim + config.task_dim,))
        state_action = jnp.zeros((config.latent_dim + config.task_dim + config.action_dim,))

        def init(name: str, module, example: Array) -> Params:
            return module.init(keys[name], example)["params"]

        q_keys = jax.random.split(keys["q"], config.num_q)
        q = jax.vmap(lambda k: heads.q_member(config).init(k, state_action)["params"])(q_keys)
        params = {
            "encoder": init("encoder", self._encoder(), self._example_observation()),
            "dynamics": init("dynamics", heads.dynamics(config), state_action),
            "reward": init("reward", heads.reward(config), state_action),
            "policy": init("policy", heads.policy(config), state),
            "q": q,
            "target_q": jax.tree.map(jnp.copy, q),
        }
        if config.episodic:
            params["termination"] = init("termination", heads.termination(config), state)
        if config.multitask:
            params["task_embedding"] = jax.random.uniform(
                keys["task_embedding"],
                (config.num_tasks, config.task_dim),
                minval=-TASK_EMBEDDING_INIT,
                maxval=TASK_EMBEDDING_INIT,
            )
        return params

    def encode(
        self,
        params: Params,
        observation: Array,
        task: Array | None = None,
        shift: Array | None = None,
    ) -> Array:
        """Maps an observation to its latent.

        Args:
          params: parameter tree.
          observation: `[..., D]`, or pixels `[..., C, 64, 64]` in 0..255.
          task: task indices that broadcast over the leading axes; multi-task only.
          shift: pixel shifts `[..., 2]` (columns, rows) in 0..6; None leaves
            images centred.

        Returns:
          Latents `[..., L]`.
        """
        if self.config.observation == "rgb":
            if shift is not None:
                image = observation.shape[-3:]
                flat = jax.vmap(encoders.shift_image)(
                    observation.reshape(-1, *image), shift.reshape(-1, 2)
                )
                observation = flat.reshape(observation.shape)
            return _apply(self._encoder(), params["encoder"], observation)
        if self.config.symlog_observations:
            observation = discrete_regression.symlog(observation)
        x = self._with_task(params, observation, task)
        return _apply(self._encoder(), params["encoder"], *x)

    def next(self, params: Params, z: Array, action: Array, task: Array | None = None) -> Array:
        """Predicts the next latent: `[..., L]`, `[..., A]` -> `[..., L]`."""
        x = self._state_action(params, z, action, task)
        return _apply(heads.dynamics(self.config), params["dynamics"], *x)

    def reward(self, params: Params, z: Array, action: Array, task: Array | None = None) -> Array:
        """Predicts the reward's logits: `[..., L]`, `[..., A]` -> `[..., num_bins]`."""
        x = self._state_action(params, z, action, task)
        return _apply(heads.reward(self.config), params["reward"], *x)

    def termination(self, params: Params, z: Array, task: Array | None = None) -> Array:
        """Predicts the logit of the episode having ended at z: `[..., L]` -> `[...]`."""
        x = self._with_task(params, z, task)
        return _apply(heads.termination(self.config), params["termination"], *x)[..., 0]

    def policy(
        self, params: Params, z: Array, noise: Array, task: Array | None = None
    ) -> PolicyOutput:
        """Draws an action from the policy prior.

        Args:
          params: parameter tree.
          z: latents `[..., L]`.
          noise: standard normals `[..., A]`; zeros give the mean.
          task: task indices that broadcast over the leading axes; multi-task only.
        """
        config = self.config
        x = self._with_task(params, _align(z, noise.ndim), task)
        raw = _apply(heads.policy(config), params["policy"], *x)
        mean, log_std = jnp.split(raw, 2, axis=-1)
        log_std = distributions.bounded_log_std(log_std, config.log_std_min, config.log_std_max)
        count = jnp.asarray(config.action_dim, jnp.float32)
        if config.multitask:
            mask = _broadcast(self.action_mask(cast(Array, task)), mean)
            mean, log_std, noise = mean * mask, log_std * mask, noise * mask
            count = mask.sum(-1)
        gaussian = distributions.gaussian_log_prob(noise, log_std)
        action = jnp.tanh(mean + noise * jnp.exp(log_std))
        log_prob = gaussian - distributions.squash_correction(action)
        scaled = -log_prob * (gaussian * count / (log_prob + 1e-8))
        return PolicyOutput(action, jnp.tanh(mean), log_std, -log_prob, scaled)

    def q(
        self,
        params: Params,
        z: Array,
        action: Array,
        task: Array | None = None,
        *,
        target: bool = False,
        members: Array | None = None,
        dropout_key: Array | None = None,
        rows: Rows | None = None,
    ) -> Array:
        """Logits of the Q ensemble.

        Args:
          params: parameter tree.
          z: latents `[..., L]`.
          action: `[..., A]`.
          task: task indices that broadcast over the leading axes; multi-task only.
          target: use the target ensemble.
          members: indices `[M]` of the members to evaluate; None means all.
          dropout_key: switches dropout on and is consumed by it.
          rows: which rows of a larger batch these are, for dropout.

        Returns:
          `[M, ..., num_bins]`.
        """
        ensemble = params["target_q" if target else "q"]
        x = self._state_action(params, z, action, task)
        module = heads.q_member(self.config)
        count = self.config.num_q if members is None else len(members)
        keys = [None] * count if dropout_key is None else jax.random.split(dropout_key, count)

        def evaluate(member: Array | int, key: Array | None) -> Array:
            own = jax.tree.map(lambda leaf: leaf[member], ensemble)
            rngs = {} if key is None else {"dropout": key}
            return _apply(module, own, *x, deterministic=key is None, rows=rows, rngs=rngs)

        # One after the other, a member's activations stay in a CPU's caches.
        drawn = range(count) if members is None else members
        return jnp.stack([evaluate(*each) for each in zip(drawn, keys, strict=True)])

    def q_value(
        self,
        params: Params,
        z: Array,
        action: Array,
        members: Array,
        task: Array | None = None,
        *,
        target: bool = False,
        reduce: str = "mean",
    ) -> Array:
        """Scalar value from two Q members (spec section 5), `[...]`.

        Args:
          params: parameter tree.
          z: latents `[..., L]`.
          action: `[..., A]`.
          members: indices `[2]`, drawn without replacement by the caller.
          task: task indices that broadcast over the leading axes; multi-task only.
          target: use the target ensemble.
          reduce: "mean" (planning, policy loss) or "min" (TD targets).
        """
        logits = self.q(params, z, action, task, target=target, members=members)
        values = self.decode(logits)
        return values.mean(0) if reduce == "mean" else values.min(0)

    def decode(self, logits: Array) -> Array:
        """Turns reward or Q logits `[..., num_bins]` into scalars `[...]`."""
        return discrete_regression.two_hot_inverse(logits, self.config)

    def action_mask(self, task: Array) -> Array:
        """0/1 mask `[..., A]` of the dimensions that a task uses."""
        return jnp.asarray(task_embedding.action_masks(self.config))[task]

    def planning_model(self, params: Params, task: Array | None = None) -> PlanningModel:
        """Binds parameters and one task index `[]` to the functions that planners use."""
        config = self.config
        index = jnp.asarray(0 if task is None else task)
        bound_task = index if config.multitask else None
        mask = self.action_mask(index) if config.multitask else None

        def step(z: Array, action: Array) -> tuple[Array, Array]:
            reward = self.decode(self.reward(params, z, action, bound_task))
            return reward, self.next(params, z, action, bound_task)

        return PlanningModel(
            step=step,
            policy=lambda z, noise: self.policy(params, z, noise, bound_task).action,
            policy_mean=lambda z: self.policy_mean(params, z, bound_task),
            value=lambda z, a, members: self.q_value(params, z, a, members, bound_task),
            termination=(lambda z: jax.nn.sigmoid(self.termination(params, z, bound_task)))
            if config.episodic
            else None,
            discount=jnp.asarray(config.discounts, jnp.float32)[index],
            action_mask=mask,
            num_q=config.num_q,
        )

    def policy_mean(self, params: Params, z: Array, task: Array | None = None) -> Array:
        """Mean action of the policy prior: `[..., L]` -> `[..., A]`."""
        noise = jnp.zeros((*z.shape[:-1], self.config.action_dim), z.dtype)
        return self.policy(params, z, noise, task).mean

    def _encoder(self):
        config = self.config
        if config.observation == "rgb":
            return encoders.PixelEncoder(config.num_channels, config.simnorm_dim)
        return encoders.state_encoder(config)

    def _example_observation(self) -> Array:
        shape = self.config.observation_shape
        if self.config.observation == "state":
            shape = (shape[0] + self.config.task_dim,)
        return jnp.zeros(shape)

    def _with_task(self, params: Params, x: Array, task: Array | None) -> tuple[Array, ...]:
        """A network's input in parts: x and, if the model has one, the task embedding."""
        if not self.config.multitask:
            return (x,)
        embedding = task_embedding.look_up(params["task_embedding"], jnp.asarray(task))
        return (x, _broadcast(embedding, x))

    def _state_action(
        self, params: Params, z: Array, action: Array, task: Array | None
    ) -> tuple[Array, ...]:
        z = jnp.broadcast_to(_align(z, action.ndim), (*action.shape[:-1], z.shape[-1]))
        return (*self._with_task(params, z, task), action)


def _apply(module: nn.Module, params: Params, *inputs: Array, **options: Any) -> Array:
    return cast(Array, module.apply({"params": params}, *inputs, **options))


def _align(x: Array, ndim: int) -> Array:
    """Inserts leading axes of size one until x has `ndim` of them."""
    return x.reshape((1,) * (ndim - x.ndim) + x.shape)


def _broadcast(x: Array, like: Array) -> Array:
    """Broadcasts `[..., F]` over the leading axes of `like`, keeping F."""
    return jnp.broadcast_to(_align(x, like.ndim), (*like.shape[:-1], x.shape[-1]))
