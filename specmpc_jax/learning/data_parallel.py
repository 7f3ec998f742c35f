"""The update over many devices, each with slices of its own.

Every device holds a whole train state, and all of these replicas stay the same: devices
compute gradients on their own slices, the gradients are averaged over devices, and each
applies the average. With `sync_freq` K a device adds up the gradients of K batches before
it averages them with the others. One update of N devices with batch size b is therefore one
of a single device with batch size N K b, to rounding; three more things make it so:

- noise follows from the state's key as for the whole batch, and each device takes its part;
- whatever happens once an update (members drawn, optimiser, Q scale, target ensemble) does
  so once, however many batches make it up;
- the Q scale is that of the percentiles over the whole batch, and the rows of the task
  embedding that are rescaled are those of all its tasks.

JAX keeps `jax.pmap` working and recommends `jax.shard_map` for new code; since 0.8 the one
is made of the other. Everything of this project that says pmap goes through `over_devices`,
so that it is the one place to change: `shard_map` over a mesh of one axis, with the leading
axis of every argument sharded along it (docs/distributed.md).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from specmpc_jax import checkpointing
from specmpc_jax.config import ModelConfig
from specmpc_jax.errors import UserError
from specmpc_jax.learning import losses
from specmpc_jax.learning.batch import Batch, UpdateNoise, draw_noise_for
from specmpc_jax.learning.config import TrainConfig
from specmpc_jax.learning.losses import Metrics
from specmpc_jax.learning.train_state import TrainState, in_model_loss
from specmpc_jax.learning.update import (
    UpdateFunction,
    bind_embedding,
    finish,
    model_gradients,
    policy_trainable,
    step_model,
    step_policy,
)
from specmpc_jax.ops.dropout import Rows
from specmpc_jax.types import Array, Params
from specmpc_jax.world_model import WorldModel

DEVICES = "devices"
_ACCUMULATED = "accumulated"


class ReplicaError(UserError):
    """The replicas of a train state are no longer the same."""


def over_devices(
    function: Callable[..., Any],
    devices: Sequence[jax.Device],
    donate: tuple[int, ...] = (),
) -> Callable[..., Any]:
    """Runs a function on many devices at once, along the axis `DEVICES`.

    Args:
      function: takes what one device holds.
      devices: of all processes; each process passes and gets the parts of its own ones,
        with a leading axis.
      donate: arguments that are used up.
    """
    return jax.pmap(function, DEVICES, devices=list(devices), donate_argnums=donate)


def gradient_bytes(model: WorldModel) -> int:
    """Bytes of all gradients that are averaged in one update: those of model and policy."""
    params = jax.eval_shape(model.init, jax.random.key(0))
    averaged = (in_model_loss(params), params["policy"])
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(averaged))


def replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """Copies every array to each of this process's devices, with a leading axis N."""
    mesh = jax.sharding.Mesh(np.array(devices), (DEVICES,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(DEVICES))

    def copy(leaf: Array) -> Array:
        leaf = jnp.asarray(leaf)[None]
        copies = [jax.device_put(leaf, device) for device in devices]
        shape = (len(devices), *leaf.shape[1:])
        return jax.make_array_from_single_device_arrays(shape, sharding, copies)

    return jax.tree.map(copy, tree)


def replica(tree: Any, index: int = 0) -> Any:
    """What the `index`-th device of this process holds of a replicated tree."""
    return jax.tree.map(lambda leaf: leaf.addressable_shards[index].data[0], tree)


def compile_parallel_updates(
    model: WorldModel, config: TrainConfig, devices: Sequence[jax.Device], sync_freq: int = 1
) -> UpdateFunction:
    """Compiles updates over devices.

    Args:
      model: the world model.
      config: hyper-parameters; `batch_size` is that of one device and one gradient.
      devices: of all processes.
      sync_freq: gradients that a device adds up for one update, K.

    Returns:
      A function of a replicated state, which is used up, and batches with the leading axes
      [N, U K], N for the devices of this process. It returns the next state and metrics
      `[N, U]`: means over all devices, the same in each row.

    Raises:
      UserError: if `sync_freq` is below 1.
    """
    if sync_freq < 1:
        raise UserError(f"sync_freq is {sync_freq}; it must be at least 1")

    def run(state: TrainState, batches: Batch) -> tuple[TrainState, Metrics]:
        grouped = jax.tree.map(lambda leaf: leaf.reshape(-1, sync_freq, *leaf.shape[1:]), batches)

        def step(state: TrainState, batches: Batch) -> tuple[TrainState, Metrics]:
            key = jax.random.fold_in(state.key, state.updates)
            noise = noise_of_device(key, batches, model.config, len(devices))
            return parallel_update(state, batches, noise, model=model, config=config)

        return jax.lax.scan(step, state, grouped)

    return over_devices(run, devices, donate=(0,))


def parallel_update(
    state: TrainState,
    batches: Batch,
    noise: UpdateNoise,
    *,
    model: WorldModel,
    config: TrainConfig,
) -> tuple[TrainState, Metrics]:
    """Makes one update together with the other devices of the axis `DEVICES`.

    Args:
      state: this device's replica.
      batches: K batches of this device, stacked.
      noise: see `noise_of_device`.
      model: the world model, static.
      config: hyper-parameters, static.

    Returns:
      The next state, and metrics `[]` averaged over batches and devices. F1 scores are
      means of those of single batches.
    """
    tasks = None if batches.task is None else _whole_batch(batches.task)
    state = bind_embedding(state, tasks)
    gradients, latents, metrics = _accumulate(state.params, batches, noise, model, config)
    state, norm = step_model(state, _mean(gradients), config)
    state = bind_embedding(state, tasks)
    gradients, policy = _policy_gradients(state, latents, batches, noise, model, config)
    # Every device has computed the same scale: it is taken before the mean, which would round.
    scale = policy.scale[0]
    state, policy_norm = step_policy(state, _mean(gradients), scale, config)
    metrics = jax.tree.map(jnp.mean, metrics | policy.metrics)
    norms = {"gradient_norm": norm, "policy_gradient_norm": policy_norm}
    return finish(state, config), _mean(metrics) | norms


def noise_of_device(
    key: Array, batches: Batch, config: ModelConfig, num_devices: int
) -> UpdateNoise:
    """This device's part of the random numbers of one update of the whole batch.

    The whole batch holds the first batch of every device, then the second ones, and so on.

    Args:
      key: consumed; the same on all devices.
      batches: K batches of this device, stacked; only their shape counts.
      config: architecture.
      num_devices: N, of all processes.

    Returns:
      Noise with a leading axis K, but for members and dropout keys, which all share.
    """
    device = jax.lax.axis_index(DEVICES)
    count, steps, size, _ = batches.action.shape
    noise = draw_noise_for(key, steps, count * num_devices * size, config)

    def part(leaf: Array) -> Array:
        leaf = leaf.reshape(len(leaf), count, num_devices, size, *leaf.shape[2:])
        return jnp.moveaxis(leaf[:, :, device], 1, 0)

    first = (jnp.arange(count) * num_devices + device) * size
    return dataclasses.replace(
        noise,
        target=part(noise.target),
        policy=part(noise.policy),
        shift=None if noise.shift is None else part(noise.shift),
        rows=Rows(first, count * num_devices * size),
    )


def check_replicas(state: TrainState, digest: Callable[[TrainState], Array]) -> None:
    """Compares all replicas of a state, bit by bit; every process has to call it.

    Args:
      state: the replicated state.
      digest: from `compile_digest`.

    Raises:
      ReplicaError: on every process, if they differ; names the arrays.
    """
    sums = np.asarray(digest(state).addressable_shards[0].data[0])
    differs = (sums != sums[0]).any(axis=0)
    if differs.any():
        names = [name for name, _ in checkpointing.named_leaves(state)]
        wrong = [name for name, odd in zip(names, differs, strict=True) if odd]
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        odd = np.flatnonzero((sums != sums[0]).any(axis=1))
        raise ReplicaError(
            f"device {', '.join(map(str, odd))} holds another state than device 0: "
            f"{', '.join(wrong[:3])}{more}"
        )


def compile_digest(devices: Sequence[jax.Device]) -> Callable[[TrainState], Array]:
    """A function that sums up every array of each replica: a state -> `[N, D, arrays]` uint32.

    Every device gets the sums of all D devices. Sums weigh bits by their position, so that
    arrays with other bits, or the same ones elsewhere, have another sum.
    """

    def digest(state: TrainState) -> Array:
        sums = jnp.stack([_digest(leaf) for leaf in jax.tree.leaves(state)])
        return jax.lax.all_gather(sums, DEVICES)

    return over_devices(digest, devices)


def _accumulate(
    params: Params, batches: Batch, noise: UpdateNoise, model: WorldModel, config: TrainConfig
) -> tuple[Params, Array, Metrics]:
    """Mean gradients of the model loss over K batches, latents `[K, ...]`, metrics `[K]`."""
    parts = (batches, noise.target, noise.shift, noise.rows)

    def add(total: Params, part: tuple[Any, ...]) -> tuple[Params, tuple[Array, Metrics]]:
        batch, target, shift, rows = part
        own = dataclasses.replace(noise, target=target, shift=shift, rows=rows)
        gradients, loss = model_gradients(params, batch, own, model=model, config=config)
        return jax.tree.map(jnp.add, total, gradients), (loss.latents, loss.metrics)

    zeros = jax.tree.map(jnp.zeros_like, in_model_loss(params))
    gradients, (latents, metrics) = jax.lax.scan(add, zeros, parts)
    count = len(batches.action)
    return jax.tree.map(lambda leaf: leaf / count, gradients), latents, metrics


def _policy_gradients(
    state: TrainState,
    latents: Array,
    batches: Batch,
    noise: UpdateNoise,
    model: WorldModel,
    config: TrainConfig,
) -> tuple[Params, losses.PolicyLoss]:
    """Gradients of the policy loss, mean over K batches that are computed side by side.

    The scale that divides Q is made of the Q values of all batches, so that none of them can
    be done with before the others.
    """

    def mean_loss(trainable: Params) -> tuple[Array, losses.PolicyLoss]:
        def single(latents: Array, batch: Batch, normals: Array, rows: Rows | None) -> Any:
            own = dataclasses.replace(noise, policy=normals, rows=rows)
            return losses.policy_loss(
                trainable,
                model,
                config,
                state.params,
                latents,
                state.scale,
                batch,
                own,
                whole=lambda part: _whole_batch(jax.lax.all_gather(part, _ACCUMULATED)),
            )

        loss, aux = jax.vmap(single, axis_name=_ACCUMULATED)(
            latents, batches, noise.policy, noise.rows
        )
        return jnp.mean(loss), aux

    return jax.grad(mean_loss, has_aux=True)(policy_trainable(state))


def _whole_batch(parts: Array) -> Array:
    """Joins this device's `[K, B]` values with those of all others, `[N K B]`."""
    return jax.lax.all_gather(parts, DEVICES).reshape(-1)


def _mean(tree: Any) -> Any:
    """Mean over all devices; None stays None."""
    return jax.lax.pmean(tree, DEVICES)


def _digest(leaf: Array) -> Array:
    """A weighted sum of an array's bits, `[]` uint32."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if leaf.dtype.itemsize < 4:
        leaf = leaf.astype(jnp.float32)  # which holds any of them exactly
    bits = jax.lax.bitcast_convert_type(leaf, jnp.uint32).reshape(-1)
    return jnp.sum(bits * (2 * jax.lax.iota(jnp.uint32, bits.size) + 1))
