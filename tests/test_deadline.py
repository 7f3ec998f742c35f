"""Planning within a budget: choice and governor are pure, time is a fake clock's."""

import jax
import numpy as np
import pytest

import specmpc_jax as sm
from models import TINY_PLANNER, ToyEnvironment, tiny_agent
from specmpc_jax.config import PlannerConfig
from specmpc_jax.deadline_controller import DeadlineController, calibrate
from specmpc_jax.planning import deadline
from specmpc_jax.planning.deadline import GovernorConfig, GovernorState, Timing

FULL = PlannerConfig()
FAST = GovernorConfig(misses=2, window=5, patience=3, max_patience=12)


def timing(iterations, samples, latency):
    return Timing(deadline.scaled_planner(FULL, iterations, samples), latency)


TABLE = [timing(2, 128, 12.0), timing(6, 512, 80.0), timing(3, 256, 25.0), timing(4, 256, 31.0)]


def test_elites_and_policy_sequences_scale_with_the_samples():
    planners = deadline.default_planners(FULL)
    assert planners[0] == FULL and len(set(planners)) == len(planners)
    for planner in planners:
        assert planner.num_elites * 8 == planner.num_samples
        assert planner.num_pi_trajs == round(24 * planner.num_samples / 512)
    work = [p.iterations * p.num_samples for p in planners]
    assert work == sorted(work, reverse=True) and work[-1] < work[0] / 20
    smallest = deadline.scaled_planner(TINY_PLANNER, 1, 2)
    assert (smallest.num_elites, smallest.num_pi_trajs) == (1, 1)
    for tiny in deadline.default_planners(
        PlannerConfig(num_samples=2, num_elites=1, num_pi_trajs=0)
    ):
        assert tiny.num_samples == 2 and tiny.num_pi_trajs == 0


@pytest.mark.parametrize(
    ("budget", "best", "rungs"), [(100, 80.0, 4), (79, 31.0, 3), (25, 25.0, 2), (12, 12.0, 1)]
)
def test_the_best_planner_that_fits_is_on_top(budget, best, rungs):
    ladder = deadline.ladder(TABLE, budget)
    assert ladder[0].latency_ms == best and len(ladder) == rungs
    latencies = [rung.latency_ms for rung in ladder]
    assert latencies == sorted(latencies, reverse=True)


def test_a_planner_that_is_worse_and_no_faster_is_no_rung():
    assert len(deadline.ladder([*TABLE, timing(2, 256, 30.0)], 100)) == 4


@pytest.mark.parametrize("budget", [11.9, 1.0])
def test_no_planner_fits(budget):
    with pytest.raises(sm.UserError, match=r"2 iterations, 128 samples\) needs a budget of 12 ms"):
        deadline.ladder(TABLE, budget)


def test_the_budget_that_the_error_names_is_enough():
    table = [timing(2, 128, 12.3456)]
    with pytest.raises(sm.UserError, match="of 12.4 ms"):
        deadline.ladder(table, 12.3)
    assert deadline.ladder(table, 12.4)


@pytest.mark.parametrize("budget", [0.0, -1.0, float("nan")])
def test_budgets_are_positive(budget):
    with pytest.raises(sm.UserError, match="above 0"):
        deadline.ladder(TABLE, budget)


def govern(lates, state=None, rungs=3, config=FAST):
    state, path = state or GovernorState(), []
    for late in lates:
        state = deadline.observe(config, rungs, state, bool(late))
        path.append(state.rung)
    return path, state


def test_two_misses_in_the_window_go_down_one_does_not():
    assert govern([1, 0, 0, 0, 0, 1, 0, 0])[0] == [0] * 8
    assert govern([1, 0, 0, 1])[0] == [0, 0, 0, 1]
    assert govern([1] * 8)[0] == [0, 1, 1, 2, 2, 2, 2, 2]  # the last rung is kept


