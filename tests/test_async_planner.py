"""Planning a block ahead: the state machine on a linear toy, the thread on a tiny agent."""

from concurrent.futures import Executor, Future

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import specmpc_jax as sm
from models import ToyEnvironment, linear_model, tiny_agent
from specmpc_jax.config import PlannerConfig, SpeculationConfig
from specmpc_jax.planning import mppi
from specmpc_jax.speculation import async_planner, executor
from specmpc_jax.speculation.blocks import block_from_plan
from specmpc_jax.speculation.decisions import Outcome
from specmpc_jax.speculation.executor import Functions, Thresholds

PLANNER = PlannerConfig(num_samples=32, num_elites=4, num_pi_trajs=2, iterations=2)
MODEL = linear_model()
X = 3
CONFIG = SpeculationConfig(X, history_len=2)
A, C, R = Outcome.ACCEPT, Outcome.CORRECT, Outcome.REPLAN


def plan(z, mean, key):
    result = mppi.plan(MODEL, PLANNER, z, mean, mppi.draw_noise(key, PLANNER, 2, 2))
    return block_from_plan(MODEL, result, z, X, CONFIG.follow)


def constant(context, key):
    return jnp.full(2, 0.25)


def predict(z, action):
    return MODEL.step(z, action)[1]


def follow_with(correct):
    functions = Functions(plan, correct)
    return jax.jit(lambda limits, s, b, z: async_planner.follow(CONFIG, functions, limits, s, b, z))


# Compiled once for all tests; thresholds are arguments.
FOLLOW = {correct: follow_with(correct) for correct in (None, constant)}
REPLAN = jax.jit(lambda s, z: async_planner.replan(CONFIG, Functions(plan, None), s, z))
AHEAD = jax.jit(lambda s, a: async_planner.plan_ahead(CONFIG, Functions(plan, None), predict, s, a))


def run(steps, *, correct=None, accept=0.0, replan=np.inf, push=None):
    """Plays the edge without threads; `push[t]` moves the real state at step t."""
    limits = Thresholds(*(jnp.broadcast_to(jnp.float32(v), (2 * X,)) for v in (accept, replan)))
    state = async_planner.initial_state(CONFIG, jax.random.key(0), 2, 2, PLANNER.horizon)
    z, arriving, records = jnp.array([1.0, -0.5]), None, []
    for t in range(steps):
        z = z + (push or {}).get(t, 0.0)
        info, outcome = None, int(R)
        if arriving is not None:
            action, after, info = FOLLOW[correct](limits, state, arriving, z)
            outcome = int(info.outcome)
        if outcome == R:
            action, after, _ = REPLAN(state, z)
        state = after
        records.append(dict(action=action, z=z, outcome=outcome, state=state, info=info))
        if int(state.execution.offset) == 1:
            arriving = AHEAD(state, action)
        z = predict(z, action)
    return records


def outcomes(records):
    return [record["outcome"] for record in records]


def test_a_perfect_model_gives_the_actions_of_planning_at_block_starts():
    records = run(10)
    limits = Thresholds(jnp.zeros(X), jnp.full(X, jnp.inf))
    step = jax.jit(lambda s, z: executor.step(CONFIG, Functions(plan, None), limits, s, z))
    state = executor.initial_state(CONFIG, jax.random.key(0), 2, 2, PLANNER.horizon)
    z = jnp.array([1.0, -0.5])
    for t, record in enumerate(records):
        action, state, _ = step(state, z)
        np.testing.assert_allclose(record["action"], action, atol=1e-5, err_msg=f"step {t}")
        np.testing.assert_allclose(
            record["state"].execution.block.mean, state.block.mean, atol=1e-5
        )
        z = predict(z, action)
    assert outcomes(records) == [R] + [A] * 9
    offsets = [0, 1, 2, 3, 4, 5, 3, 4, 5, 3]
    assert [int(r["state"].execution.window.offset[-1]) for r in records] == offsets


def test_a_push_before_a_block_begins_drops_the_plan_that_arrives():
    records = run(8, replan=0.1, push={3: 3.0})
    assert outcomes(records) == [R, A, A, R, A, A, A, A]
    assert bool(records[3]["info"].block_end) and float(records[3]["info"].mismatch) > 0.1
    # Planned on the spot: what follows counts from the real latent again.
    assert int(records[3]["state"].age) == 0 and int(records[6]["state"].age) == X
    np.testing.assert_array_equal(records[3]["state"].origin, records[3]["z"])


def test_a_push_within_a_block_drops_it_and_begins_another():
    records = run(9, replan=0.1, push={4: 3.0})
    assert outcomes(records) == [R, A, A, A, R, A, A, A, A]
    assert [int(r["state"].execution.offset) for r in records] == [1, 2, 3, 1, 1, 2, 3, 1, 2]


