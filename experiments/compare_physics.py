"""How far MJX drifts from the task's own environment under the same actions.

    python -m experiments.compare_physics --tasks=cartpole-swingup,walker-walk --steps=100

Both start in the same states and get the same random actions. Differences of observations
are relative to the spread of each number over the episode, their root mean square over the
numbers and the median over episodes: 0 is the same, 1.4 two states that have nothing to do
with each other. Contacts make the dynamics chaotic: there the rounding of float32 grows.
"""

from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from experiments.support import launch, tables
from specmpc_jax import files
from specmpc_jax.envs import registry
from specmpc_jax.errors import UserError
from specmpc_jax.progress import track

TASKS = flags.DEFINE_list("tasks", [], "Tasks (default: all that run on MJX).")
STEPS = flags.DEFINE_integer("steps", 100, "Agent steps of an episode.", lower_bound=1)
EPISODES = flags.DEFINE_integer("episodes", 4, "Episodes, side by side.", lower_bound=1)
OUTPUT = flags.DEFINE_string(
    "output", "results/compare_physics", "Directory that gets drift.csv and its record."
)
_SHOWN = (1, 10, 30, 100)


def main() -> None:
    """Writes and prints a row a task."""
    from specmpc_jax.envs.mjx import task_names

    names = TASKS.value or task_names()
    unknown = set(names) - set(task_names())
    if unknown:
        raise UserError(f"{', '.join(sorted(unknown))} does not run on MJX: {task_names()}")
    path = Path(OUTPUT.value) / "drift.csv"
    rows: list[dict[str, Any]] = []
    for name in track(names, "tasks", quiet=launch.QUIET.value):
        rows.append({"task": name, **measure(name)})
        files.write_csv(path, rows, tuple(rows[0]))
    launch.write_run_record(path)
    print(tables.format_text(rows))
    print(f"wrote {path}")


def measure(task: str) -> dict[str, float]:
    """Drift of the observation after some steps, and the mean reward of both."""
    count, steps = EPISODES.value, STEPS.value
    seeds = range(launch.SEED.value, launch.SEED.value + count)
    with (
        registry.make_batch(task, count) as host,
        registry.make_batch(task, count, backend="mjx", suite_starts=True) as device,
    ):
        random = np.random.default_rng(launch.SEED.value)
        first = host.reset(seeds), device.reset(seeds)
        seen, rewards = [first], []
        for _ in range(steps):
            action = random.uniform(-1, 1, (count, host.spec.action_dim))
            there, here = host.step(action), device.step(action)
            seen.append((there.observation, here.observation))
            rewards.append((there.reward.mean(), here.reward.mean()))
    own, other = (np.stack([pair[i] for pair in seen]) for i in (0, 1))  # [T + 1, B, D]
    spread = own.std(axis=(0, 1)) + 1e-6
    drift = np.sqrt(np.mean(((own - other) / spread) ** 2, axis=2))  # [T + 1, B]
    shown = sorted({step for step in _SHOWN if step < steps} | {steps})
    mean = np.mean(rewards, axis=0)
    return {
        "start": float(np.median(drift[0])),
        **{f"step_{step}": float(np.median(drift[step])) for step in shown},
        "reward_mujoco": float(mean[0]),
        "reward_mjx": float(mean[1]),
    }


if __name__ == "__main__":
    launch.run(main)
