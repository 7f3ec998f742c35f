"""The update as a function of a state, batches and keys; numbers are test_update_golden's."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specmpc_jax.config import ModelConfig
from specmpc_jax.errors import UserError
from specmpc_jax.learning import losses, train_state
from specmpc_jax.learning.batch import Batch, draw_noise
from specmpc_jax.learning.config import TrainConfig
from specmpc_jax.learning.update import clip_by_norm, compile_updates, update, update_many
from specmpc_jax.world_model import WorldModel

MODEL = WorldModel(
    ModelConfig(
        action_dim=2,
        observation_shape=(5,),
        enc_dim=16,
        mlp_dim=16,
        latent_dim=16,
        num_q=3,
        dropout=0.1,
    )
)
CONFIG = TrainConfig(batch_size=8)
INIT = jax.jit(train_state.init, static_argnums=(0, 1))


def make_batches(count: int, seed: int = 0) -> Batch:
    random = np.random.default_rng(seed)
    shape = (count, CONFIG.horizon, CONFIG.batch_size)
    return Batch(
        observation=random.normal(size=(count, shape[1] + 1, shape[2], 5)).astype(np.float32),
        action=random.uniform(-1, 1, (*shape, 2)).astype(np.float32),
        reward=random.uniform(0, 2, shape).astype(np.float32),
        terminated=np.zeros(shape, np.float32),
    )


def make_state(seed: int = 0) -> train_state.TrainState:
    return INIT(MODEL, CONFIG, jax.random.key(seed))


def assert_trees_close(actual, expected):
    def compare(path, a, b):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_allclose(a, b, atol=1e-6, err_msg=jax.tree_util.keystr(path))

    jax.tree.map_with_path(compare, actual, expected)


def test_fused_updates_equal_single_ones():
    batches = make_batches(4)
    fused, metrics = update_many(make_state(), batches, model=MODEL, config=CONFIG)
    state = make_state()
    run = compile_updates(MODEL, CONFIG)
    for k in range(4):
        state, single = run(state, jax.tree.map(lambda leaf, k=k: leaf[k : k + 1], batches))
        np.testing.assert_allclose(single["total_loss"][0], metrics["total_loss"][k], rtol=1e-5)
    assert int(state.updates) == int(fused.updates) == 4
    assert_trees_close(state, fused)


def test_compiled_updates_trace_once_and_take_over_the_state():
    traces = 0

    class CountingModel(WorldModel):
        def encode(self, *args, **kwargs):
            nonlocal traces
            traces += 1
            return super().encode(*args, **kwargs)

    run = compile_updates(CountingModel(MODEL.config), CONFIG)
    state = make_state()
    for seed in range(3):
        old, (state, _) = state, run(state, make_batches(2, seed))
        assert old.params["dynamics"]["layer_0"]["kernel"].is_deleted()
        # One trace encodes twice: first observations with gradient, later ones without.
        assert traces == 2


def test_updates_lower_the_losses():
    batch = jax.tree.map(lambda leaf: np.repeat(leaf, 400, axis=0), make_batches(1))
    _, metrics = compile_updates(MODEL, CONFIG)(make_state(), batch)
    for name in ("consistency_loss", "reward_loss", "total_loss"):
        assert metrics[name][-10:].mean() < 0.8 * metrics[name][:10].mean(), name


def test_target_ensemble_follows_by_tau():
    state = make_state()
    batch = jax.tree.map(lambda leaf: leaf[0], make_batches(1))
    noise = draw_noise(jax.random.key(1), batch, MODEL.config)
    after, _ = jax.jit(functools.partial(update, model=MODEL, config=CONFIG))(state, batch, noise)
    expected = jax.tree.map(
        lambda old, new: old + CONFIG.tau * (new - old),
        state.params["target_q"],
        after.params["q"],
    )
    assert_trees_close(after.params["target_q"], expected)


def test_the_encoder_learns_more_slowly():
    """Adam's first step has the size of the learning rate wherever there is a gradient."""
    state = make_state()
    batch = jax.tree.map(lambda leaf: leaf[0], make_batches(1))
    noise = draw_noise(jax.random.key(1), batch, MODEL.config)
    after, _ = jax.jit(functools.partial(update, model=MODEL, config=CONFIG))(state, batch, noise)
    rates = {"encoder": CONFIG.lr * CONFIG.enc_lr_scale, "dynamics": CONFIG.lr, "policy": CONFIG.lr}
    for name, rate in rates.items():
        moved = jax.tree.map(
            lambda a, b: float(jnp.abs(a - b).max()), after.params[name], state.params[name]
        )
        np.testing.assert_allclose(max(jax.tree.leaves(moved)), rate, rtol=0.02, err_msg=name)


