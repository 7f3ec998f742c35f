"""The robot loop on a robot of numbers, and the notebook from top to bottom."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
PERIOD = 0.04


@pytest.fixture(scope="module")
def robot_loop():
    spec = importlib.util.spec_from_file_location("robot_loop", EXAMPLES / "robot_loop.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


class World:
    """Time, a robot and a controller that takes a chosen time for each action."""

    def __init__(self, durations, observations):
        self.now, self.durations = 0.0, list(durations)
        self.observations = list(observations)
        self.commands, self.periods_begun_at = [], []

    def clock(self):
        return self.now

    def sleep(self, seconds):
        assert seconds >= 0
        self.now += seconds

    def observe(self):
        return np.array([self.observations.pop(0)])

    def command(self, action):
        self.commands.append((round(self.now, 6), float(action[0])))

    def pass_period(self):
        self.periods_begun_at.append(round(self.now, 6))

    def initial_state(self, key):
        return 0

    def act(self, observation, state):
        self.now += self.durations.pop(0)
        blind = not np.isfinite(observation).all()
        return np.ones(1), state + 1, SimpleNamespace(blind=blind)


def control(module, world, periods, max_blind=3):
    return module.control(
        world, world, PERIOD, periods, max_blind, clock=world.clock, sleep=world.sleep
    )


def test_actions_in_time_hold_the_period(robot_loop):
    world = World([0.01, 0.03, 0.0], [0.0] * 3)
    report = control(robot_loop, world, 3)
    assert world.periods_begun_at == [0.04, 0.08, 0.12]
    assert [time for time, _ in world.commands] == [0.01, 0.07, 0.08]
    assert (report.periods, report.late, report.blind, report.stopped) == (3, 0, 0, False)
    np.testing.assert_allclose(report.latencies_ms, [10, 30, 0], atol=1e-6)


def test_a_late_action_takes_up_the_periods_that_it_missed(robot_loop):
    world = World([0.1, 0.01], [0.0] * 2)
    report = control(robot_loop, world, 4)
    assert report.late == 1 and report.periods == 4
    # Two periods are over when the action comes at 0.1, the third ends at 0.12.
    assert world.periods_begun_at == [0.1, 0.1, 0.12, 0.16]
    assert [time for time, _ in world.commands] == [0.1, 0.13]


def test_dead_sensors_stop_the_robot_and_one_good_reading_saves_it(robot_loop):
    nan = np.nan
    world = World([0.01] * 7, [0.0, nan, nan, 0.0, nan, nan, nan])
    report = control(robot_loop, world, 100, max_blind=3)
    assert report.stopped and report.blind == 5 and report.periods == 6
    assert world.commands[-1][1] == 0.0 and world.commands[-2][1] == 1.0


def cells():
    notebook = json.loads((EXAMPLES / "tour.ipynb").read_text(encoding="utf-8"))
    return notebook["cells"]


def test_notebook_is_stored_without_outputs_and_links_lead_somewhere():
    for cell in cells():
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            compile(source, "tour.ipynb", "exec")
        for link in re.findall(r"\]\(([^)]+)\)", source):
            assert (EXAMPLES / link).exists(), link


@pytest.mark.slow
def test_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for number, cell in enumerate(cells()):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), namespace)
    said = capsys.readouterr().out
    assert re.search(r"\d+ plans for 90 steps", said)
    open_loop, corrected = map(float, re.findall(r"reward ([\d.]+) of at most 300", said))
    assert corrected > open_loop
    assert re.search(r"ACCEPT +blind True", said) and "nan" not in said


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [[], ["--controller=pipelined", "--sensor_loss=0.2"]])
def test_robot_loop_runs(arguments):
    command = [sys.executable, EXAMPLES / "robot_loop.py", "--period_ms=300", "--seconds=6"]
    result = subprocess.run(
        [*command, "--max_blind=20", *arguments],
        env=os.environ | {"PYTHONPATH": str(EXAMPLES.parents[1])},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    periods, blind = re.search(r"(\d+) periods.* (\d+) blind", result.stdout).groups()
    assert int(periods) >= 20 and (int(blind) > 0) == bool(arguments)
