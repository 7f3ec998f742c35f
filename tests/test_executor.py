"""The speculative executor on a linear toy model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import linear_model
from specmpc_jax.config import PlannerConfig, SpeculationConfig
from specmpc_jax.ops.lanes import (
    bucket_sizes,
    gathered,
    in_buckets,
    in_chunks,
    in_turn,
    on_lanes,
    over_lanes,
    side_by_side,
)
from specmpc_jax.planning import mppi
from specmpc_jax.speculation import executor, valued
from specmpc_jax.speculation.blocks import block_from_plan
from specmpc_jax.speculation.decisions import Decision, Outcome
from specmpc_jax.speculation.executor import Functions, Thresholds
from specmpc_jax.speculation.mismatch import mismatch
from specmpc_jax.types import PlannedStep

PLANNER = PlannerConfig(num_samples=32, num_elites=4, num_pi_trajs=2, iterations=2)
MODEL = linear_model()


def functions(config, correct=None, starts=None):
    """A planner on the toy; `starts`, if given, collects the warm starts it was called with."""

    def plan(z, mean, key):
        if starts is not None:
            jax.debug.callback(lambda m: starts.append(np.asarray(m)), mean)
        noise = mppi.draw_noise(key, PLANNER, 2, 2)
        result = mppi.plan(MODEL, PLANNER, z, mean, noise)
        return block_from_plan(MODEL, result, z, config.exec_horizon, config.follow)

    return Functions(plan, correct)


def thresholds(config, accept=0.0, replan=np.inf):
    x = config.exec_horizon
    return Thresholds(jnp.full(x, accept, jnp.float32), jnp.full(x, replan, jnp.float32))


def run(
    config, steps, *, correct=None, accept=0.0, replan=np.inf, push=None, starts=None, value=None
):
    """Runs the executor against the toy; `push[t]` moves the real state at step t."""
    step = jax.jit(
        lambda state, z: executor.step(
            config,
            functions(config, correct, starts)._replace(value=value, prior=MODEL.policy_mean),
            thresholds(config, accept, replan),
            state,
            z,
        )
    )
    state = executor.initial_state(config, jax.random.key(0), 2, 2, PLANNER.horizon)
    z, records = jnp.array([1.0, -0.5]), []
    for t in range(steps):
        z = z + (push or {}).get(t, 0.0)
        action, state, info = step(state, z)
        records.append((action, state, info, z))
        z = MODEL.step(z, action)[1]
    return records


def outcomes(records):
    return [int(info.outcome) for _, _, info, _ in records]


@pytest.mark.parametrize("exec_horizon", [1, 2, 3, 5])
def test_one_plan_a_block(exec_horizon):
    records = run(SpeculationConfig(exec_horizon), 12)
    expected = [Outcome.ACCEPT if t % exec_horizon else Outcome.REPLAN for t in range(12)]
    assert outcomes(records) == expected
    for t, (action, _, info, z) in enumerate(records):
        assert int(info.offset) == t % exec_horizon
        # The toy is its own model, so the prediction is exact and the plan is executed.
        np.testing.assert_allclose(info.planned.z_pred, z, atol=1e-5)
        np.testing.assert_allclose(info.mismatch, 0.0, atol=1e-4)
        np.testing.assert_array_equal(action, info.planned.a_plan)


def test_a_block_longer_than_the_horizon_goes_on_with_the_prior():
    records = run(SpeculationConfig(5), 5)
    for t in (3, 4):
        z = records[t][2].planned.z_pred
        np.testing.assert_allclose(records[t][0], MODEL.policy_mean(z), atol=1e-6)


def test_mismatch_drops_the_plan_and_plans_once():
    records = run(SpeculationConfig(4), 8, replan=0.1, push={2: 3.0})
    a, r = Outcome.ACCEPT, Outcome.REPLAN
    # A fresh block starts at the miss: the next plan is due four steps later.
    assert outcomes(records) == [r, a, r, a, a, a, r, a]
    causes = [bool(info.block_end) for _, _, info, _ in records]
    assert causes == [True, False, False, False, False, False, True, False]


def test_warm_start_is_shifted_by_the_steps_really_executed():
    starts = []
    records = run(SpeculationConfig(4), 7, replan=0.1, push={2: 3.0}, starts=starts)
    jax.effects_barrier()
    first = np.asarray(records[1][1].block.mean)
    assert (starts[0] == 0).all()
    np.testing.assert_allclose(starts[1], np.concatenate([first[2:], np.zeros((2, 2))]))
    assert (starts[2] == 0).all()  # four steps executed, three planned: nothing is left


def test_thresholds_choose_between_accept_and_correct():
    def constant(context, key):
        return jnp.full(2, 0.25)

    records = run(SpeculationConfig(2), 4, correct=constant, accept=0.5, push={1: 2.0})
    a, c, r = Outcome.ACCEPT, Outcome.CORRECT, Outcome.REPLAN
    assert outcomes(records) == [r, c, r, a]
    for action, _, info, _ in records:
        if int(info.outcome) == c:
            np.testing.assert_array_equal(action, np.full(2, 0.25, np.float32))


@pytest.mark.nans
def test_a_nan_observation_replans():
    records = run(SpeculationConfig(3), 2, replan=1e9, push={1: np.nan})
    assert outcomes(records) == [Outcome.REPLAN, Outcome.REPLAN]


def test_window_holds_the_episode_newest_last():
    seen = []

    def correct(context, key):
        jax.debug.callback(lambda c: seen.append(jax.tree.map(np.asarray, c)), context)
        return context.step.a_plan

    records = run(SpeculationConfig(3, history_len=4), 6, correct=correct, accept=-1.0)
    jax.effects_barrier()
    assert len(seen) == 4  # steps 1, 2, 4, 5
    first, last = seen[0], seen[-1]
    np.testing.assert_array_equal(first.window_mask, [False, False, True, True])
    np.testing.assert_array_equal(last.window_mask, [True] * 4)
    np.testing.assert_array_equal(last.window.offset, [2, 0, 1, 2])
    for w, t in enumerate(range(2, 6)):
        np.testing.assert_array_equal(last.window.z_real[w], records[t][3])
    np.testing.assert_array_equal(last.window.z_real[-1], last.step.z_real)
    np.testing.assert_array_equal(last.plan_mean[0], records[5][1].block.mean[2])


def quality(z, actions):
    """Values actions of the toy by how close to home they lead."""
    return -jnp.sum(jnp.square(0.9 * z[None] + 0.5 * actions), -1)


@pytest.mark.parametrize(
    ("correct", "options"),
    [
        (None, {}),
        (lambda context, key: -context.step.a_plan, {}),
        (
            lambda context, key: -context.step.a_plan,
            {"replan_rate": 0.3, "value_tolerance": 0.05},
        ),
    ],
)
def test_batched_lanes_equal_single_ones(correct, options):
    config, lanes = SpeculationConfig(3, **options), 5
    limits = thresholds(config, accept=0.2, replan=0.5)
    keys = jax.random.split(jax.random.key(7), lanes)
    given = functions(config, correct)._replace(value=quality, prior=MODEL.policy_mean)
    single = jax.jit(lambda s, z: executor.step(config, given, limits, s, z))
    batched = jax.jit(lambda s, z: executor.batched_step(config, given, limits, s, z))
    start = [executor.initial_state(config, k, 2, 2, PLANNER.horizon) for k in keys]
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *start)
    z = jax.random.normal(jax.random.key(1), (lanes, 2))
    seen = set()
    for t in range(8):
        actions, states, info = batched(states, z)
        for lane in range(lanes):
            action, start[lane], one = single(start[lane], z[lane])
            np.testing.assert_allclose(actions[lane], action, rtol=1e-5, atol=1e-5)
            assert int(info.decision[lane]) == int(one.decision)
            np.testing.assert_allclose(info.limit[lane], one.limit, rtol=1e-5)
            seen.add(int(one.decision))
        noise = 0.3 * jax.random.normal(jax.random.fold_in(jax.random.key(2), t), (lanes, 2))
        z = MODEL.step(z, actions)[1] + noise
    plain = {Decision.ACCEPTED, Decision.BLOCK_END, Decision.MISMATCH}
    if correct is None:
        assert seen == plain
    elif not options:
        assert seen == plain | {Decision.CORRECTED}
    else:
        by_value = {Decision.VALUE_PLANNED, Decision.VALUE_PRIOR, Decision.VALUE_POOR}
        assert seen >= {Decision.BLOCK_END, Decision.MISMATCH} and len(seen & by_value) >= 2


by_twos = functools.partial(in_chunks, size=2)


@pytest.mark.parametrize("way", [on_lanes, in_turn, in_buckets, by_twos, gathered])
@pytest.mark.parametrize("count", range(6))
def test_only_lanes_in_need_change(way, count):
    need = jnp.arange(5) >= 5 - count
    out = way(lambda x: x * 2, need, (jnp.arange(5),), -jnp.ones(5, int))
    np.testing.assert_array_equal(out, [i * 2 if need[i] else -1 for i in range(5)])


@pytest.mark.parametrize("count", range(6))
def test_one_after_another_only_lanes_in_need_are_computed(count):
    computed = []

    def function(x):
        jax.debug.callback(lambda x: computed.append(int(x)), x)
        return x * 2

    need = jnp.arange(5) >= 5 - count
    in_turn(function, need, (jnp.arange(5),), -jnp.ones(5, int))
    jax.effects_barrier()
    assert sorted(computed) == list(range(5 - count, 5))


@pytest.mark.parametrize("lanes, chunks", [(0, 0), (1, 1), (2, 1), (3, 2), (5, 3)])
def test_chunks_are_as_many_as_hold_the_lanes_in_need(lanes, chunks):
    seen = []

    def function(x):
        jax.debug.callback(lambda x: seen.append(int(x)), x)
        return x * 2

    by_twos(function, jnp.arange(5) < lanes, (jnp.arange(5),), -jnp.ones(5, int))
    jax.effects_barrier()
    assert len(seen) == 2 * chunks and set(range(lanes)) <= set(seen)


def test_thousands_of_lanes_on_an_accelerator():
    need = jnp.arange(600) % 2 == 0
    out = jax.jit(lambda x: gathered(jnp.square, need, (x,), -x))(jnp.arange(600.0))
    np.testing.assert_array_equal(out, np.where(need, np.arange(600.0) ** 2, -np.arange(600.0)))
    np.testing.assert_array_equal(
        side_by_side(jnp.square, jnp.arange(600.0)), np.arange(600.0) ** 2
    )


@pytest.mark.parametrize("way", [over_lanes, lambda f, *a: jax.vmap(f)(*a)])
def test_every_lane_is_computed(way):
    x, y = jnp.arange(12.0).reshape(4, 3), jnp.arange(4.0)
    out = way(lambda x, y: {"sum": x.sum() + y}, x, y)
    np.testing.assert_array_equal(out["sum"], x.sum(-1) + y)


def test_bucket_sizes_cover_every_count():
    for lanes in range(1, 40):
        sizes = bucket_sizes(lanes)
        assert sizes[0] == 0 and sizes[-1] == lanes and len(sizes) <= 4


def test_relative_mismatch_is_free_of_scale():
    z, predicted, start = jax.random.normal(jax.random.key(0), (3, 16))
    one = mismatch("relative", z, predicted, start)
    np.testing.assert_allclose(
        mismatch("relative", 7 * z, 7 * predicted, 7 * start), one, rtol=1e-5
    )
    np.testing.assert_allclose(mismatch("relative", z, start, start), 1.0, rtol=1e-6)
    np.testing.assert_allclose(
        mismatch("l2", z, start, start), np.linalg.norm(z - start), rtol=1e-6
    )


@pytest.mark.parametrize("scale", [0.05, 5.0])
def test_an_adapting_tolerance_drops_plans_at_the_rate_asked_for(scale):
    rng = np.random.default_rng(0)
    push = {t: scale * rng.normal(size=2) for t in range(160)}
    config = SpeculationConfig(4, mismatch="l2", replan_rate=0.25)
    records = run(config, 160, replan=1.0, push=push)
    decisions = np.array([int(info.decision) for _, _, info, _ in records])
    compared = decisions != Decision.BLOCK_END
    # Each comparison moves log(tolerance) by gain (missed - rate), so over n of them the share
    # of misses is off by the logarithm's total change, divided by gain n.
    last = np.log(float(records[-1][1].tolerance))
    share = (decisions[compared] == Decision.MISMATCH).mean()
    expected = config.replan_rate + last / (config.adaptation_gain * compared.sum())
    np.testing.assert_allclose(share, expected, atol=1e-4)
    assert 0.15 < share < 0.45
    # A fixed limit of the same start would drop nearly none, or nearly all.
    assert np.exp(last) < 0.5 if scale < 1 else np.exp(last) > 2.0
    for (_, before, *_), (_, after, info, _) in zip(records, records[1:], strict=False):
        if int(info.decision) == Decision.BLOCK_END:
            assert float(after.tolerance) == float(before.tolerance)
        else:
            np.testing.assert_allclose(info.limit, before.tolerance, rtol=1e-6)


@pytest.mark.nans
def test_values_choose_among_plan_correction_and_prior():
    planned = PlannedStep(jnp.ones(2), jnp.zeros(2), *jnp.zeros((2, 2)), jnp.zeros(()))
    plan, corrected, prior = jnp.zeros(2), jnp.full(2, 0.5), jnp.full(2, -0.5)

    def decide(plan_value, corrected_value, prior_value, promised=1.0, preferred=0):
        table = {0.0: plan_value, 0.5: corrected_value, -0.5: prior_value}

        def value(z, actions):
            if len(actions) == 1:  # what the plan promised, at its own latent
                np.testing.assert_array_equal(z, planned.z_pred)
                return jnp.asarray([promised])
            np.testing.assert_array_equal(z, planned.z_real)
            return jnp.asarray([table[float(action[0])] for action in actions])

        decision, action = valued.weigh(
            value, 0.1, planned, jnp.asarray(preferred), corrected, prior
        )
        return Decision(int(decision)), float(action[0])

    planned = planned.replace(a_plan=plan)
    # Small differences change nothing; larger ones do.
    assert decide(1.0, 1.05, 1.08) == (Decision.VALUE_PLANNED, 0.0)
    assert decide(1.0, 1.05, 1.08, preferred=1) == (Decision.VALUE_CORRECTED, 0.5)
    assert decide(0.9, 1.05, 1.0) == (Decision.VALUE_CORRECTED, 0.5)
    assert decide(0.9, 0.9, 2.0, preferred=1) == (Decision.VALUE_PRIOR, -0.5)
    assert decide(1.0, 0.8, 0.7, preferred=1) == (Decision.VALUE_PLANNED, 0.0)
    # Poor is what no candidate makes up for.
    assert decide(0.8, 0.85, 0.8)[0] == Decision.VALUE_POOR
    assert decide(0.85, 0.85, 0.95, preferred=1)[0] == Decision.VALUE_CORRECTED
    assert decide(-1.0, -1.05, -2.0, promised=-1.0)[0] == Decision.VALUE_PLANNED
    assert decide(-1.2, -1.2, -1.2, promised=-1.0)[0] == Decision.VALUE_POOR
    assert decide(*[float("nan")] * 3)[0] == Decision.VALUE_POOR


def test_a_poor_step_plans_once_and_a_good_one_executes_the_best():
    def backwards(context, key):
        return jnp.clip(context.step.z_real, -1, 1)

    config = SpeculationConfig(4, value_tolerance=0.02)
    records = run(config, 8, correct=backwards, push={2: 3.0}, value=quality)
    decisions = [Decision(int(info.decision)) for _, _, info, _ in records]
    assert decisions[2] == Decision.VALUE_POOR
    assert [t for t, d in enumerate(decisions) if d == Decision.BLOCK_END] == [0, 6]
    assert int(records[2][2].offset) == 0 and not bool(records[2][2].block_end)
    kept = [t for t in range(8) if t not in (0, 2, 6)]
    # The corrector drives away from home, which values see.
    assert {decisions[t] for t in kept} <= {Decision.VALUE_PLANNED, Decision.VALUE_PRIOR}
    for t in kept:
        action, _, info, z = records[t]
        others = jnp.stack([info.planned.a_plan, MODEL.policy_mean(z)])
        assert float(quality(z, action[None])[0]) >= float(quality(z, others).max()) - 1e-5
