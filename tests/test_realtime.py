"""The control loop that waits for no one on a fake clock, and its benchmark end to end."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import specmpc_jax as sm
from experiments.support import realtime_plot
from models import ToyEnvironment, tiny_agent
from specmpc_jax import checkpointing
from specmpc_jax.evaluation import realtime
from specmpc_jax.evaluation.realtime import Time, periods_needed, realtime_row, run_episode
from test_binaries import fail, rows, succeed

TASK = "cartpole-balance"
KEY = jax.random.key(0)


class Watch:
    """Time that passes only when someone works or sleeps."""

    def __init__(self):
        self.now, self.slept = 0.0, []

    def sleep(self, seconds):
        self.slept.append(round(seconds, 6))
        self.now += seconds

    def time(self):
        return Time(lambda: self.now, self.sleep)


class Scripted:
    """Acts t/100 at its t-th call, which takes the scripted number of seconds."""

    def __init__(self, watch, durations):
        self.watch, self.durations, self.seen = watch, durations, []

    def initial_state(self, key):
        return 0

    def act(self, observation, state):
        self.seen.append(observation.copy())
        self.watch.now += self.durations[state % len(self.durations)]
        info = SimpleNamespace(outcome=sm.Outcome.REPLAN if state % 2 == 0 else sm.Outcome.ACCEPT)
        return np.full(2, (state + 1) / 100, np.float32), state + 1, info


class Recorder(ToyEnvironment):
    def reset(self, seed=None):
        self.actions, self.observations = [], [super().reset(seed)]
        return self.observations[0]

    def step(self, action):
        self.actions.append(round(100 * float(action[0])))
        transition = super().step(action)
        self.observations.append(transition.observation)
        return transition


def play(durations, **options):
    watch, environment = Watch(), Recorder(length=options.pop("length", 8))
    controller = Scripted(watch, durations)
    episode = run_episode(controller, environment, 5, KEY, 0.1, clock=watch.time(), **options)
    return episode, environment, controller, watch


@pytest.mark.parametrize(
    ("seconds", "periods"), [(0.0, 1), (0.05, 1), (0.1, 1), (0.11, 2), (0.2, 2), (0.35, 4)]
)
def test_periods_needed(seconds, periods):
    assert periods_needed(seconds, 0.1) == periods


def test_actions_in_time_are_all_executed():
    episode, environment, controller, watch = play([0.02])
    assert environment.actions == [1, 2, 3, 4, 5, 6, 7, 8]
    assert (episode.length, episode.late, episode.planner_calls) == (8, 0, 4)
    assert episode.episode_return == pytest.approx(0.36) and watch.slept == []


def test_late_actions_hold_the_one_before_and_observations_are_lost():
    advanced = []
    episode, environment, controller, _ = play([0.02, 0.25], advance=advanced.append)
    # Call 1 in time; call 2 takes three periods: twice its predecessor, then itself.
    assert environment.actions == [1, 1, 1, 2, 3, 3, 3, 4]
    assert (episode.length, episode.late) == (8, 4) and advanced == [1, 3, 1, 3]
    for seen, period in zip(controller.seen, (0, 1, 4, 5), strict=True):
        np.testing.assert_array_equal(seen, environment.observations[period])
    assert [round(s, 3) for s in episode.latencies] == [0.02, 0.25, 0.02, 0.25]
    row = realtime_row("blocks", 100.0, [episode])
    assert row["late_share"] == 0.5 and row["planner_calls_per_step"] == 0.25
    assert row["p50_ms"] == pytest.approx(135) and list(row) == list(realtime.REALTIME_COLUMNS)


def test_nothing_is_executed_before_the_first_action_is_ready():
    _, environment, _, _ = play([0.15])
    assert environment.actions == [0, 1, 1, 2, 2, 3, 3, 4]


def test_episodes_end_in_the_middle_of_a_late_action():
    episode, environment, _, _ = play([0.45], length=7)
    assert environment.actions == [0, 0, 0, 0, 1, 1, 1] and episode.late == 6
    episode, environment, _, _ = play([0.45], max_steps=3)
    assert environment.actions == [0, 0, 0] and episode.length == 3


def test_a_paced_loop_waits_for_the_end_of_the_period():
    _, environment, _, watch = play([0.02, 0.25], paced=True)
    assert environment.actions == [1, 1, 1, 2, 3, 3, 3, 4]
    # After the last step nothing is waited for.
    assert watch.slept == [0.08, 0.05, 0.08] and watch.now == pytest.approx(0.75)


def test_background_plans_count_as_planner_calls():
    agent = tiny_agent()
    # The program of test_async_planner, so that it is compiled once.
    with agent.pipelined_controller(3, "refine") as control:
        episode = run_episode(control, ToyEnvironment(), 5, KEY, 1e6, max_steps=5)
    assert (episode.planner_calls, episode.late) == (3, 0)


def test_periods_are_positive():
    with pytest.raises(sm.UserError, match="above 0"):
        run_episode(None, ToyEnvironment(), 0, KEY, 0.0)


def test_the_figure_has_a_line_for_each_mode_in_both_panels():
    table = [
        dict(mode=mode, period_ms=period, episodes=1, mean_return=period, late_share=1 / period)
        for mode in ("every_step", "pipelined")
        for period in (40.0, 10.0)
    ]
    drawing = realtime_plot.figure(table, "walker-walk")
    for axis, values in zip(drawing.axes, ([10, 40], [0.1, 0.025]), strict=True):
        assert [list(line.get_ydata()) for line in axis.lines] == [values] * 2
        assert [t.get_text() for t in axis.get_xticklabels()] == ["10", "40"]
    assert len(drawing.legends[0].get_texts()) == 2


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    directory = tmp_path_factory.mktemp("realtime")
    agent = tiny_agent(action_dim=1, observation_shape=(5,), tasks=(TASK,), episode_lengths=(500,))
    checkpointing.save_model(directory / "tiny", agent.params, agent.config)
    return directory


BINARY = ("experiments.benchmark_realtime", f"--task={TASK}", "--checkpoint=tiny", "--quiet")


def test_the_binary(workplace):
    said = succeed(
        *BINARY, "--num_samples=2", "--num_elites=1", "--num_pi_trajs=1", "--iterations=1",
        "--periods_ms=2000,0.0001", "--modes=every_step,pipelined,deadline", "--max_steps=2",
        "--exec_horizon=1", "--calibration_repeats=2", "--output=out",
        cwd=workplace,
    )  # fmt: skip
    table = json.loads((workplace / "out/realtime.json").read_text())
    assert [(row["mode"], row["period_ms"]) for row in table] == [
        ("every_step", 0.0001), ("every_step", 2000.0),
        ("pipelined", 0.0001), ("pipelined", 2000.0), ("deadline", 2000.0),
    ]  # fmt: skip
    by_cell = {(row["mode"], row["period_ms"]): row for row in table}
    # A period of 0.1 us is over long before any action: the whole episode is held.
    assert all(row["late_share"] == (row["period_ms"] < 1) for row in table)
    assert by_cell["every_step", 2000.0]["planner_calls_per_step"] == 1.0
    assert by_cell["pipelined", 2000.0]["planner_calls_per_step"] == 1.5
    assert "no row for deadline at 0.0001 ms" in said and "needs a budget of" in said
    assert len(rows(workplace / "out/realtime.csv")) == 5
    record = json.loads((workplace / "out/realtime.run.json").read_text())
    assert record["flags"]["exec_horizon"] == 1 and len(record["skipped"]) == 1
    assert (
        record["planners"][0]["planner"]["num_samples"] == 2 and record["provenance"]["seed"] == 0
    )
    assert (workplace / "out/realtime.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--periods_ms=10,0"], "numbers above 0"),
        (["--modes=pipelind"], "nearest are pipelined"),
        (["--corrector=nowhere"], "there is no nowhere"),
    ],
)
def test_bad_input_gets_one_line(workplace, arguments, said):
    assert said in fail(*BINARY, *arguments, "--output=bad", cwd=workplace)
    assert not (workplace / "bad").exists()
