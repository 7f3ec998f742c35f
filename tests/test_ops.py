"""Maths without networks, against the official code and against hand-made cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specmpc_jax.config import ModelConfig, discount_for_episode_length
from specmpc_jax.networks import layers
from specmpc_jax.ops import (
    activations,
    discrete_regression,
    distributions,
    running_scale,
    task_embedding,
)
from specmpc_jax.ops.dropout import dropout
from specmpc_jax.ops.linear import affine
from specmpc_jax.ops.sequences import shift_sequence

CONFIG = ModelConfig(action_dim=1)


@pytest.fixture(scope="module")
def math(golden):
    """Arrays of the `math` golden case."""
    return golden("math").arrays


def test_symlog_and_symexp_match_the_official_code(math):
    np.testing.assert_allclose(
        discrete_regression.symlog(math["symlog_in"]), math["symlog_out"], rtol=1e-6, atol=1e-7
    )
    np.testing.assert_allclose(
        discrete_regression.symexp(math["symexp_in"]), math["symexp_out"], rtol=2e-6, atol=1e-7
    )


@given(st.floats(-1e4, 1e4, width=32))
def test_symexp_inverts_symlog(x):
    there_and_back = discrete_regression.symexp(discrete_regression.symlog(jnp.float32(x)))
    np.testing.assert_allclose(there_and_back, x, rtol=1e-5, atol=1e-6)


def test_bins_and_two_hot_match_the_official_code(math):
    np.testing.assert_allclose(
        discrete_regression.bin_centres(CONFIG), math["dreg_bins"], atol=2e-6
    )
    ours = discrete_regression.two_hot(jnp.asarray(math["two_hot_in"][:, 0]), CONFIG)
    # At a bin's centre rounding may move all weight by one bin; decode such rows instead.
    same = np.isclose(ours, math["two_hot_out"], atol=2e-4).all(-1)
    bins = np.asarray(discrete_regression.bin_centres(CONFIG))
    np.testing.assert_allclose(ours @ bins, math["two_hot_out"] @ bins, atol=2e-5)
    assert same.mean() > 0.9


@given(st.lists(st.floats(-2e4, 2e4, width=32), min_size=1, max_size=8))
def test_two_hot_is_a_distribution_over_at_most_two_neighbours(values):
    weights = np.asarray(discrete_regression.two_hot(jnp.array(values), CONFIG))
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-5)
    for row in weights:
        bins = np.flatnonzero(row)
        assert len(bins) <= 2 and bins.max() - bins.min() <= 1


def test_two_hot_inverse_matches_the_official_code(math):
    for name in ("", "_nd"):
        logits = jnp.asarray(math[f"two_hot_inv_in{name}"])
        np.testing.assert_allclose(
            discrete_regression.two_hot_inverse(logits, CONFIG),
            math[f"two_hot_inv_out{name}"][..., 0],
            rtol=2e-5,
            atol=1e-5,
        )


def test_soft_cross_entropy_and_its_gradient_match_the_official_code(math):
    logits, target = jnp.asarray(math["soft_ce_pred"]), jnp.asarray(math["soft_ce_target"][:, 0])
    loss = discrete_regression.soft_cross_entropy(logits, target, CONFIG)
    np.testing.assert_allclose(loss, math["soft_ce_out"][:, 0], rtol=1e-5)
    gradient = jax.grad(lambda x: discrete_regression.soft_cross_entropy(x, target, CONFIG).mean())(
        logits
    )
    np.testing.assert_allclose(gradient, math["soft_ce_grad_mean"], atol=1e-6)


def test_policy_densities_match_the_official_code(math):
    np.testing.assert_allclose(
        distributions.bounded_log_std(jnp.asarray(math["log_std_in"]), -10.0, 2.0),
        math["log_std_out"],
        atol=1e-5,
    )
    np.testing.assert_allclose(
        distributions.gaussian_log_prob(
            jnp.asarray(math["glp_eps"]), jnp.asarray(math["glp_log_std"])
        ),
        math["glp_out"][:, 0],
        rtol=1e-5,
    )
    action = jnp.tanh(jnp.asarray(math["squash_pi"]))
    np.testing.assert_allclose(action, math["squash_pi_out"], atol=1e-6)
    log_prob = math["squash_log_pi"][:, 0] - distributions.squash_correction(action)
    # Near saturation the logarithm magnifies the last bits of tanh: allow four of them.
    slope = 2 / (1 - np.square(math["squash_pi_out"]) + 1e-6)
    error = np.abs(log_prob - math["squash_log_pi_out"][:, 0])
    assert (error <= 1e-5 + 4 * np.finfo(np.float32).eps * slope.sum(-1)).all()


def test_running_scale_matches_the_official_code(math):
    for size in (5, 16, 20, 21, 256):
        low, high = math[f"scale_percentiles{size}"][:, 0]
        np.testing.assert_allclose(
            running_scale.percentile_range(jnp.asarray(math[f"scale_x{size}"])),
            max(high - low, 1.0),
            rtol=1e-5,
        )
    scale = jnp.ones(())
    names = ["5", "16", "20", "21", "256", "_small"]
    for name, expected in zip(names, math["scale_values"], strict=False):
        scale = running_scale.update_scale(scale, jnp.asarray(math[f"scale_x{name}"]), 0.01)
        np.testing.assert_allclose(scale, expected[0], rtol=1e-5)


def test_layers_match_the_official_code(math):
    np.testing.assert_allclose(
        layers.mish(jnp.asarray(math["mish_in"])), math["mish_out"], rtol=1e-5, atol=1e-7
    )
    for suffix in ("", "3"):
        normed = layers.simnorm(jnp.asarray(math[f"simnorm_in{suffix}"]), 8)
        np.testing.assert_allclose(normed, math[f"simnorm_out{suffix}"], rtol=1e-5, atol=1e-7)
    params = {
        "kernel": math["nl_w"].T,
        "bias": math["nl_b"],
        "scale": math["nl_lnw"],
        "offset": math["nl_lnb"],
    }
    out = layers.NormedLinear(9).apply({"params": params}, math["nl_x"], deterministic=True)
    np.testing.assert_allclose(layers.mish(out), math["nl_out"], rtol=1e-5, atol=2e-6)


def test_gradients_of_mish_and_layer_norm_are_those_of_their_formulas():
    def mish(x):
        return x * jnp.tanh(jax.nn.softplus(x))

    def layer_norm(x, scale, offset):
        centred = x - x.mean(-1, keepdims=True)
        normed = centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-5)
        return normed * scale[None, None] + offset[None, None]

    x = jnp.array([-90.0, -30.0, -5.0, -1.2, -0.1, 0.0, 0.3, 4.0, 19.9, 20.1, 90.0])
    np.testing.assert_allclose(activations.mish(x), mish(x), rtol=1e-5, atol=1e-7)
    slope = jax.vmap(jax.grad(activations.mish))(x)
    np.testing.assert_allclose(slope, jax.vmap(jax.grad(mish))(x), rtol=1e-5, atol=1e-6)

    rng = np.random.default_rng(0)
    arguments = [jnp.asarray(rng.normal(size=s), jnp.float32) for s in [(2, 3, 8), (8,), (8,)]]
    weights = jnp.asarray(rng.normal(size=(2, 3, 8)), jnp.float32)

    def gradients(function):
        return jax.grad(lambda *a: jnp.sum(weights * function(*a)), argnums=(0, 1, 2))(*arguments)

    for ours, wanted in zip(gradients(activations.layer_norm), gradients(layer_norm), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-5)


def test_affine_map_of_parts_and_its_gradients():
    rng = np.random.default_rng(0)
    shapes = [(2, 4, 3), (2, 4, 2), (5, 6), (6,)]
    arguments = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
    weights = jnp.asarray(rng.normal(size=(2, 4, 6)), jnp.float32)

    def joined(x, y, kernel, bias):
        return jnp.concatenate([x, y], -1) @ kernel + bias[None, None]

    def in_parts(x, y, kernel, bias):
        return affine((x, y), kernel, bias)

    np.testing.assert_allclose(in_parts(*arguments), joined(*arguments), rtol=1e-5, atol=1e-6)
    gradients = [
        jax.grad(lambda *a, f=f: jnp.sum(weights * f(*a)), argnums=(0, 1, 2, 3))(*arguments)
        for f in (in_parts, joined)
    ]
    for ours, wanted in zip(*gradients, strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-5)


def test_dropout_keeps_the_mean_and_its_masks_are_independent():
    x = jnp.ones((400, 500))
    one, two = (dropout(x, 0.1, jax.random.key(k)) for k in (0, 1))
    assert set(np.unique(one)) == {np.float32(0), np.float32(1 / 0.9)}
    # Five standard errors: of a share of dropped units, and of one dropped in both masks.
    assert abs(float((one == 0).mean()) - 0.1) < 5 * (0.1 * 0.9 / x.size) ** 0.5
    assert abs(float(((one == 0) & (two == 0)).mean()) - 0.01) < 5 * (0.01 / x.size) ** 0.5
    dropped = np.asarray(one == 0, np.float64) - 0.1
    for a, b in ((dropped[1:], dropped[:-1]), (dropped[:, 1:], dropped[:, :-1])):
        assert abs((a * b).mean()) < 5 * 0.09 / x.size**0.5
    for axis in (0, 1):  # no row or column is spared
        share = np.asarray(one == 0).mean(axis)
        assert abs(share - 0.1).max() < 5 * (0.09 / (x.size / share.size)) ** 0.5
    np.testing.assert_array_equal(one, dropout(x, 0.1, jax.random.key(0)))
    np.testing.assert_array_equal(dropout(x, 0.0, jax.random.key(0)), x)


def test_task_embedding_is_rescaled_as_in_the_official_code(math):
    ours = task_embedding.look_up(jnp.asarray(math["emb_w"]), jnp.asarray(math["emb_idx"]))
    np.testing.assert_allclose(ours, math["emb_out"], rtol=1e-5, atol=1e-7)
    assert (np.linalg.norm(ours, axis=-1) <= 1 + 1e-6).all()


def test_discounts_match_the_official_code(math):
    ours = [discount_for_episode_length(float(n)) for n in math["episode_lengths"]]
    np.testing.assert_allclose(ours, math["discounts"], rtol=1e-6)


@given(st.integers(0, 9))
def test_shift_sequence_drops_and_fills(steps):
    sequence = jnp.arange(1.0, 9.0).reshape(4, 2)
    expected = np.concatenate([sequence, np.zeros((10, 2))])[steps : steps + 4]
    np.testing.assert_array_equal(shift_sequence(sequence, jnp.asarray(steps)), expected)
