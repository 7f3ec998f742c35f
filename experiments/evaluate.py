"""Returns and action latency of a teacher, with an optional video.

python -m experiments.evaluate --task=walker-walk --checkpoint=bundled:walker-walk-1m
"""

from pathlib import Path

import numpy as np
from absl import flags

from experiments import launch, planner_flags, teachers
from specmpc_jax import files
from specmpc_jax.agent import Agent
from specmpc_jax.envs import registry
from specmpc_jax.evaluation import statistics
from specmpc_jax.evaluation.comparison import EvaluationSettings, evaluate_controller
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
SAVE_VIDEO = flags.DEFINE_bool("save_video", False, "Also write a video of the first episode.")
OUTPUT = flags.DEFINE_string(
    "output", None, "JSON file of the result; logs/<task>/<seed>/evaluate/evaluation.json if empty."
)


def main() -> None:
    """Evaluates the teacher that the flags name."""
    task = teachers.TASK.value
    agent = planner_flags.apply(teachers.load_teacher())
    output = Path(OUTPUT.value or f"logs/{task}/{launch.SEED.value}/evaluate/evaluation.json")
    result = evaluate(agent, task)
    files.write_json(output, result)
    print(
        f"return {result['mean']:.1f}  95% interval [{result['ci_low']:.1f}, "
        f"{result['ci_high']:.1f}]  over {len(result['returns'])} episodes\n"
        f"action latency p50 {result['p50_ms']:.1f} ms, p95 {result['p95_ms']:.1f} ms, "
        f"p99 {result['p99_ms']:.1f} ms (first call {result['first_call_ms']:.0f} ms)\n"
        f"wrote {output}"
    )
    if SAVE_VIDEO.value:
        video = output.parent / "videos" / f"{task}.mp4"
        controller = agent.controller(task=task)
        record_episode(controller, task, ENV_SEED.value, launch.key(), video)
        print(f"wrote {video}")


def evaluate(agent: Agent, task: str) -> dict[str, object]:
    """Runs the episodes and summarises them in the format of `--output`."""
    seeds = tuple(range(ENV_SEED.value, ENV_SEED.value + EPISODES.value))
    settings = EvaluationSettings(task, seeds, NUM_ENVS.value)
    steps = len(seeds) * registry.make(task).spec.episode_length
    with Progress(steps, task, unit="step", quiet=launch.QUIET.value) as progress:
        rollouts = evaluate_controller(
            agent.controller(task=task), settings, launch.key(), progress.advance
        )
    returns = np.array([episode.episode_return for episode in rollouts.episodes])
    low, high = statistics.bootstrap_interval(returns)
    return {
        "task": task,
        "checkpoint": teachers.CHECKPOINT.value or str(agent.metadata.get("source", "")),
        "returns": returns,
        "mean": returns.mean(),
        "ci_low": low,
        "ci_high": high,
        **statistics.summarise_latency(np.array(rollouts.latencies)),
        "first_call_ms": 1e3 * rollouts.first_latency,
        "env_seeds": seeds,
        "num_envs": NUM_ENVS.value,
        "teacher": agent.fingerprint,
        "planner": planner_flags.settings(agent),
        "flags": launch.flag_values(),
        "provenance": launch.provenance(),
    }


if __name__ == "__main__":
    launch.run(main)
