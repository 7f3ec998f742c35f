"""Rollouts, collection, statistics and variants on a toy environment."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import tiny_agent, toy_batch
from specmpc_jax.config import CorrectorConfig, SpeculationConfig
from specmpc_jax.controller import looked_ahead_value
from specmpc_jax.correctors import registry as corrector_registry
from specmpc_jax.correctors import unlearned
from specmpc_jax.correctors.collection import collect
from specmpc_jax.correctors.corrector import Corrector
from specmpc_jax.errors import UserError
from specmpc_jax.evaluation import statistics, variants
from specmpc_jax.evaluation.rollout import run_episodes
from specmpc_jax.planning import fused_model
from specmpc_jax.speculation import calibration
from specmpc_jax.speculation.decisions import Decision

AGENT = tiny_agent()
SHORT = AGENT.with_planner(horizon=1)  # compiles in less time
SEEDS = range(50, 55)
KEY = jax.random.key(0)


@pytest.mark.parametrize("lanes", [2, 4, 5])
def test_episodes_do_not_depend_on_the_number_of_lanes(lanes):
    control = AGENT.controller(3)
    single = run_episodes(control, toy_batch(1), SEEDS, KEY)
    side_by_side = run_episodes(control, toy_batch(lanes), SEEDS, KEY)
    for one, other in zip(single.episodes, side_by_side.episodes, strict=True):
        assert (one.env_seed, one.length, one.planner_calls) == (
            other.env_seed,
            other.length,
            other.planner_calls,
        )
        np.testing.assert_allclose(one.episode_return, other.episode_return, rtol=1e-3, atol=1e-3)
    assert len(single.latencies) == 5 * 12 - 1


def test_counts_add_up():
    control = AGENT.controller(3, "refine", tau_replan=0.7)
    outcome = {0: 0, 1: 0, 2: 0}

    def observe(step):
        outcome[int(step.info.outcome[0])] += 1

    episodes = run_episodes(control, toy_batch(1), SEEDS, KEY, observe).episodes
    assert sum(e.length for e in episodes) == sum(outcome.values()) == 60
    assert sum(e.planner_calls for e in episodes) == outcome[2]
    assert sum(e.corrected for e in episodes) == outcome[1]
    block_ends = sum(e.planner_calls - e.mismatch_replans for e in episodes)
    assert 0 < sum(e.mismatch_replans for e in episodes) and block_ends >= 5


def test_episodes_that_end_early_stop_counting():
    episodes = run_episodes(AGENT.controller(), toy_batch(3, limit=1.5), SEEDS, KEY).episodes
    lengths = [e.length for e in episodes]
    assert min(lengths) < 12
    cut = run_episodes(AGENT.controller(), toy_batch(3), SEEDS, KEY, max_steps=4).episodes
    assert [e.length for e in cut] == [4] * 5


def test_collected_rows_are_complete_and_labelled():
    data, episodes = collect(
        AGENT.controller(3), toy_batch(2), SEEDS, KEY, {"teacher": AGENT.fingerprint}, 4
    )
    assert len(data) == sum(e.length for e in episodes) == 60 and data.num_episodes == 5
    assert (data["round"] == 4).all()
    for episode in range(5):
        rows = data["episode"] == episode
        np.testing.assert_array_equal(data["step"][rows], np.arange(12))
        np.testing.assert_array_equal(data["offset"][rows], np.arange(12) % 3)
    start = data["offset"] == 0
    np.testing.assert_array_equal(data["z_pred"][start], data["z_real"][start])
    assert (data["distance"][start] == 0).all() and (data["distance"][~start] > 0).all()
    assert np.abs(data["a_teacher"] - data["a_plan"])[~start].mean() > 0
    index, mask = data.windows(4)
    np.testing.assert_array_equal(
        data["episode"][index][mask], np.repeat(data["episode"], 4)[mask.ravel()]
    )


def test_labelling_leaves_the_executing_planner_alone():
    control = AGENT.controller(3)
    run_key = jax.random.split(KEY)[0]
    plain = run_episodes(control, toy_batch(2), SEEDS, run_key).episodes
    _, labelled = collect(control, toy_batch(2), SEEDS, KEY, {"teacher": ""})
    assert plain == labelled


def test_statistics_on_known_numbers():
    values = np.arange(1.0, 9.0)
    summary = statistics.summarise_returns(values)
    assert summary["mean_return"] == summary["median_return"] == summary["iqm_return"] == 4.5
    assert summary["min_return"] == 1 and summary["ci_low"] < 4.5 < summary["ci_high"]
    assert statistics.interquartile_mean(np.array([0.0, 1, 2, 100])) == 1.5
    assert statistics.bootstrap_interval(np.full(5, 3.0)) == (3.0, 3.0)
    assert np.isnan(statistics.bootstrap_interval(np.ones(1))).all()
    paired = statistics.paired_difference(values + 2, values)
    assert paired == {"paired_difference": 2, "paired_ci_low": 2, "paired_ci_high": 2}
    assert statistics.summarise_latency(np.full(9, 0.002))["p99_ms"] == pytest.approx(2.0)


def test_bootstrap_intervals_cover_the_true_mean():
    rng = np.random.default_rng(0)
    hits = [
        low <= 10.0 <= high
        for low, high in (statistics.bootstrap_interval(rng.normal(10, 3, 25)) for _ in range(60))
    ]
    assert 0.8 < np.mean(hits) <= 1.0


def test_quantiles_become_thresholds():
    offset = np.repeat([0, 1, 2], 101)
    distance = np.concatenate([np.zeros(101), np.linspace(0, 1, 101), np.linspace(0, 2, 101)])
    quantiles = calibration.mismatch_quantiles(distance, offset)
    np.testing.assert_allclose(
        calibration.thresholds_at(quantiles, 0.9, 5), [0, 0.9, 1.8, 1.8, 1.8]
    )
    with pytest.raises(UserError, match="between 0 and 1"):
        calibration.thresholds_at(quantiles, 1.5, 3)
    with pytest.raises(UserError, match="no mismatch"):
        calibration.thresholds_at({}, 0.5, 3)


def test_variant_names():
    assert variants.parse("baseline").exec_horizon == 1
    assert variants.parse("5_step_corrector_temporal").corrector == "temporal"
    gated = variants.parse("3_step_bc_replan10")
    assert (gated.exec_horizon, gated.corrector, gated.replan_percent) == (3, "bc", 10)
    for name in variants.DEFAULT:
        assert variants.parse(name).name == name
    for name in ("3_step", "0_step_naive", "3_step_valued", "3_step_replan5", "x"):
        with pytest.raises(UserError, match="variants are"):
            variants.parse(name)
    for name in ("3_step_corrector_replan101", "3_step_adaptive0", "3_step_adaptive100"):
        with pytest.raises(UserError, match="impossible"):
            variants.parse(name)
    with pytest.raises(UserError, match="more than 100%"):
        variants.parse("3_step_bc_accept60_replan50")
    all_suffixes = variants.parse("5_step_gated_accept30_replan5_valued")
    assert all_suffixes == variants.Variant(all_suffixes.name, 5, "gated", 5, 30, 0, 2)
    assert variants.parse("3_step_adaptive20").adaptive_percent == 20
    assert variants.parse("3_step_naive_valued25").value_percent == 25
    with pytest.raises(UserError, match="two_tower"):
        variants.make_controller(AGENT, variants.parse("3_step_corrector"), {})
    control = variants.make_controller(AGENT, variants.parse("2_step_refine"), {})
    assert control.program.speculation == SpeculationConfig(2, history_len=1)
    for name, config in unlearned.CONFIGS.items():
        control = variants.make_controller(AGENT, variants.parse(f"2_step_{name}"), {})
        assert control.program.corrector == config and unlearned.kind(config) == name


def made(name, correctors=None):
    return variants.make_controller(SHORT, variants.parse(name), correctors or {})


def test_suffixes_become_thresholds_of_each_offset():
    config = CorrectorConfig(kind="gated", latent_dim=16, action_dim=2, hidden_dim=8, num_layers=1)
    levels = np.linspace(0, 1, 101)
    quantiles = {1: levels.tolist(), 2: (2 * levels).tolist()}
    params = corrector_registry.init(config, KEY)
    gated = Corrector(config, params, AGENT.fingerprint, quantiles)
    limits = made("3_step_gated_accept30_replan10", {"gated": gated}).arrays.thresholds
    np.testing.assert_allclose(limits.accept, [0, 0.3, 0.6], rtol=1e-6)
    np.testing.assert_allclose(limits.replan, [0, 0.9, 1.8], rtol=1e-6)
    limits = made("3_step_gated", {"gated": gated}).arrays.thresholds
    assert (limits.accept == 0).all() and np.isinf(limits.replan[1:]).all()
    adaptive = made("3_step_gated_adaptive20", {"gated": gated})
    assert adaptive.program.speculation.replan_rate == 0.2
    np.testing.assert_array_equal(adaptive.arrays.thresholds.replan[1:], 1.0)
    with pytest.raises(UserError, match="needs a corrector"):
        made("3_step_naive_accept30")


@pytest.mark.parametrize("name", ["5_step_naive", "5_step_adaptive30", "4_step_naive_valued"])
def test_variants_beyond_the_horizon_run_to_the_end(name):
    decisions, limits = [], []

    def observe(step):
        decisions.append(Decision(int(step.info.decision[0])))
        limits.append(float(step.info.limit[0]))

    result = run_episodes(made(name), toy_batch(1), SEEDS, KEY, observe)
    assert [e.length for e in result.episodes] == [12] * 5
    count = {each: decisions.count(each) for each in Decision}
    totals = {
        "mismatch_replans": count[Decision.MISMATCH], "value_replans": count[Decision.VALUE_POOR],
    }  # fmt: skip
    for field, total in totals.items():
        assert sum(getattr(e, field) for e in result.episodes) == total
    if name == "5_step_naive":
        assert count[Decision.BLOCK_END] == 15 and count[Decision.ACCEPTED] == 45
    elif name == "5_step_adaptive30":
        # Random weights predict badly: the tolerance rises within each episode, from 1 on.
        assert count[Decision.MISMATCH] > 0 and count[Decision.BLOCK_END] >= 5
        for episode in np.reshape(limits, (5, 12)):
            assert episode[0] == 1 < episode[-1]
    else:
        assert sum(count[d] for d in Decision if d.name.startswith("VALUE")) > 0
        assert count[Decision.CORRECTED] == count[Decision.ACCEPTED] == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"replan_rate": 0.1}, "cannot adapt its tolerance"),
        ({"value_tolerance": 0.1}, "cannot decide by value"),
        ({"use_planner": False, "exec_horizon": 1}, "cannot let the policy prior act alone"),
    ],
)
def test_the_pipelined_controller_refuses_what_it_cannot_do(options, said):
    with pytest.raises(UserError, match=said) as caught:
        AGENT.pipelined_controller(**options)
    assert "\n" not in str(caught.value)


def test_values_look_one_step_ahead_with_the_whole_ensemble():
    z, actions = jax.random.normal(KEY, (16,)), jax.random.uniform(KEY, (4, 2))
    for agent in (AGENT, tiny_agent(num_q=2)):
        model = fused_model.planning_model(agent.config, agent.planning_params, 0)
        values = jax.jit(functools.partial(looked_ahead_value, model))(z, actions)
        start = jnp.broadcast_to(z, (4, 16))
        following = agent.next(start, actions)
        onward = agent.q(following, agent.policy_mean(following)).mean(0)
        expected = agent.reward(start, actions) + model.discount * onward
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)


def test_a_rate_needs_something_to_adapt():
    for options in ({"mismatch": "l2"}, {"tau_replan": np.inf}):
        with pytest.raises(UserError, match="replan_rate needs"):
            AGENT.controller(3, replan_rate=0.1, **options)
