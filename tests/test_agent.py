"""The agent and its controllers: shapes, lanes, thresholds, one trace a shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import specmpc_jax as sm
from models import TINY_PLANNER, tiny_agent, tiny_config
from specmpc_jax import checkpointing, controller
from specmpc_jax.planning import mppi
from specmpc_jax.world_model import WorldModel

AGENT = tiny_agent()
OBSERVATION = np.array([0.3, -0.2, 0.1, 0.5], np.float32)


def test_model_functions_take_single_and_batched_arrays():
    single = AGENT.encode(OBSERVATION)
    batch = AGENT.encode(np.stack([OBSERVATION] * 3))
    assert single.shape == (16,) and batch.shape == (3, 16)
    np.testing.assert_allclose(batch[1], single, rtol=1e-5)
    action = np.full(2, 0.1, np.float32)
    assert AGENT.next(single, action).shape == (16,)
    assert AGENT.reward(single, action).shape == ()
    assert AGENT.q(single, action).shape == (3,)
    assert AGENT.policy_mean(batch).shape == (3, 2)
    assert AGENT.plan(batch, jax.random.key(0)).actions.shape == (3, 3, 2)


def test_acting_equals_planning_from_the_encoded_observation():
    state = AGENT.initial_state(jax.random.key(5))
    action, state, info = AGENT.act(OBSERVATION, state)
    assert int(info.outcome) == sm.Outcome.REPLAN
    assert action.shape == (2,) and (np.abs(action) <= 1).all()
    again, _, _ = AGENT.act(OBSERVATION, AGENT.initial_state(jax.random.key(5)))
    np.testing.assert_array_equal(action, again)


def test_planning_functions_are_the_world_models():
    """The planner's laid-out weights must give the readable model's plan."""
    z, key = AGENT.encode(OBSERVATION), jax.random.key(1)
    ours = AGENT.plan(z, key)
    model = WorldModel(AGENT.config).planning_model(AGENT.params)
    noise = mppi.draw_noise(key, TINY_PLANNER, 2, 3)
    reference = mppi.plan(model, TINY_PLANNER, z, jnp.zeros((3, 2)), noise)
    np.testing.assert_allclose(ours.actions, reference.actions, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours.value, reference.value, rtol=1e-4, atol=1e-5)


def test_the_prior_acts_between_plans_at_what_was_seen():
    control = AGENT.controller(3, "prior")
    planned = AGENT.controller(3)
    state, other = (
        control.initial_state(jax.random.key(0)),
        planned.initial_state(jax.random.key(0)),
    )
    observations = np.random.default_rng(3).normal(size=(3, 4)).astype(np.float32)
    for step, observation in enumerate(observations):
        action, state, info = control.act(observation, state)
        open_loop, other, _ = planned.act(observation, other)
        mean = AGENT.policy_mean(AGENT.encode(observation))
        if step == 0:
            assert info.outcome == sm.Outcome.REPLAN
            np.testing.assert_array_equal(action, open_loop)
        else:
            assert info.outcome == sm.Outcome.CORRECT
            np.testing.assert_allclose(action, mean, rtol=1e-4, atol=1e-5)
            assert np.abs(action - open_loop).max() > 1e-2


@pytest.mark.parametrize("corrector", [None, "refine", "prior"])
def test_lanes_of_a_batch_act_like_single_controllers(corrector):
    control = AGENT.controller(3, corrector, tau_replan=0.8)
    keys = jax.random.split(jax.random.key(0), 3)
    batch = control.initial_state(keys)
    single = [control.initial_state(key) for key in keys]
    observations = np.random.default_rng(0).normal(size=(6, 3, 4)).astype(np.float32)
    for observation in observations:
        actions, batch, info = control.act(observation, batch)
        for lane in range(3):
            action, single[lane], one = control.act(observation[lane], single[lane])
            assert int(info.outcome[lane]) == int(one.outcome)
            np.testing.assert_allclose(actions[lane], action, rtol=1e-3, atol=1e-4)


def test_one_trace_a_shape_whatever_the_thresholds(monkeypatch):
    traces = []
    original = controller.control_step

    def counted(program, arrays, state, observation):
        traces.append(observation.shape)
        return original(program, arrays, state, observation)

    jitted = jax.jit(counted, static_argnums=0)
    monkeypatch.setattr(controller, "jitted_step", jitted)
    for tau in (0.1, 0.5, None):
        control = AGENT.controller(2, tau_replan=tau)
        for observation in (OBSERVATION, np.stack([OBSERVATION] * 2)):
            state = control.initial_state(jax.random.key(0), None if observation.ndim == 1 else 2)
            for _ in range(3):
                _, state, _ = control.act(observation, state)
    assert sorted(traces) == [(2, 4), (4,)]


def test_the_policy_prior_alone_never_plans():
    control = AGENT.controller(use_planner=False)
    action, _, _ = control.act(OBSERVATION, control.initial_state(jax.random.key(0)))
    expected = AGENT.policy_mean(AGENT.encode(OBSERVATION))
    np.testing.assert_allclose(action, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(sm.UserError, match="exec_horizon"):
        AGENT.controller(2, use_planner=False)


def test_multitask_agents_need_a_known_task_and_mask_their_actions():
    agent = tiny_agent(task_dim=8, tasks=("a", "bb"), action_dims=(2, 1))
    with pytest.raises(sm.UserError, match="nearest are"):
        agent.controller(task="bbb")
    with pytest.raises(sm.UserError):
        agent.encode(OBSERVATION)
    assert agent.task_index("bb") == agent.task_index(1) == 1
    for options in ({}, {"exec_horizon": 2, "corrector": "refine"}, {"use_planner": False}):
        control = agent.controller(task="bb", **options)
        state = control.initial_state(jax.random.key(0))
        for _ in range(2):
            action, state, _ = control.act(OBSERVATION, state)
            assert action[1] == 0 and action[0] != 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tau_replan": -1.0}, "zero or more"),
        ({"exec_horizon": 3, "tau_accept": [0.1, 0.2, 0.3]}, "one for each offset"),
        ({"exec_horizon": 2, "replan_quantile": 0.9}, "needs a corrector"),
        ({"mismatch": "cosine"}, "relative"),
        ({"exec_horizon": 0}, "at least 1"),
        ({"follow": "best"}, "elite"),
    ],
)
def test_contradictory_settings_are_refused(options, said):
    with pytest.raises(sm.UserError, match=said):
        AGENT.controller(**options)


def test_wrong_observations_are_refused():
    state = AGENT.initial_state(jax.random.key(0))
    for bad in (np.zeros(5), np.zeros((2, 4))):
        with pytest.raises(sm.UserError, match=r"expect \(4,\)"):
            AGENT.act(bad, state)


def test_an_agent_is_the_same_after_saving(tmp_path):
    checkpointing.save_model(tmp_path / "agent", AGENT.params, AGENT.config, {"by": "test"})
    loaded = sm.load(tmp_path / "agent", TINY_PLANNER)
    assert loaded.config == tiny_config() and loaded.metadata == {"by": "test"}
    assert loaded.fingerprint == AGENT.fingerprint
    ours, theirs = (
        agent.act(OBSERVATION, agent.initial_state(jax.random.key(2)))[0]
        for agent in (AGENT, loaded)
    )
    np.testing.assert_array_equal(ours, theirs)