def test_policy_loss_reaches_only_what_is_asked_for():
    """Nothing but the policy moves in the policy's step, and nothing of it in the model's."""
    state = make_state()
    batch = jax.tree.map(lambda leaf: leaf[0], make_batches(1))
    noise = draw_noise(jax.random.key(1), batch, MODEL.config)
    still = dataclasses.replace(
        CONFIG, consistency_coef=0.0, reward_coef=0.0, value_coef=0.0, tau=1e-9
    )
    after, _ = jax.jit(functools.partial(update, model=MODEL, config=still))(state, batch, noise)
    moved = {
        name
        for name in state.params
        if any(
            (a != b).any()
            for a, b in zip(
                jax.tree.leaves(state.params[name]),
                jax.tree.leaves(after.params[name]),
                strict=True,
            )
        )
    }
    assert moved == {"policy"}


def test_dropout_follows_its_key():
    state = make_state()
    batch = jax.tree.map(lambda leaf: leaf[0], make_batches(1))
    # Fresh value heads are zero, which would hide dropout.
    head = state.params["q"]["head"]
    head["kernel"] = jax.random.normal(jax.random.key(2), head["kernel"].shape)
    step = jax.jit(functools.partial(update, model=MODEL, config=CONFIG))
    one, two = (draw_noise(jax.random.key(k), batch, MODEL.config) for k in (1, 2))
    two = one.replace(dropout=two.dropout)
    results = [float(step(state, batch, n)[1]["value_loss"]) for n in (one, one, two)]
    assert results[0] == results[1] != results[2]
    off = float(step(state, batch, one.replace(dropout=None))[1]["value_loss"])
    assert off not in results


def test_noise_is_a_function_of_the_key():
    batch = jax.tree.map(lambda leaf: leaf[0], make_batches(1))
    pixels = dataclasses.replace(MODEL.config, observation="rgb")
    noise = draw_noise(jax.random.key(0), batch, pixels)
    assert noise.shift.shape == (4, 8, 2)
    assert set(np.unique(noise.shift)) == set(range(7))
    pairs = {
        tuple(draw_noise(jax.random.key(k), batch, MODEL.config).target_members.tolist())
        for k in range(40)
    }
    assert all(a != b for a, b in pairs)
    assert len(pairs) == 6


@pytest.mark.parametrize("length, expected", [(2.0, 2.0), (50.0, 20.0)])
def test_clipping_by_the_global_norm(length, expected):
    gradients = {"a": jnp.array([0.6 * length]), "b": jnp.array([[0.8 * length]])}
    clipped, norm = clip_by_norm(gradients, 20.0)
    np.testing.assert_allclose(norm, length, rtol=1e-6)
    np.testing.assert_allclose(clipped["b"], 0.8 * expected, rtol=1e-6)


def test_termination_statistics():
    logits = jnp.array([2.0, 1.0, -1.0, -3.0])
    statistics = losses.termination_statistics(logits, jnp.array([1.0, 0.0, 1.0, 0.0]))
    assert float(statistics["termination_rate"]) == 0.5
    assert float(statistics["termination_f1"]) == 0.5
    nothing = losses.termination_statistics(-jnp.ones(3), jnp.zeros(3))
    assert float(nothing["termination_f1"]) == 0.0


def test_impossible_hyper_parameters_are_refused():
    for wrong in (dict(batch_size=0), dict(lr=0.0), dict(tau=0.0), dict(updates_per_step=-1)):
        with pytest.raises(UserError):
            TrainConfig(**wrong)
    assert TrainConfig().seed_steps_for(500) == 2500
    assert TrainConfig().seed_steps_for(100) == 1000
    assert TrainConfig(seed_steps=7).seed_steps_for(500) == 7
