"""Returns and action latency of a teacher, with an optional video.

    python -m experiments.evaluate --task=walker-walk --checkpoint=bundled:walker-walk-1m

A multi-task teacher is evaluated on one of its tasks, or on all with --task=mt30: the
normalised score is TD-MPC2's, the mean over tasks of a tenth of the return, or of the
success in percent for Meta-World. Tasks that are complete in --output are not run again.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from experiments.support import launch, planner_flags, simulator, tables, teachers
from specmpc_jax import files
from specmpc_jax.agent import Agent
from specmpc_jax.envs.multitask import check_backend, spec_for
from specmpc_jax.evaluation import statistics
from specmpc_jax.evaluation.comparison import EvaluationSettings, evaluate_controller
from specmpc_jax.evaluation.episodes import success_rate
from specmpc_jax.evaluation.recording import record_episode
from specmpc_jax.progress import Progress

EPISODES = flags.DEFINE_integer("eval_episodes", 10, "Episodes.", lower_bound=1)
NUM_ENVS = flags.DEFINE_integer(
    "num_envs",
    1,
    "Environments stepped side by side, with one batched planner call.",
    lower_bound=1,
)
ENV_SEED = flags.DEFINE_integer("env_seed", 1000, "Environment seed of the first episode.")
simulator.define_perturbation()
SAVE_VIDEO = flags.DEFINE_bool("save_video", False, "Also write a video of the first episode.")
OUTPUT = flags.DEFINE_string(
    "output", None, "JSON file of the result; logs/<task>/<seed>/evaluate/evaluation.json if empty."
)


def main() -> None:
    """Evaluates the teacher that the flags name."""
    task = teachers.TASK.value
    agent = planner_flags.apply(teachers.load_teacher())
    output = Path(OUTPUT.value or f"logs/{task}/{launch.SEED.value}/evaluate/evaluation.json")
    names = teachers.tasks_named(task)
    for name in names:  # what cannot be made shows before hours of work
        check_backend(agent.config, name, simulator.BACKEND.value)
    if len(names) > 1:
        _evaluate_set(agent, task, names, output)
    else:
        result = evaluate(agent, task)
        files.write_json(output, result)
        success, episodes = result["success_rate"], len(result["returns"])
        interval = f"  95% interval [{result['ci_low']:.1f}, {result['ci_high']:.1f}]"
        print(
            f"return {result['mean']:.1f}"
            + (f"{interval}  over {episodes} episodes\n" if episodes > 1 else " in one episode\n")
            + ("" if success is None else f"success rate {success:.2f}\n")
            + f"action latency p50 {result['p50_ms']:.1f} ms, p95 {result['p95_ms']:.1f} ms, "
            f"p99 {result['p99_ms']:.1f} ms (first call {result['first_call_ms']:.0f} ms)\n"
            f"wrote {output}"
        )
    for name in names if SAVE_VIDEO.value else ():
        video = output.parent / "videos" / f"{name}.mp4"
        record_episode(agent.controller(task=name), name, ENV_SEED.value, launch.key(), video)
        print(f"wrote {video}")


def evaluate(agent: Agent, task: str) -> dict[str, Any]:
    """Runs the episodes and summarises them in the format of `--output`."""
    return {
        "task": task,
        **_measure(agent, task),
        **_identity(agent),
        "flags": launch.flag_values(),
        "provenance": launch.provenance(),
    }


def _evaluate_set(agent: Agent, task_set: str, names: Sequence[str], output: Path) -> None:
    """Evaluates on every task of a set; tasks that are complete in `output` are kept."""
    result = {
        "task": task_set,
        **files.to_plain(_identity(agent)),
        "flags": launch.flag_values(),
        "provenance": launch.provenance(),
        "tasks": _kept(output, agent),
        "normalised_score": None,
    }
    for name in names:
        if name not in result["tasks"]:
            result["tasks"][name] = files.to_plain(_measure(agent, name))
            files.write_json(output, result)
            print(_line(name, result["tasks"][name]), flush=True)
    rows = [
        {
            "task": name,
            "return": row["mean"],
            "ci_low": row["ci_low"],
            "ci_high": row["ci_high"],
            "success": row["success_rate"],
            "score": statistics.normalised_score(name, row["mean"], row["success_rate"]),
            "p50_ms": row["p50_ms"],
        }
        for name, row in ((name, result["tasks"][name]) for name in names)
    ]
    result["normalised_score"] = float(np.mean([row["score"] for row in rows]))
    files.write_json(output, result)
    print(tables.format_text(rows))
    print(f"normalised score {result['normalised_score']:.2f}\nwrote {output}")


def _line(name: str, row: Mapping[str, Any]) -> str:
    success = "" if row["success_rate"] is None else f"  success {row['success_rate']:.2f}"
    return f"{name:<22} return {row['mean']:.1f}{success}"


def _kept(output: Path, agent: Agent) -> dict[str, Any]:
    """Tasks that an earlier run with the same teacher and settings has finished."""
    if not output.exists():
        return {}
    earlier = files.read_json(output)
    settings = files.to_plain(_identity(agent))
    same = isinstance(earlier, dict) and all(earlier.get(k) == v for k, v in settings.items())
    return dict(earlier.get("tasks") or {}) if same else {}


def _identity(agent: Agent) -> dict[str, Any]:
    """Whatever returns depend on, beside the task."""
    return {
        "checkpoint": teachers.CHECKPOINT.value or str(agent.metadata.get("source", "")),
        "env_seeds": _env_seeds(),
        "num_envs": NUM_ENVS.value,
        "backend": simulator.BACKEND.value,
        "perturbation": dataclasses.asdict(simulator.perturbation()),
        "teacher": agent.fingerprint,
        "planner": planner_flags.settings(agent),
        "seed": launch.SEED.value,
    }


def _env_seeds() -> tuple[int, ...]:
    return tuple(range(ENV_SEED.value, ENV_SEED.value + EPISODES.value))


def _measure(agent: Agent, task: str) -> dict[str, Any]:
    """Runs the episodes of one task."""
    settings = EvaluationSettings(
        task,
        _env_seeds(),
        NUM_ENVS.value,
        backend=simulator.BACKEND.value,
        perturbation=simulator.perturbation(),
    )
    steps = EPISODES.value * spec_for(agent.config, task).episode_length
    with Progress(steps, task, unit="step", quiet=launch.QUIET.value) as progress:
        rollouts = evaluate_controller(
            agent.controller(task=task), settings, launch.key(), progress.advance
        )
    returns = np.array([episode.episode_return for episode in rollouts.episodes])
    low, high = statistics.bootstrap_interval(returns)
    return {
        "returns": returns,
        "mean": returns.mean(),
        "ci_low": low,
        "ci_high": high,
        "success_rate": success_rate(rollouts.episodes),
        **statistics.summarise_latency(np.array(rollouts.latencies)),
        "first_call_ms": 1e3 * rollouts.first_latency,
    }


if __name__ == "__main__":
    launch.run(main)
