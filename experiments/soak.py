"""Controls for a long time and watches: memory flat, nothing compiled anew, latency stable.

    python -m experiments.soak --task=walker-walk --checkpoint=bundled:walker-walk-1m --minutes=60

Controllers take turns, an episode each; episodes are cut short, so that there are many resets.
A share of the observations is lost. Writes soak.csv, soak.run.json and soak.png, and fails if
something was compiled after the warm-up, or memory grew.
"""

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments.support import launch, planner_flags, soak_plot, teachers
from experiments.support.soak_record import COLUMNS, Compilations, Recorder, summarise
from specmpc_jax import files
from specmpc_jax.agent import Agent
from specmpc_jax.correctors.corrector import by_name
from specmpc_jax.envs import registry
from specmpc_jax.envs.protocol import Environment
from specmpc_jax.errors import UserError, nearest_names
from specmpc_jax.progress import Progress
from specmpc_jax.speculation.decisions import Outcome

CONTROLLERS = ("every_step", "blocks", "pipelined")

_MINUTES = flags.DEFINE_float("minutes", 60.0, "How long, after the warm-up.", lower_bound=0.01)
_CONTROLLERS = flags.DEFINE_list(
    "controllers", ["blocks", "pipelined"], f"Which take turns, of {', '.join(CONTROLLERS)}."
)
_EXEC_HORIZON = flags.DEFINE_integer("exec_horizon", 3, "Steps of a block.", lower_bound=1)
_CORRECTOR = flags.DEFINE_string(
    "corrector",
    "refine",
    "Corrector of the blocks: a directory, bundled:NAME, refine or prior; none if empty.",
)
_TAU_REPLAN = flags.DEFINE_float(
    "tau_replan", 0.9, "Relative mismatch beyond which a block is dropped.", lower_bound=0.0
)
_EPISODE_STEPS = flags.DEFINE_integer(
    "episode_steps", 100, "Agent steps until an episode is cut off.", lower_bound=1
)
_SENSOR_LOSS = flags.DEFINE_float(
    "sensor_loss", 0.01, "Share of observations that are NaN.", lower_bound=0.0, upper_bound=1.0
)
_INTERVAL = flags.DEFINE_float("interval_s", 10.0, "Seconds of a row.", lower_bound=0.1)
_MEMORY_LIMIT = flags.DEFINE_float(
    "memory_limit_mb",
    50.0,
    "Growth of memory, from the first to the last quarter, that is failure.",
)
_OUTPUT = flags.DEFINE_string("output", None, "Directory; results/<task>/soak if empty.")

_WARM_UP_EPISODES = 2  # of each controller
_WARM_UP_LOSS = 0.2


def main() -> None:
    """Warms up, controls, writes, and says whether all was well."""
    task = teachers.TASK.value
    output = Path(_OUTPUT.value or f"results/{task}/soak")
    launch.claim(output / "soak.csv")
    agent = planner_flags.apply(teachers.load_teacher())
    controllers = [_controller(agent, task, name) for name in _names()]
    environment = registry.make(task, agent.config.observation)
    with Compilations() as compilations:
        warm_up = Recorder(float("inf"), Compilations())
        for number in range(_WARM_UP_EPISODES * len(controllers)):
            controller = controllers[number % len(controllers)]
            _episode(controller, environment, number, warm_up, _WARM_UP_LOSS)
        compilations.traces = compilations.compilations = 0
        recorder = Recorder(_INTERVAL.value, compilations)
        rows = _soak(controllers, environment, recorder, output / "soak.csv")
    summary = summarise(rows)
    record = {"summary": summary, "flags": launch.flag_values(), "provenance": launch.provenance()}
    files.write_json(output / "soak.run.json", record)
    soak_plot.save(rows, output / "soak.png", task)
    for name, value in summary.items():
        print(f"{name:18} {value:.2f}" if isinstance(value, float) else f"{name:18} {value}")
    print(f"wrote {output}/soak.csv, .run.json and .png")
    _require_health(summary)


def _soak(
    controllers: list[Any], environment: Environment, recorder: Recorder, path: Path
) -> list[dict[str, Any]]:
    """Episodes until the time is over; the rows, which are in the file as they come."""
    seconds, shown, written = 60 * _MINUTES.value, 0, 0
    with Progress(round(seconds), "soak", unit="second", quiet=launch.QUIET.value) as progress:
        while recorder.seconds < seconds:
            number = recorder.episodes
            controller = controllers[number % len(controllers)]
            _episode(controller, environment, number, recorder, _SENSOR_LOSS.value, seconds)
            recorder.episodes += 1
            now = min(int(recorder.seconds), round(seconds))
            progress.advance(now - shown)
            shown = now
            if len(recorder.rows) > written:
                files.write_csv(path, recorder.rows, COLUMNS)
                written = len(recorder.rows)
        recorder.end_interval()
    files.write_csv(path, recorder.rows, COLUMNS)
    return recorder.rows


def _episode(
    controller: Any,
    environment: Environment,
    number: int,
    recorder: Recorder,
    loss: float,
    seconds: float = float("inf"),
) -> None:
    """One episode, or its beginning, with lost observations."""
    random = np.random.default_rng([launch.SEED.value, number])
    observation = environment.reset(number)
    lost = np.full(np.shape(observation), np.nan, np.float32)
    state = controller.initial_state(launch.key(number))
    for _ in range(_EPISODE_STEPS.value):
        seen = lost if random.random() < loss and observation.dtype != np.uint8 else observation
        begin = time.perf_counter()
        action, state, info = controller.act(seen, state)
        action = np.asarray(jax.block_until_ready(action))
        latency = 1e3 * (time.perf_counter() - begin)
        if not np.isfinite(action).all():
            raise UserError(f"episode {number} got an action that is not finite")
        recorder.step(latency, int(info.outcome) == Outcome.REPLAN, bool(info.blind))
        transition = environment.step(action[: environment.spec.action_dim])
        observation = transition.observation
        if transition.terminated or transition.truncated or recorder.seconds >= seconds:
            break


def _names() -> list[str]:
    for name in _CONTROLLERS.value:
        if name not in CONTROLLERS:
            near = nearest_names(name, CONTROLLERS)
            raise UserError(f"controller {name!r} is unknown; nearest are {near}")
    if not _CONTROLLERS.value:
        raise UserError(f"give at least one of the controllers {', '.join(CONTROLLERS)}")
    return _CONTROLLERS.value


def _controller(agent: Agent, task: str, name: str) -> Any:
    if name == "every_step":
        return agent.controller(task=task)
    corrector = by_name(_CORRECTOR.value) if _CORRECTOR.value else None
    make = agent.controller if name == "blocks" else agent.pipelined_controller
    return make(_EXEC_HORIZON.value, corrector, tau_replan=_TAU_REPLAN.value, task=task)


def _require_health(summary: dict[str, Any]) -> None:
    if summary["compilations"]:
        raise UserError(f"{summary['compilations']} programs were compiled after the warm-up")
    if summary["memory_growth_mb"] > _MEMORY_LIMIT.value:
        raise UserError(f"memory grew by {summary['memory_growth_mb']:.0f} MB")


if __name__ == "__main__":
    launch.run(main)
