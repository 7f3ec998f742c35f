"""Updates over devices: what they equal, and that replicas stay the same."""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import tiny_config
from specmpc_jax.errors import UserError
from specmpc_jax.learning import data_parallel, train_state
from specmpc_jax.learning.batch import Batch
from specmpc_jax.learning.config import TrainConfig
from specmpc_jax.learning.data_parallel import ReplicaError, replica, replicate
from specmpc_jax.learning.update import compile_updates
from specmpc_jax.ops.dropout import Rows, dropout
from specmpc_jax.world_model import WorldModel

ROWS, UPDATES = 16, 3
SINGLE = WorldModel(tiny_config(dropout=0.2))
MULTITASK = WorldModel(
    tiny_config(
        dropout=0.2,
        task_dim=4,
        tasks=("a", "b", "c"),
        action_dims=(2, 1, 2),
        episode_lengths=(100, 200, 500),
    )
)
# Hyper-parameters that hide nothing: with a small tau the Q scale and the target ensemble
# hardly move.
CONFIG = TrainConfig(batch_size=ROWS, tau=0.3)
LEAKING = dataclasses.replace(CONFIG, leak_embedding_gradient=True)
MORE = ((1, 1), (1, 2), (2, 1), (4, 1), (4, 2), (8, 2))  # devices and sync_freq
EPISODIC = WorldModel(tiny_config(episodic=True))
PIXELS = WorldModel(
    tiny_config(
        observation="rgb", observation_shape=(3, 64, 64), num_channels=1, latent_dim=16, num_q=2
    )
)


def make_batches(model: WorldModel, rows: int = ROWS, seed: int = 0) -> Batch:
    """UPDATES whole batches, `[U, H+1, rows, ...]`."""
    random = np.random.default_rng(seed)
    config, steps = model.config, (UPDATES, 3, rows)
    shape = (UPDATES, 4, rows, *config.observation_shape)
    pixels = random.integers(0, 256, shape, np.uint8) if config.observation == "rgb" else None
    return Batch(
        observation=random.normal(size=shape).astype(np.float32) if pixels is None else pixels,
        action=random.uniform(-1, 1, (*steps, config.action_dim)).astype(np.float32),
        reward=random.uniform(0, 2, steps).astype(np.float32),
        terminated=random.integers(0, 2 if config.episodic else 1, steps).astype(np.float32),
        # The first rows know one task alone: devices differ in the tasks that they see.
        task=np.sort(random.integers(0, 3, (UPDATES, rows))) if config.multitask else None,
    )


def deal(batches: Batch, devices: int, sync_freq: int) -> Batch:
    """Whole batches as devices get them, `[N, U K, ..., B, ...]`."""

    def part(leaf: np.ndarray, axis: int) -> np.ndarray:
        # Rows are counted through the devices' first batches, then through their second ones.
        shape = (*leaf.shape[:axis], sync_freq, devices, -1, *leaf.shape[axis + 1 :])
        leaf = np.moveaxis(leaf.reshape(shape), (axis + 1, axis), (0, 2))
        return leaf.reshape(devices, UPDATES * sync_freq, *leaf.shape[3:])

    fields = {name: getattr(batches, name) for name in batches.__dataclass_fields__}
    return Batch(
        **{
            name: None if leaf is None else part(leaf, 1 if name == "task" else 2)
            for name, leaf in fields.items()
        }
    )


@functools.cache
def start(model: WorldModel, config: TrainConfig) -> train_state.TrainState:
    state = jax.jit(train_state.init, static_argnums=(0, 1))(model, config, jax.random.key(0))
    # Fresh heads are zero, and a fresh scale of 1 hides the percentiles.
    rng = np.random.default_rng(0)
    return state.replace(
        params=jax.tree.map(
            lambda x: x + 0.3 * rng.normal(size=x.shape).astype(x.dtype), state.params
        )
    )


@functools.cache
def on_one_device(model: WorldModel, config: TrainConfig) -> tuple:
    """The ordinary update on the whole batches."""
    state = jax.tree.map(jnp.copy, start(model, config))
    return jax.device_get(compile_updates(model, config)(state, make_batches(model)))


