"""`action, info = controller(observation)` against explicit states."""

import jax
import numpy as np
import pytest

import specmpc_jax as sm
from models import tiny_agent
from specmpc_jax.controller import check_observation

AGENT = tiny_agent()
OBSERVATIONS = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


def exported(directory):
    path = directory / "controller"
    sm.export_controller(AGENT.controller(2, "refine"), path)
    return sm.load_exported(path)


MAKERS = {
    "blocks": lambda _: AGENT.controller(2, "refine"),
    "pipelined": lambda _: AGENT.pipelined_controller(2, "refine"),
    "deadline": lambda _: AGENT.deadline_controller(60_000, 2, "refine"),
    "exported": exported,
}


@pytest.mark.parametrize("kind", MAKERS)
def test_calls_act_as_explicit_states_do(kind, tmp_path):
    controller = MAKERS[kind](tmp_path)
    for seed in (0, 1, 7):
        state = controller.initial_state(jax.random.key(seed))
        for observation in OBSERVATIONS:
            expected, state, _ = controller.act(observation, state)
            action, info = controller(observation)
            np.testing.assert_array_equal(action, expected)
        assert info is not None
        controller.reset(seed=7 if seed == 1 else None)


def test_callers_may_write_into_their_observation_again():
    program, buffer = AGENT.controller(2).program, OBSERVATIONS[0].copy()
    taken = check_observation(program, buffer)
    buffer[:] = np.nan
    np.testing.assert_array_equal(taken, OBSERVATIONS[0])


def test_the_first_observation_says_whether_there_is_a_batch():
    controller = AGENT.controller(2)
    batch = np.stack([OBSERVATIONS[0]] * 3)
    actions, info = controller(batch)
    expected, _, _ = controller.act(batch, controller.initial_state(jax.random.key(0), 3))
    assert info.outcome.shape == (3,)
    np.testing.assert_array_equal(actions, expected)
    controller.reset()
    action, _ = controller(OBSERVATIONS[0])
    assert action.shape == (2,)


def test_a_wrong_observation_does_not_end_the_episode():
    controller, other = AGENT.controller(2), AGENT.controller(2)
    first, _ = controller(OBSERVATIONS[0])
    np.testing.assert_array_equal(first, other(OBSERVATIONS[0])[0])
    for wrong in (OBSERVATIONS[:2], np.zeros(3)):
        with pytest.raises(sm.UserError, match="shape"):
            controller(wrong)
    action, info = controller(OBSERVATIONS[1])
    expected, _ = other(OBSERVATIONS[1])
    np.testing.assert_array_equal(action, expected)
    assert info.outcome == sm.Outcome.ACCEPT


def test_resets_before_the_first_call_change_nothing_and_episodes_differ():
    controller = AGENT.controller()
    controller.reset()
    controller.reset()
    first, _ = controller(OBSERVATIONS[0])
    controller.reset()
    second, _ = controller(OBSERVATIONS[0])
    controller.reset(seed=0)
    again, _ = controller(OBSERVATIONS[0])
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - second).max() > 0