def test_climbing_needs_patience_and_a_failed_climb_doubles_it():
    path, state = govern([1, 1, 0, 0, 0])
    assert path == [0, 1, 1, 1, 0]
    path, state = govern([1, 1, 0, 0, 0, 0, 0, 0], state)
    assert path == [0, 1, 1, 1, 1, 1, 1, 0]  # six in time now, not three
    path, state = govern([1, 1] + 12 * [0], state)
    assert path == [0] + 12 * [1] + [0]
    _, state = govern(4 * [0], state)  # the climb lasted: patience is as it was
    path, _ = govern([1, 1, 0, 0, 0], state)
    assert path == [0, 1, 1, 1, 0]


def test_waiting_on_a_low_rung_does_not_wear_patience_out():
    state = GovernorState(rung=1, patience=12)
    path, _ = govern(12 * [0], state)
    assert path == 11 * [1] + [0]


def test_bad_governors_are_refused():
    for options in ({"misses": 0}, {"misses": 30}, {"patience": 0}, {"patience": 900}):
        with pytest.raises(sm.UserError):
            GovernorConfig(**options)


class FakeClock:
    """Tells the time that its `steps` prescribe, one entry for each measured action."""

    def __init__(self, durations):
        self._durations, self.now, self._running = iter(durations), 0.0, False

    def __call__(self):
        if self._running:
            self.now += next(self._durations) / 1e3
        self._running = not self._running
        return self.now


AGENT = tiny_agent()
PLANNERS = (TINY_PLANNER, deadline.scaled_planner(TINY_PLANNER, 1, 8))


def test_calibration_compiles_first_and_takes_the_percentile():
    # One call each to compile, then three rounds.
    clock = FakeClock([900, 900, 10, 2, 20, 4, 30, 6])
    advanced = []
    timings = calibrate(
        AGENT.controller(2), PLANNERS, 3, percentile=50.0, clock=clock, advance=advanced.append
    )
    assert [round(t.latency_ms, 6) for t in timings] == [20.0, 4.0]
    assert [t.planner for t in timings] == list(PLANNERS) and len(advanced) == 5


def test_late_plans_change_the_planner_and_the_plan_goes_on():
    timings = [Timing(PLANNERS[0], 9.0), Timing(PLANNERS[1], 4.0)]
    # Every second step plans: steps 0 and 2 are late, the steps between plan nothing.
    durations = [11, 1, 11, 1, 3, 50, 3, 1, 3, 1, 9, 1]
    control = DeadlineController(
        AGENT.controller(2), timings, 10.0, FAST, clock=FakeClock(durations)
    )
    environment = ToyEnvironment()
    observation, state = environment.reset(0), control.initial_state(jax.random.key(0))
    rungs, late, latencies = [], [], []
    for _ in durations:
        action, state, info = control.act(observation, state)
        rungs.append(info.rung)
        late.append(info.late)
        latencies.append(round(info.latency_ms))
        observation = environment.step(np.asarray(action)).observation
    assert latencies == durations
    assert late == [d > 10 for d in durations]
    assert rungs == [0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0]


def test_the_top_rung_acts_as_the_ordinary_controller():
    control = AGENT.deadline_controller(10.0, 2, timings=[Timing(TINY_PLANNER, 9.0)])
    observation = ToyEnvironment().reset(0)
    action, _, info = control.act(observation, control.initial_state(jax.random.key(0)))
    plain = AGENT.controller(2)
    expected, _, _ = plain.act(observation, plain.initial_state(jax.random.key(0)))
    np.testing.assert_array_equal(action, expected)
    assert info.rung == 0 and int(info.outcome) == sm.Outcome.REPLAN


def test_bad_requests_are_refused():
    with pytest.raises(sm.UserError, match="needs a budget of 9 ms"):
        AGENT.deadline_controller(8.0, timings=[Timing(TINY_PLANNER, 9.0)])
    with pytest.raises(sm.UserError, match="horizon"):
        calibrate(AGENT.controller(), [TINY_PLANNER, PlannerConfig(horizon=4)])
    with pytest.raises(sm.UserError, match="at least one planner"):
        deadline.ladder([], 5.0)
