"""Observations that are not finite: the plan acts, nothing is NaN, the next good one replans."""

import jax
import numpy as np
import pytest

import specmpc_jax as sm
from models import tiny_agent

pytestmark = pytest.mark.nans  # the blind state holds NaNs on purpose

AGENT = tiny_agent()
GOOD = np.array([0.3, -0.2, 0.1, 0.5], np.float32)
BAD = {
    "nan": np.array([0.3, np.nan, 0.1, 0.5], np.float32),
    "infinite": np.array([0.3, -0.2, -np.inf, 0.5], np.float32),
    "overflow": np.full(4, 3e38, np.float32),
}


def act(controller, state, *observations):
    """Acts on observations in turn; returns actions, infos and the last state."""
    actions, infos = [], []
    for observation in observations:
        action, state, info = controller.act(observation, state)
        assert np.isfinite(action).all() and (np.abs(action) <= 1).all()
        actions.append(np.asarray(action))
        infos.append(info)
    return actions, infos, state


@pytest.fixture(scope="module")
def blocks():
    return AGENT.controller(3)


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_within_a_block_its_actions_then_zero(blocks, bad):
    _, _, state = act(blocks, blocks.initial_state(jax.random.key(0)), GOOD)
    planned = np.asarray(state.block.actions)
    actions, infos, state = act(blocks, state, bad, bad, bad, bad)
    np.testing.assert_array_equal(actions[:2], planned[1:])
    np.testing.assert_array_equal(actions[2:], np.zeros((2, 2)))
    for offset, info in enumerate(infos, 1):
        assert bool(info.blind) and int(info.outcome) == sm.Outcome.ACCEPT
        assert int(info.offset) == offset and float(info.mismatch) == 0
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(info))
    assert int(state.step) == 5


def test_the_next_good_observation_replans_within_a_block(blocks):
    _, _, state = act(blocks, blocks.initial_state(jax.random.key(0)), GOOD, BAD["nan"])
    assert int(state.offset) == 2  # the block would have a step left
    assert not bool(state.window_mask[-1])  # what a corrector would see
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.window))
    _, (info,), state = act(blocks, state, GOOD)
    assert int(info.outcome) == sm.Outcome.REPLAN and not bool(info.blind)
    assert not bool(info.block_end) and np.isfinite(state.block.latents).all()


def test_before_any_plan_there_is_nothing_to_go_on_with(blocks):
    actions, (info,), _ = act(blocks, blocks.initial_state(jax.random.key(0)), BAD["nan"])
    np.testing.assert_array_equal(actions[0], 0)
    assert bool(info.blind)


def test_one_lane_that_sees_nothing_leaves_the_others_alone(blocks):
    keys = jax.random.split(jax.random.key(1), 2)
    _, _, state = act(blocks, blocks.initial_state(keys), np.stack([GOOD, -GOOD]))
    planned = np.asarray(state.block.actions)
    actions, (info, after), state = act(
        blocks, state, np.stack([BAD["nan"], 2 * GOOD]), np.stack([GOOD, GOOD])
    )
    np.testing.assert_array_equal(info.blind, [True, False])
    np.testing.assert_array_equal(actions[0][0], planned[0, 1])
    alone = blocks.initial_state(keys[1])
    single, _, _ = act(blocks, alone, -GOOD, 2 * GOOD, GOOD)
    np.testing.assert_allclose([a[1] for a in actions], single[1:], atol=1e-5)
    assert not np.asarray(after.blind).any()


def test_planning_at_every_step_goes_on_with_the_last_mean():
    _, _, state = act(AGENT, AGENT.initial_state(jax.random.key(0)), GOOD)
    mean = np.asarray(state.block.mean)  # of 3 steps
    actions, infos, _ = act(AGENT, state, BAD["nan"], BAD["overflow"], BAD["nan"], GOOD)
    np.testing.assert_array_equal(actions[:3], [*mean[1:], np.zeros(2)])
    assert int(infos[-1].outcome) == sm.Outcome.REPLAN


@pytest.mark.parametrize("bad", ["nan", "overflow"])
def test_pipelined_drops_the_plan_under_way(bad):
    with AGENT.pipelined_controller(3) as controller:
        _, _, state = act(controller, controller.initial_state(jax.random.key(0)), GOOD)
        planned = np.asarray(state.machine.execution.block.actions)
        actions, (info, again), state = act(controller, state, BAD[bad], GOOD)
        np.testing.assert_array_equal(actions[0], planned[1])
        assert bool(info.blind) and info.planner_calls == 0
        assert int(again.outcome) == sm.Outcome.REPLAN and not bool(again.blind)
        act(controller, state, GOOD, GOOD, BAD[bad], BAD[bad], GOOD)
