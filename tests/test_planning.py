"""The planner on a linear toy model: no network, known answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import linear_model
from specmpc_jax.config import PlannerConfig
from specmpc_jax.errors import UserError
from specmpc_jax.planning import mppi
from specmpc_jax.planning.trajectory_value import roll_out

CONFIG = PlannerConfig(num_samples=64, num_elites=8, num_pi_trajs=4, iterations=4)


def make_plan(key, z, config=CONFIG, model=None, **options):
    model = model or linear_model()
    noise = mppi.draw_noise(key, config, 2, 2)
    return mppi.plan(model, config, z, jnp.zeros((config.horizon, 2)), noise, **options)


def test_plan_drives_the_toy_towards_its_goal():
    plan = make_plan(jax.random.key(0), jnp.array([1.0, -1.0]))
    # Minimising |0.9 z + 0.5 a|^2 wants a beyond the limits: the plan must be near them.
    assert plan.action[0] < -0.8 and plan.action[1] > 0.8


def test_same_key_same_plan_and_other_key_other_plan():
    z = jnp.array([0.5, 0.2])
    first, again, other = (make_plan(jax.random.key(k), z).actions for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_batched_plans_equal_single_ones():
    keys, z = jax.random.split(jax.random.key(3), 4), jax.random.normal(jax.random.key(4), (4, 2))
    batched = jax.vmap(make_plan)(keys, z)
    for i in range(4):
        single = make_plan(keys[i], z[i])
        np.testing.assert_allclose(batched.actions[i], single.actions, rtol=1e-5, atol=1e-6)


def test_statistics_stay_in_bounds():
    plan = make_plan(jax.random.key(1), jnp.array([3.0, -3.0]), explore=True)
    assert (jnp.abs(plan.action) <= 1).all() and (jnp.abs(plan.mean) <= 1 + 1e-6).all()
    assert (plan.std >= CONFIG.min_std).all() and (plan.std <= CONFIG.max_std).all()
    assert (jnp.diff(plan.elite_values) <= 0).all()
    assert plan.elite_values[-1] - 1e-4 <= plan.value <= plan.elite_values[0] + 1e-4


def test_unused_action_dimensions_stay_zero():
    masked = linear_model()._replace(action_mask=jnp.array([1.0, 0.0]))
    config = PlannerConfig(num_samples=16, num_elites=4, num_pi_trajs=0, iterations=2)
    plan = make_plan(jax.random.key(0), jnp.ones(2), config, masked, explore=True)
    assert (plan.actions[:, 1] == 0).all() and (plan.std[:, 1] == 0).all() and plan.action[1] == 0


def test_nothing_counts_after_termination():
    model = linear_model()._replace(termination=lambda z: jnp.ones(z.shape[:-1]))
    rollout = roll_out(model, jnp.ones(2), jnp.zeros((3, 5, 2)))
    np.testing.assert_allclose(rollout.returns, np.full(5, -2.0))  # the first reward only
    assert (rollout.weight == 0).all()


@pytest.mark.nans
def test_nan_values_lose_to_real_ones():
    toy = linear_model()

    def poisoned(z, action):
        reward, z = toy.step(z, action)
        return jnp.where(action[..., 0] > 0, jnp.nan, reward + 100.0), z

    plan = make_plan(jax.random.key(0), jnp.zeros(2), model=toy._replace(step=poisoned))
    assert (plan.actions[:, 0] <= 0).all() and jnp.isfinite(plan.value)


def test_two_distinct_members_are_drawn():
    noise = mppi.draw_noise(jax.random.key(0), PlannerConfig(iterations=50), 2, 5)
    assert (noise.members[:, 0] != noise.members[:, 1]).all()
    assert set(np.unique(noise.members)) == set(range(5))


@pytest.mark.parametrize("field", [{"num_elites": 600}, {"num_pi_trajs": 512}, {"horizon": 0}])
def test_impossible_settings_are_refused(field):
    with pytest.raises(UserError):
        PlannerConfig(**field)


def test_predicted_latents_follow_the_chosen_actions():
    model, z = linear_model(), jnp.array([0.5, -0.5])
    plan = make_plan(jax.random.key(0), z, explore=True)
    assert plan.latents.shape == (4, 2)
    np.testing.assert_array_equal(plan.actions[0], plan.action)
    for t in range(3):
        expected = model.step(plan.latents[t], plan.actions[t])[1]
        np.testing.assert_allclose(plan.latents[t + 1], expected, rtol=1e-6)
