"""A control loop at fixed periods: what each way of planning returns when nothing waits for it.

    python -m experiments.benchmark_realtime --task=walker-walk \\
        --checkpoint=bundled:walker-walk-1m --periods_ms=20,40,80

`specmpc_jax.evaluation.realtime` says how late actions are counted.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments.support import launch, planner_flags, realtime_plot, tables, teachers
from specmpc_jax import files
from specmpc_jax.agent import Agent
from specmpc_jax.correctors.corrector import Corrector, by_name
from specmpc_jax.correctors.unlearned import UnlearnedConfig
from specmpc_jax.deadline_controller import calibrate
from specmpc_jax.envs import registry
from specmpc_jax.envs.protocol import Environment
from specmpc_jax.errors import UserError, nearest_names
from specmpc_jax.evaluation import realtime
from specmpc_jax.evaluation.realtime import REALTIME_COLUMNS
from specmpc_jax.planning.deadline import Timing, default_planners
from specmpc_jax.progress import Progress

EVERY_STEP, BLOCKS, PIPELINED, DEADLINE = MODES = ("every_step", "blocks", "pipelined", "deadline")

_PERIODS = flags.DEFINE_list(
    "periods_ms", ["10", "20", "40", "80", "160"], "Control periods in milliseconds."
)
_MODES = flags.DEFINE_list(
    "modes",
    list(MODES),
    "every_step plans at each step; blocks executes a plan for --exec_horizon steps; pipelined "
    "also plans the next block meanwhile; deadline plans at each step as much as fits the period.",
)
_EPISODES = flags.DEFINE_integer("episodes", 1, "Episodes of each mode and period.", lower_bound=1)
_MAX_STEPS = flags.DEFINE_integer(
    "max_steps", None, "Periods after which an episode is cut off; whole if empty.", lower_bound=1
)
_EXEC_HORIZON = flags.DEFINE_integer(
    "exec_horizon", 3, "Steps of a block (blocks and pipelined).", lower_bound=1
)
_CORRECTOR = flags.DEFINE_string(
    "corrector",
    None,
    "Corrector of blocks and pipelined: a directory, bundled:NAME, refine or prior; or none.",
)
_TAU_REPLAN = flags.DEFINE_float(
    "tau_replan",
    None,
    "Relative mismatch beyond which blocks and pipelined plan anew; never if empty.",
    lower_bound=0.0,
)
_ENV_SEED = flags.DEFINE_integer("env_seed", 1000, "Environment seed of the first episode.")
_REPEATS = flags.DEFINE_integer(
    "calibration_repeats",
    20,
    "Measured actions of each planner that the deadline mode chooses from.",
    lower_bound=1,
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Directory of the results; results/<task>/realtime if empty."
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all rows of one benchmark share."""

    env_seeds: tuple[int, ...]
    max_steps: int
    exec_horizon: int
    corrector: Corrector | UnlearnedConfig | None
    tau_replan: float | None


def main() -> None:
    """Runs every mode at every period and writes table, JSON and plot."""
    task = teachers.TASK.value
    periods, modes = _periods(_PERIODS.value), _modes(_MODES.value)
    agent = planner_flags.apply(teachers.load_teacher())
    environment = registry.make(task, agent.config.observation)
    settings = _settings(environment)
    output = Path(_OUTPUT.value or f"results/{task}/realtime")
    timings = _timings(agent, task) if DEADLINE in modes else ()
    rows, skipped = [], []
    cells = [(mode, period) for mode in modes for period in periods]
    steps = len(cells) * len(settings.env_seeds) * settings.max_steps
    with Progress(steps, "realtime", unit="step", quiet=launch.QUIET.value) as progress:
        for mode, period in cells:
            try:
                controller = _controller(agent, task, mode, period, settings, timings)
            except UserError as error:
                if mode != DEADLINE:
                    raise
                skipped.append(f"{mode} at {period:g} ms: {error}")
                progress.advance(len(settings.env_seeds) * settings.max_steps)
                continue
            rows.append(_measure(controller, environment, mode, period, settings, progress))
    if not rows:
        raise UserError(skipped[-1])
    record = {"skipped": skipped, "planners": timings, "task": task, "teacher": agent.fingerprint}
    record["planner"] = planner_flags.settings(agent)
    _write(output, rows, record)
    print(tables.format_text(rows, REALTIME_COLUMNS))
    for line in skipped:
        print(f"no row for {line}")
    print(f"wrote {output}/realtime.json, .csv, .png and .run.json")