def run(model: WorldModel, config: TrainConfig, devices: list[jax.Device], sync_freq: int) -> tuple:
    update = data_parallel.compile_parallel_updates(model, config, devices, sync_freq)
    batches = deal(make_batches(model), len(devices), sync_freq)
    return update(replicate(start(model, config), devices), batches)


@pytest.fixture(autouse=True, scope="module")
def double_precision() -> Iterator[None]:
    """So that rounding cannot pass for a mistake, nor a mistake for rounding."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.mark.parametrize(
    ("model", "config", "count", "sync_freq"),
    [
        *((SINGLE, CONFIG, *case) for case in ((2, 2), (8, 1))),
        *(pytest.param(SINGLE, CONFIG, *case, marks=pytest.mark.slow) for case in MORE),
        (MULTITASK, LEAKING, 2, 2),
        pytest.param(EPISODIC, CONFIG, 4, 1, marks=pytest.mark.slow),
    ],
)
def test_many_devices_equal_one_with_the_whole_batch(model, config, count, sync_freq):
    compare_with_one_device(model, config, count, sync_freq, tolerance=1e-9)


@pytest.mark.slow
def test_pixels_on_many_devices():
    with jax.enable_x64(False):  # the pixel encoder is float32 by its own words
        # Adam's usual epsilon would magnify rounding where a gradient is next to nothing.
        config = dataclasses.replace(CONFIG, adam_epsilon=1e-2, policy_adam_epsilon=1e-2)
        compare_with_one_device(PIXELS, config, 2, 2, tolerance=1e-3)


def compare_with_one_device(model, config, count, sync_freq, tolerance):
    expected_state, expected = on_one_device(model, config)
    devices = jax.devices()[:count]
    state, metrics = run(model, config, devices, sync_freq)
    assert metrics["total_loss"].shape == (count, UPDATES)
    for name, values in expected.items():
        if name != "termination_f1":  # no mean over parts
            np.testing.assert_allclose(metrics[name], [values] * count, tolerance, err_msg=name)

    data_parallel.check_replicas(state, data_parallel.compile_digest(devices))

    def compare(path, a, b):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_allclose(a, b, 0, tolerance, err_msg=jax.tree_util.keystr(path))

    jax.tree.map_with_path(compare, replica(state, count - 1), expected_state)
    before = start(model, config)
    for part in ("encoder", "policy", "q", "target_q"):
        pairs = zip(
            jax.tree.leaves(before.params[part]),
            jax.tree.leaves(expected_state.params[part]),
            strict=True,
        )
        assert max(float(abs(old - new).max()) for old, new in pairs) > 1e-5, part
    assert model is not SINGLE or float(expected_state.scale) != 1.0


def test_replicas_that_differ_are_named():
    devices = jax.devices()[:4]
    state = replicate(start(SINGLE, CONFIG), devices)
    digest = data_parallel.compile_digest(devices)
    data_parallel.check_replicas(state, digest)
    kernel = state.params["q"]["layer_0"]["kernel"]
    swapped = kernel.at[2, 0, 0, :2].set(kernel[2, 0, 0, 1::-1])  # the same numbers elsewhere
    nan = state.scale.at[3].set(jnp.nan)
    params = jax.tree.map(lambda leaf: leaf, state.params)
    params["q"]["layer_0"]["kernel"] = swapped
    with pytest.raises(ReplicaError, match="device 2, 3 .*params/q/layer_0/kernel, scale"):
        data_parallel.check_replicas(state.replace(params=params, scale=nan), digest)


def test_a_part_of_a_batch_is_masked_as_within_the_whole():
    x, key = jnp.ones((2, 3, 12, 5)), jax.random.key(0)
    whole = dropout(x, 0.4, key)
    np.testing.assert_array_equal(dropout(x, 0.4, key, Rows(jnp.asarray(0), 12)), whole)
    part = dropout(x[:, :, 4:8], 0.4, key, Rows(jnp.asarray(4), 12))
    np.testing.assert_array_equal(part, whole[:, :, 4:8])


def test_no_gradients_to_add_up_are_refused():
    with pytest.raises(UserError, match="sync_freq is 0"):
        data_parallel.compile_parallel_updates(SINGLE, CONFIG, jax.devices(), 0)
