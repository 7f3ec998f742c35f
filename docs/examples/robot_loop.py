"""A control loop with a latency budget, as on a robot: fixed periods, late actions, dead sensors.

    python docs/examples/robot_loop.py --period_ms=40 --seconds=10
    python docs/examples/robot_loop.py --period_ms=40 --controller=pipelined --sensor_loss=0.05

The robot is simulated, in real time. Replace `Robot` by your drivers; the loop stays.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np

import specmpc_jax as sm
from specmpc_jax.envs import registry


class Hardware(Protocol):
    """What the loop needs of a robot."""

    def observe(self) -> np.ndarray:
        """The newest observation `[D]`; NaN where a sensor says nothing."""
        ...

    def command(self, action: np.ndarray) -> None:
        """Sends an action `[A]`, which the motors hold until the next one."""
        ...

    def pass_period(self) -> None:
        """Called once a period, as time passes: a simulation steps, hardware does nothing."""
        ...


class Robot:
    """A task of the control suite in the place of hardware, with sensors that may fail."""

    def __init__(self, task: str, sensor_loss: float = 0.0, seed: int = 0) -> None:
        self._environment = registry.make(task)
        self._observation = self._environment.reset(seed)
        self._action = np.zeros(self._environment.spec.action_dim)
        self._random = np.random.default_rng(seed)
        self._loss = sensor_loss
        self.total_reward = 0.0

    def observe(self) -> np.ndarray:
        """The state, or NaNs with the chosen probability."""
        lost = self._random.random() < self._loss
        return np.full_like(self._observation, np.nan) if lost else self._observation

    def command(self, action: np.ndarray) -> None:
        """Sets what the motors do from the next period on."""
        self._action = action

    def pass_period(self) -> None:
        """One agent step of the simulation; episodes follow each other."""
        transition = self._environment.step(self._action)
        self._observation = transition.observation
        self.total_reward += transition.reward
        if transition.terminated or transition.truncated:
            self._observation = self._environment.reset()


@dataclasses.dataclass
class Report:
    """What happened in a run of the loop."""

    periods: int = 0
    late: int = 0  # actions that missed the end of their period
    blind: int = 0  # steps without a finite observation
    stopped: bool = False  # too many of them in a row
    latencies_ms: list[float] = dataclasses.field(default_factory=list)


def control(
    controller: Any,
    robot: Hardware,
    period: float,
    periods: int,
    max_blind: int,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Report:
    """Controls a robot for a number of periods.

    An action is sent as soon as it is there. One that is late takes up the next
    periods, in which the motors hold the last command; the loop does not try to
    catch up, since old observations are worth nothing. After `max_blind` steps in
    a row without a usable observation it sends zeros and stops.

    Args:
      controller: any controller of the library, compiled by one call before.
      robot: what is controlled.
      period: seconds from one observation to the next.
      periods: when to end.
      max_blind: blind steps in a row that the robot may go on with.
      clock: seconds.
      sleep: waits for seconds.
    """
    report, blind_in_a_row = Report(), 0
    state = controller.initial_state(jax.random.key(0))
    deadline = clock() + period
    while report.periods < periods:
        begin = clock()
        action, state, info = controller.act(robot.observe(), state)
        action = np.asarray(action)  # waits until it is computed
        robot.command(action)
        now = clock()
        report.latencies_ms.append(1e3 * (now - begin))
        blind_in_a_row = blind_in_a_row + 1 if bool(info.blind) else 0
        report.blind += bool(info.blind)
        if blind_in_a_row >= max_blind:
            robot.command(np.zeros_like(action))
            report.stopped = True
            break
        report.late += now > deadline
        in_time = False
        while not in_time:  # to the end of the period in which the action came
            sleep(max(deadline - clock(), 0.0))
            robot.pass_period()
            report.periods += 1
            in_time = deadline >= now
            deadline += period
    return report


def warm_up(controller: Any, robot: Hardware, steps: int = 8) -> None:
    """Acts in no hurry until everything is compiled; not on the robot that matters."""
    state = controller.initial_state(jax.random.key(0))
    for _ in range(steps):
        action, state, _ = controller.act(robot.observe(), state)
        robot.command(np.asarray(action))
        robot.pass_period()


def make_controller(arguments: argparse.Namespace) -> Any:
    """The controller that the command line asks for."""
    agent = sm.load(arguments.checkpoint)
    if arguments.controller == "pipelined":
        return agent.pipelined_controller(exec_horizon=3, corrector="refine", tau_replan=0.8)
    # A fifth of the period is left for sensors, motors and the rest of the loop.
    return agent.deadline_controller(0.8 * arguments.period_ms, exec_horizon=1)


def main(arguments: argparse.Namespace) -> None:
    """Calibrates or compiles, controls, and reports."""
    controller = make_controller(arguments)
    robot = Robot(arguments.task, arguments.sensor_loss)
    warm_up(controller, Robot(arguments.task, sensor_loss=0.3))
    period = arguments.period_ms / 1e3
    report = control(
        controller, robot, period, round(arguments.seconds / period), arguments.max_blind
    )
    p50, p99 = np.percentile(report.latencies_ms, [50, 99])
    print(
        f"{report.periods} periods of {arguments.period_ms:g} ms: {report.late} late, "
        f"{report.blind} blind{', stopped' if report.stopped else ''}; action after "
        f"{p50:.1f} ms (median), {p99:.1f} ms (99%); reward a period "
        f"{robot.total_reward / max(report.periods, 1):.2f}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Controls a simulated robot in real time.")
    parser.add_argument("--task", default="walker-walk")
    parser.add_argument("--checkpoint", default="bundled:walker-walk-1m")
    parser.add_argument("--controller", choices=("deadline", "pipelined"), default="deadline")
    parser.add_argument("--period_ms", type=float, default=40.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--sensor_loss", type=float, default=0.0, help="share of lost observations")
    parser.add_argument("--max_blind", type=int, default=5, help="in a row, before it stops")
    main(parser.parse_args())
