"""Speed of whole episodes on the device: physics, model, planner and corrector in one scan.

    python -m experiments.benchmark_rollout --task=walker-walk \\
        --checkpoint=bundled:walker-walk-1m --batch_sizes=1,16 --variants=policy,3_step_naive

A row `physics` steps the environments alone, under fixed actions. The row of a variant is the
whole loop; `physics_share` is what the physics alone would take of it, `beyond_policy` the
time a step beyond that of the variant `policy`, which encodes and asks the prior: planner
and corrector. Compilation is timed apart, and cached unless --nocompilation_cache.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments.support import corrector_files, launch, planner_flags, tables, teachers
from specmpc_jax import files
from specmpc_jax.controller import Controller
from specmpc_jax.envs.device import DeviceEnvironment, Models, step_lanes
from specmpc_jax.envs.multitask import check_backend
from specmpc_jax.errors import UserError
from specmpc_jax.evaluation import variants as variant_names
from specmpc_jax.evaluation.device_rollout import begin, jitted_roll
from specmpc_jax.progress import track
from specmpc_jax.types import Array

BATCH_SIZES = flags.DEFINE_list("batch_sizes", ["1", "8", "32"], "Environments side by side.")
STEPS = flags.DEFINE_integer("steps", 30, "Agent steps of one timed call.", lower_bound=1)
REPEATS = flags.DEFINE_integer("repeats", 5, "Timed calls of each row.", lower_bound=1)
CORRECTOR_DIR = flags.DEFINE_string(
    "corrector_dir",
    corrector_files.CORRECTOR_DIR,
    "Directory of the correctors, or bundled:TEACHER for those that come along.",
)
VARIANTS = flags.DEFINE_list(
    "variants", ["policy", "baseline", "3_step_naive"], "Variants by name, as for eval_corrector."
)
OUTPUT = flags.DEFINE_string(
    "output", "results/benchmark_rollout", "Directory that gets rollout.json and rollout.csv."
)
PHYSICS = "physics"
COLUMNS = (
    "row",
    "batch_size",
    "step_ms",
    "control_steps_per_s",
    "environment_steps_per_s",
    "physics_share",
    "beyond_policy",
    "compile_s",
)


def main() -> None:
    """Times every row at every batch size."""
    from specmpc_jax.envs.mjx import MjxEnvironment

    task = teachers.TASK.value
    variants = [variant_names.parse(name) for name in VARIANTS.value]
    if not all(text.isdigit() and int(text) for text in BATCH_SIZES.value):
        raise UserError(f"--batch_sizes is {','.join(BATCH_SIZES.value)}; numbers from 1 on")
    agent = planner_flags.apply(teachers.load_teacher())
    correctors = corrector_files.load_for(CORRECTOR_DIR.value, agent, variants)
    check_backend(agent.config, task, "mjx")
    environment = MjxEnvironment(task)
    controllers = {
        variant.name: variant_names.make_controller(agent, variant, correctors, task)
        for variant in variants
    }
    work = [(int(size), name) for size in BATCH_SIZES.value for name in (PHYSICS, *controllers)]
    rows: list[dict[str, Any]] = []
    for size, name in track(work, "rows", quiet=launch.QUIET.value):
        if name == PHYSICS:
            measured = time_physics(environment, size)
        else:
            measured = time_loop(controllers[name], environment, size)
        rows.append({"row": name, "batch_size": size, **measured})
        _relate(rows)
        _write(rows)
    print(tables.format_text([{name: row.get(name) for name in COLUMNS} for row in rows]))
    print(f"wrote {OUTPUT.value}")


def time_physics(environment: DeviceEnvironment, size: int) -> dict[str, float]:
    """Environments alone."""
    models = Models(environment.model)
    keys = jax.random.split(launch.key(), size)
    state = jax.jit(lambda keys: jax.vmap(environment.reset, (None, 0))(models.model, keys))(keys)
    random = np.random.default_rng(launch.SEED.value)
    shape = (STEPS.value, size, environment.spec.action_dim)
    actions = jnp.asarray(random.uniform(-1, 1, shape), jnp.float32)

    @jax.jit
    def run(state: Any, actions: Array) -> tuple[Any, Array]:
        return jax.lax.scan(lambda s, a: step_lanes(environment, models, s, a), state, actions)

    return _timed(lambda state: run(state, actions), state, size, environment)


def time_loop(
    controller: Controller, environment: DeviceEnvironment, size: int
) -> dict[str, float]:
    """Environments under a controller."""
    models = Models(environment.model)
    keys = jax.random.split(launch.key(), size)
    state = begin(controller, environment, models, None, keys)

    def run(state: Any) -> tuple[Any, Any]:
        program, arrays = controller.program, controller.arrays
        return jitted_roll(program, environment, STEPS.value, False, arrays, models, state)

    return _timed(run, state, size, environment)


def _timed(
    run: Callable[[Any], tuple[Any, Any]], state: Any, size: int, environment: DeviceEnvironment
) -> dict[str, float]:
    """Median time of a step over calls that go on from each other; the first one compiles."""
    times = []
    for _ in range(REPEATS.value + 1):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(run(state))
        times.append(time.perf_counter() - start)
    step = float(np.median(times[1:])) / STEPS.value
    return {
        "step_ms": 1e3 * step,
        "control_steps_per_s": size / step,
        "environment_steps_per_s": size * environment.spec.action_repeat / step,
        "compile_s": times[0] - step * STEPS.value,
    }


def _relate(rows: list[dict[str, Any]]) -> None:
    """Says of the last row what part of it is physics, and what lies beyond the policy."""
    last = rows[-1]
    same = {row["row"]: row["step_ms"] for row in rows if row["batch_size"] == last["batch_size"]}
    last["physics_share"] = same[PHYSICS] / last["step_ms"]
    if "policy" in same and last["row"] != PHYSICS:
        last["beyond_policy"] = 1.0 - same["policy"] / last["step_ms"]


def _write(rows: list[dict[str, Any]]) -> None:
    directory = Path(OUTPUT.value)
    record = {"rows": rows, "flags": launch.flag_values(), "provenance": launch.provenance()}
    files.write_json(directory / "rollout.json", record)
    files.write_csv(directory / "rollout.csv", rows, COLUMNS)


if __name__ == "__main__":
    launch.run(main)
