"""The PyTorch update of the benchmark computes what the JAX update computes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import tiny_config
from specmpc_jax.errors import UserError
from specmpc_jax.learning import train_state
from specmpc_jax.learning.batch import Batch, draw_noise
from specmpc_jax.learning.config import TrainConfig
from specmpc_jax.learning.update import update
from specmpc_jax.world_model import WorldModel

pytest.importorskip("torch")
from experiments.support.torch_update import TorchLearner  # noqa: E402

MODEL = WorldModel(tiny_config(episode_lengths=(500,)))
CONFIG = TrainConfig(batch_size=8, grad_clip_norm=0.5)
UPDATES = 3


def make_batch(rng: np.random.Generator) -> Batch:
    shape = (CONFIG.horizon, CONFIG.batch_size)
    return Batch(
        observation=rng.normal(size=(shape[0] + 1, shape[1], 4)).astype(np.float32),
        action=rng.uniform(-1, 1, (*shape, 2)).astype(np.float32),
        reward=rng.uniform(0, 2, shape).astype(np.float32),
        terminated=(rng.uniform(size=shape) < 0.2).astype(np.float32),
    )


def make_state() -> train_state.TrainState:
    params = jax.jit(MODEL.init)(jax.random.key(0))
    rng = np.random.default_rng(1)
    # Fresh reward and value heads are zero, which would hide most of the computation.
    params = jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), params)
    return train_state.init(MODEL, CONFIG, jax.random.key(1), params)


def test_losses_and_parameters_after_several_updates():
    state = make_state()
    learner = TorchLearner(MODEL.config, CONFIG, state.params)
    step = jax.jit(functools.partial(update, model=MODEL, config=CONFIG))
    rng = np.random.default_rng(0)
    for k in range(UPDATES):
        batch = make_batch(rng)
        noise = draw_noise(jax.random.key(k), batch, MODEL.config).replace(dropout=None)
        state, expected = step(state, jax.tree.map(jnp.asarray, batch), noise)
        metrics = learner.update(batch, noise)
        assert len(metrics) == 8
        for name, value in metrics.items():
            np.testing.assert_allclose(value, expected[name], rtol=2e-4, err_msg=name)
    # Adam's first steps have the size of the learning rate wherever there is a gradient.
    moved = jax.tree.map(
        lambda a, b: float(jnp.abs(a - b).max()), state.params, make_state().params
    )
    assert min(jax.tree.leaves(moved)) > 1e-6
    jax.tree.map_with_path(
        lambda path, ours, wanted: np.testing.assert_allclose(
            ours, wanted, atol=2e-5, err_msg=jax.tree_util.keystr(path)
        ),
        learner.params(),
        state.params,
    )


def test_dropout_is_drawn_by_torch():
    batch = make_batch(np.random.default_rng(0))
    noise = draw_noise(jax.random.key(0), batch, tiny_config(dropout=0.5))
    losses = [
        TorchLearner(tiny_config(dropout=0.5), CONFIG, make_state().params).update(batch, each)
        for each in (noise, noise, noise.replace(dropout=None))
    ]
    assert len({each["value_loss"] for each in losses}) == 3
    assert len({each["reward_loss"] for each in losses}) == 1


@pytest.mark.parametrize("fields", [{"episodic": True}, {"observation": "rgb"}])
def test_other_models_are_refused(fields):
    with pytest.raises(UserError, match="single-task"):
        TorchLearner(tiny_config(**fields), CONFIG, {})