def _settings(environment: Environment) -> Settings:
    seeds = range(_ENV_SEED.value, _ENV_SEED.value + _EPISODES.value)
    length = environment.spec.episode_length
    return Settings(
        env_seeds=tuple(seeds),
        max_steps=min(_MAX_STEPS.value or length, length),
        exec_horizon=_EXEC_HORIZON.value,
        corrector=by_name(_CORRECTOR.value) if _CORRECTOR.value else None,
        tau_replan=_TAU_REPLAN.value,
    )


def _timings(agent: Agent, task: str) -> tuple[Timing, ...]:
    planners = default_planners(agent.planner)
    rounds = len(planners) + _REPEATS.value
    with Progress(rounds, "calibration", unit="round", quiet=launch.QUIET.value) as progress:
        control = agent.controller(task=task)
        return calibrate(control, planners, _REPEATS.value, advance=progress.advance)


def _controller(
    agent: Agent,
    task: str,
    mode: str,
    period_ms: float,
    settings: Settings,
    timings: Sequence[Timing],
) -> realtime.ActingController:
    if mode == EVERY_STEP:
        return agent.controller(task=task)
    if mode == DEADLINE:
        return agent.deadline_controller(period_ms, timings=timings, task=task)
    make = agent.controller if mode == BLOCKS else agent.pipelined_controller
    return make(
        settings.exec_horizon, settings.corrector, tau_replan=settings.tau_replan, task=task
    )


def _measure(
    controller: realtime.ActingController,
    environment: Environment,
    mode: str,
    period_ms: float,
    settings: Settings,
    progress: Progress,
) -> dict[str, Any]:
    """One row: all episodes of a mode at a period."""
    key, first = launch.key(), settings.env_seeds[0]
    realtime.warm_up(controller, environment, first, key, 2 * settings.exec_horizon + 1)
    episodes = [
        realtime.run_episode(
            controller,
            environment,
            seed,
            key,
            period_ms / 1e3,
            paced=mode == PIPELINED,
            max_steps=settings.max_steps,
            advance=progress.advance,
        )
        for seed in settings.env_seeds
    ]
    if mode == PIPELINED:
        controller.close()
    return realtime.realtime_row(mode, period_ms, episodes)


def _write(output: Path, rows: list[dict[str, Any]], record: dict[str, Any]) -> None:
    files.write_csv(output / "realtime.csv", rows, REALTIME_COLUMNS)
    files.write_json(output / "realtime.json", rows)
    record |= {"flags": launch.flag_values(), "provenance": launch.provenance()}
    files.write_json(output / "realtime.run.json", record)
    realtime_plot.save(rows, output / "realtime.png", record["task"])


def _periods(texts: Sequence[str]) -> list[float]:
    try:
        periods = [float(text) for text in texts]
    except ValueError:
        periods = []
    if not periods or not all(0 < period < float("inf") for period in periods):
        raise UserError(f"--periods_ms={','.join(texts)} must be numbers above 0, such as 10,20,40")
    return sorted(set(periods))


def _modes(names: Sequence[str]) -> list[str]:
    for name in names:
        if name not in MODES:
            raise UserError(f"mode {name!r} is unknown; nearest are {nearest_names(name, MODES)}")
    if not names:
        raise UserError(f"give at least one of the modes {', '.join(MODES)}")
    return list(dict.fromkeys(names))


if __name__ == "__main__":
    launch.run(main)