def test_blocks_are_planned_from_the_prediction_of_the_last_real_latent():
    """An accepted mismatch must not live on in the next prediction."""
    records = run(7, push={3: 0.5})
    start = records[3]
    z = start["z"]
    for t in (3, 4, 5):
        z = predict(z, records[t]["action"])
    assert float(start["info"].mismatch) > 0.1
    np.testing.assert_allclose(records[6]["info"].planned.z_pred, z, atol=1e-5)
    np.testing.assert_allclose(records[6]["info"].mismatch, 0.0, atol=1e-4)
    # Within the block the plan is judged by what it was made for, over its whole age.
    distance = np.linalg.norm(records[4]["z"] - records[4]["info"].planned.z_pred)
    travelled = np.linalg.norm(records[4]["z"] - records[0]["z"])
    np.testing.assert_allclose(records[4]["info"].mismatch, distance / travelled, rtol=1e-5)


def test_thresholds_and_corrector_see_the_age_of_the_plan():
    accept = np.array([np.inf, np.inf, np.inf, 0.0, np.inf, np.inf], np.float32)
    records = run(7, correct=constant, accept=accept, push={3: 0.1, 6: 0.1})
    assert outcomes(records) == [R, A, A, C, A, A, C]
    assert int(records[3]["info"].offset) == X
    np.testing.assert_array_equal(records[3]["action"], np.full(2, 0.25, np.float32))
    # The next plan counts on the corrected action.
    z = predict(records[3]["z"], records[3]["action"])
    for t in (4, 5):
        z = predict(z, records[t]["action"])
    np.testing.assert_allclose(records[6]["info"].planned.z_pred, z, atol=1e-5)


class AtOnce(Executor):
    """Runs work when it is handed in: every plan arrives early."""

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        future.set_result(fn(*args, **kwargs))
        return future


class LastMoment(Executor):
    """Runs work when its result is asked for: every plan is late."""

    def submit(self, fn, /, *args, **kwargs):
        future = Future()

        def result(timeout=None):
            if not Future.done(future):
                future.set_result(fn(*args, **kwargs))
            return Future.result(future)

        future.result = result
        return future


AGENT = tiny_agent()
# Random weights predict badly: limits at which every kind of outcome occurs.
TAU = [40.0, 40.0, 1.7, 1.2, 1.2]


def controller(background, **options):
    # One program for all tests.
    return AGENT.pipelined_controller(X, "refine", background=background, **options)


def act_through(control, steps=20):
    environment = ToyEnvironment(length=steps)
    observation, records = environment.reset(3), []
    state = control.initial_state(jax.random.key(1))
    for _ in range(steps):
        action, state, info = control.act(observation, state)
        records.append((np.asarray(action), int(info.outcome), info))
        observation = environment.step(np.asarray(action)).observation
    return records


def test_early_and_late_plans_give_the_same_numbers():
    runs = {}
    for name, background in (("early", AtOnce()), ("late", LastMoment()), ("thread", None)):
        with controller(background, tau_replan=TAU) as control:
            runs[name] = act_through(control)
    for name in ("late", "thread"):
        for (action, outcome, _), (other, its, _) in zip(runs["early"], runs[name], strict=True):
            np.testing.assert_array_equal(action, other)
            assert outcome == its
    # Plans that are dropped within a block, on arrival, and not at all.
    kinds = {(int(info.outcome), bool(info.block_end)) for *_, info in runs["early"][1:]}
    assert kinds == {(C, False), (C, True), (R, False), (R, True)}
    late = [info.late for *_, info in runs["late"]]
    assert late == [bool(info.block_end) and t > 0 for t, (*_, info) in enumerate(runs["late"])]
    assert not any(info.late for *_, info in runs["early"])


def test_planner_calls_are_counted_when_they_begin():
    with controller(AtOnce()) as control:
        calls = [info.planner_calls for *_, info in act_through(control, 7)]
    assert calls == [2, 0, 0, 1, 0, 0, 1]


def test_a_failing_plan_is_heard_of():
    class Failing(AtOnce):
        def submit(self, fn, /, *args, **kwargs):
            future = Future()
            future.set_exception(RuntimeError("no device"))
            return future

    with pytest.raises(RuntimeError, match="no device"):
        act_through(controller(Failing()), X + 1)


def test_bad_requests_are_refused():
    control = controller(AtOnce())
    with pytest.raises(sm.UserError, match="one key"):
        control.initial_state(jax.random.split(jax.random.key(0), 2))
    with pytest.raises(sm.UserError, match=r"expect \(4,\)"):
        control.act(np.zeros(5), control.initial_state(jax.random.key(0)))
    with pytest.raises(sm.UserError, match="at least 1"):
        AGENT.pipelined_controller(0)
    with pytest.raises(sm.UserError, match="1..5"):
        AGENT.pipelined_controller(X, tau_replan=[0.5, 0.5])
