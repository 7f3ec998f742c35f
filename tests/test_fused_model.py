"""The fused model against the readable one, which the golden tests hold."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import FORWARD_CASES, golden_model, traced_for
from specmpc_jax.config import PlannerConfig, model_config
from specmpc_jax.ops import activations
from specmpc_jax.planning import fused_model, mppi
from specmpc_jax.world_model import WorldModel

MULTITASK = dict(task_dim=4, tasks=("a", "b", "c"), action_dims=(1, 3, 2))
TINY = dict(enc_dim=16, mlp_dim=32, latent_dim=16, observation_shape=(5,))
ARCHITECTURES = {
    "five_members": dict(num_q=5),
    "two_members": dict(num_q=2),
    "multitask": dict(num_q=3, **MULTITASK),
    "episodic": dict(num_q=3, episodic=True),
}
MEMBERS = jnp.array([2, 0])
# bfloat16 keeps 8 bits; through three layers and a symexp that makes a few percent.
BFLOAT16_TOLERANCE = 0.06

PLATFORMS = ("cpu", "accelerator")

prepare = jax.jit(fused_model.prepare, static_argnums=(0, 2))


@functools.cache
def random_model(name: str):
    """A tiny architecture with weights that leave no unit, scale or head at its initial value."""
    config = model_config(5, action_dim=3, **TINY, **ARCHITECTURES[name])
    params = jax.jit(WorldModel(config).init)(jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    generator = np.random.default_rng(1)
    noisy = [x + 0.3 * generator.normal(size=x.shape).astype(np.float32) for x in leaves]
    return config, jax.tree.unflatten(tree, noisy)


@functools.partial(jax.jit, static_argnums=(0, 1))
def outputs(config, platform, weights, z, action, task=0, members=MEMBERS):
    """Every function of a planning model; `action` serves as noise too.

    It is the fused model as a platform computes it, or the readable one for None.
    """
    with traced_for(platform):
        return _outputs(config, platform, weights, z, action, task, members)


def _outputs(config, platform, weights, z, action, task, members):
    task = jnp.asarray(task)
    if platform:
        model = fused_model.planning_model(config, weights, task)
    else:
        model = WorldModel(config).planning_model(weights, task)
    reward, following = model.step(z, action)
    found = {
        "reward": reward,
        "next": following,
        "policy": model.policy(z, action),
        "policy_mean": model.policy_mean(z),
        "value": model.value(z, action, members),
        "discount": model.discount,
    }
    if model.termination is not None:
        found["termination"] = model.termination(z)
    if model.action_mask is not None:
        found["mask"] = model.action_mask
    return found


def assert_same(ours, expected, tolerance):
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        assert ours[name].shape == value.shape, name
        scale = max(1.0, float(jnp.abs(value).max()))
        np.testing.assert_allclose(ours[name], value, rtol=0, atol=tolerance * scale, err_msg=name)


def latents(config, shape):
    """Random SimNorm latents `[*shape, L]`."""
    x = jax.random.normal(jax.random.key(2), (*shape, config.latent_dim))
    return activations.simnorm(x, config.simnorm_dim)


def actions(config, shape):
    return jax.random.uniform(jax.random.key(3), (*shape, config.action_dim), minval=-1, maxval=1)


@pytest.mark.parametrize("case", FORWARD_CASES)
def test_fused_is_readable_on_golden_weights(case):
    golden = golden_model(case)
    config, task = golden.config, golden.config.num_tasks - 1
    z, action = jnp.asarray(golden.arrays["z"]), jnp.asarray(golden.arrays["act"])
    weights = prepare(config, golden.params)
    members = jnp.array([1, 0])
    for start in (z, z[0]):
        readable = outputs(config, None, golden.params, start, action, task, members)
        for platform in PLATFORMS:
            ours = outputs(config, platform, weights, start, action, task, members)
            assert_same(ours, readable, 1e-5)


def check_every_task(name, start, lead):
    config, params = random_model(name)
    z, action = latents(config, start), actions(config, lead)
    weights = prepare(config, params)
    members = jnp.minimum(MEMBERS, config.num_q - 1)
    for task in range(config.num_tasks):
        readable = outputs(config, None, params, z, action, task, members)
        for platform in PLATFORMS:
            ours = outputs(config, platform, weights, z, action, task, members)
            assert_same(ours, readable, 2e-5)
        if config.multitask:
            unused = np.asarray(ours["mask"]) == 0
            assert unused.sum() == config.action_dim - config.action_dims[task]
            assert not np.asarray(ours["policy"])[..., unused].any()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_fused_is_readable_for_every_architecture_and_task(name):
    check_every_task(name, (), (7,))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_shared_latent_is_the_latent_itself(name):
    config, params = random_model(name)
    z, action = latents(config, ()), actions(config, (7,))

    @jax.jit
    def steps(weights, z, action):
        model = fused_model.planning_model(config, weights, jnp.asarray(0))
        return model.step(z, action), model.step(model.share(z), action)

    alone, shared = steps(prepare(config, params), z, action)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), alone, shared)


@pytest.mark.parametrize("start, lead", [((), ()), ((7,), (7,)), ((4,), (6, 4))])
def test_fused_is_readable_for_every_shape(start, lead):
    check_every_task("multitask", start, lead)


def test_every_pair_of_members():
    config, params = random_model("five_members")
    weights = prepare(config, params)
    z, action = latents(config, ()), actions(config, (7,))
    values = {}
    for first, second in itertools.permutations(range(config.num_q), 2):
        members = jnp.array([first, second])
        ours = outputs(config, "cpu", weights, z, action, 0, members)
        assert_same(ours, outputs(config, None, params, z, action, 0, members), 2e-5)
        values[frozenset((first, second))] = float(ours["value"][0])
    assert len(set(values.values())) == len(values)


def test_lanes_of_a_batch_are_single_plans():
    config, params = random_model("multitask")
    planner = PlannerConfig(iterations=3, num_samples=24, num_elites=8, num_pi_trajs=4)
    mean = jnp.zeros((planner.horizon, config.action_dim))
    z, keys, tasks = latents(config, (3,)), jax.random.split(jax.random.key(4), 3), jnp.arange(3)
    weights = prepare(config, params)

    def plan(z, key, task):
        model = fused_model.planning_model(config, weights, task)
        noise = mppi.draw_noise(key, planner, config.action_dim, config.num_q)
        return mppi.plan(model, planner, z, mean, noise)

    lanes, single = jax.jit(jax.vmap(plan))(z, keys, tasks), jax.jit(plan)
    for i in range(3):
        alone, lane = (
            single(z[i], keys[i], tasks[i]),
            jax.tree.map(lambda leaf, i=i: leaf[i], lanes),
        )
        for ours, theirs in zip(jax.tree.leaves(alone), jax.tree.leaves(lane), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_weights_may_be_laid_out_before_or_inside_a_traced_program():
    config, params = random_model("multitask")
    eager, traced = fused_model.prepare(config, params), prepare(config, params)
    assert jax.tree.structure(eager) == jax.tree.structure(traced)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), eager, traced)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_bfloat16_products_are_close_and_all_else_is_float32(name):
    config, params = random_model(name)
    weights = prepare(config, params, "bfloat16")
    for path, leaf in jax.tree_util.tree_leaves_with_path(weights):
        assert leaf.dtype == (jnp.bfloat16 if path[-1].name == "kernel" else jnp.float32)
    z, action = latents(config, ()), actions(config, (7,))
    for platform in PLATFORMS:
        ours = outputs(config, platform, weights, z, action)
        assert all(x.dtype == jnp.float32 for x in ours.values())
        exact = outputs(config, platform, prepare(config, params), z, action)
        assert_same(ours, exact, BFLOAT16_TOLERANCE)
        assert not np.array_equal(ours["next"], exact["next"])


def test_one_exponential_is_enough_for_mish():
    x = jnp.concatenate([jnp.linspace(-30, 30, 4001), jnp.array([-1e4, -200.0, 200.0, 1e4])])
    expected = np.asarray(x, np.float64) * np.tanh(np.logaddexp(0, np.asarray(x, np.float64)))
    ours = activations.mish_of_one_exponential(x)
    np.testing.assert_allclose(ours, expected, rtol=3e-7, atol=3e-6)
