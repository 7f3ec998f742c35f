"""Latency of one plan, and how much of it plain matrix products would take.

python -m experiments.benchmark_planning --sizes=1,5 --output=results/benchmark

Implementations of one setting take turns in one process, and so do the plain products
they are compared with (`peak_gflops`), so that a noisy machine treats all alike. Other
jobs on the same cores slow down PyTorch's spinning threads most of all: compare on a
quiet machine, and see `load_average_before` in planning.run.json.
"""

import dataclasses
import importlib.util
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import flags

from experiments.support import launch, step_latency, tables, teachers, timing
from experiments.support import planning_programs as programs
from experiments.support.planning_programs import Program
from experiments.support.planning_report import Report
from experiments.support.planning_settings import Setting, check_model, default_row, sweep
from specmpc_jax.agent import Agent
from specmpc_jax.config import ModelConfig, model_config
from specmpc_jax.errors import UserError, nearest_names
from specmpc_jax.planning.flops import planning_flops, planning_products
from specmpc_jax.progress import Progress
from specmpc_jax.types import Params

TORCH_IMPLEMENTATIONS = ("torch_eager", "torch_compiled")
IMPLEMENTATIONS = (*programs.IMPLEMENTATIONS, *TORCH_IMPLEMENTATIONS)
_DEFAULT_SIZES = (1, 5)
_STEPS_PER_REPEAT = step_latency.EXEC_HORIZON
_TRACED_CALLS = 3

SIZES = flags.DEFINE_list(
    "sizes", None, "Model sizes in millions of parameters: 1,5,19,48,317 (default 1,5)."
)
BATCH_SIZES = flags.DEFINE_list("batch_sizes", ["1"], "Environments planned for in one call.")
PRECISION = flags.DEFINE_list(
    "precision", ["float32", "bfloat16"], "Types of the matrix products' operands."
)
NUM_SAMPLES = flags.DEFINE_list(
    "num_samples",
    ["512"],
    "Sequences scored in each iteration; 64 elites and 24 prior sequences, but at most half.",
)
ITERATIONS = flags.DEFINE_list(
    "iterations", None, "MPPI iterations (default 6; 8 from 20 action dimensions on)."
)
HORIZONS = flags.DEFINE_list("horizons", ["3"], "Planning horizons in agent steps.")
ACTION_DIMS = flags.DEFINE_list("action_dims", None, "Action dimensions (default 6).")
OBSERVATION_DIM = flags.DEFINE_integer(
    "observation_dim", 24, "Observation dimensions; only steps see them.", lower_bound=1
)
CROSS = flags.DEFINE_boolean(
    "cross",
    False,
    "Measure every combination of the lists, not one axis at a time around the default row "
    "(the published setting where it is listed, else each list's first value).",
)
CHOSEN = flags.DEFINE_list(
    "implementations",
    ["jax", "jax_reference", "torch_eager"],
    f"Which of {', '.join(IMPLEMENTATIONS)}; torch.compile takes a minute or more a setting.",
)
REPEATS = flags.DEFINE_integer("repeats", 30, "Most calls of each program.", lower_bound=1)
TIME_BUDGET = flags.DEFINE_float(
    "time_budget_s",
    12.0,
    f"Seconds of calls in each setting; {timing.MINIMUM_ROUNDS} of each program are made anyway.",
    lower_bound=0.0,
)
STEPS = flags.DEFINE_boolean(
    "steps", True, "Also time the steps of speculative execution, once a model size."
)
MATMUL_PRECISION = flags.DEFINE_enum(
    "matmul_precision",
    None,
    ["float32", "tensorfloat32"],
    "How float32 products are computed on a GPU; empty for JAX's default, which is tensorfloat32.",
)
TRACE_DIR = flags.DEFINE_string(
    "trace_dir", None, "Directory for a jax.profiler trace of a few calls of each setting."
)
OUTPUT = flags.DEFINE_string("output", "results/benchmark", "Directory of tables and figures.")


class Source:
    """Models to time: random ones by size and action dimension, or the checkpoint's."""

    def __init__(self, teacher: Agent | None):
        self.teacher = teacher
        self.task = teachers.TASK.value if teacher and teacher.config.multitask else None
        self._key: tuple[int | None, int] | None = None
        self._model: tuple[ModelConfig, Params]

    def model(self, size: int | None, action_dim: int) -> tuple[ModelConfig, Params]:
        """Configuration and weights; those of the last call are kept."""
        if self.teacher:
            return self.teacher.config, self.teacher.params
        if self._key != (size, action_dim):
            shape = (OBSERVATION_DIM.value,)
            config = model_config(size, action_dim=action_dim, observation_shape=shape)
            self._key = (size, action_dim)
            self._model = config, programs.random_params(config, launch.key())
        return self._model

    @property
    def task_index(self) -> int:
        """Row of the task embedding."""
        return self.teacher.task_index(self.task) if self.teacher else 0


def main() -> None:
    """Measures what the flags ask for."""
    # Compile times would be those of reading the cache.
    jax.config.update("jax_enable_compilation_cache", False)
    if MATMUL_PRECISION.value:
        jax.config.update("jax_default_matmul_precision", MATMUL_PRECISION.value)
    names = _implementations()
    source = Source(_teacher())
    values = _axis_values(source.teacher)
    settings = sweep(values, CROSS.value)
    base = Setting(**default_row(values))
    report = Report(OUTPUT.value, base.columns())
    sizes = values["model_size"] if STEPS.value else []
    total = len(settings) + len(sizes)
    with Progress(total, "benchmark", unit="setting", quiet=launch.QUIET.value) as progress:
        for setting in settings:
            rows = _measure(setting, source, names, report, progress)
            report.rows += rows
            report.write()
            told = ", ".join(f"{r['implementation']} {r['p50_ms']:.1f} ms" for r in rows)
            progress.write(f"{setting}: {told}")
            progress.advance()
        for size in sizes:
            report.steps += _measure_steps(dataclasses.replace(base, model_size=size), source)
            report.write()
            progress.advance()
    report.write(complete=True)
    _print(report)


def _before_devices() -> None:
    # PyTorch needs its part of the same GPU.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def _measure(
    setting: Setting, source: Source, names: Sequence[str], report: Report, progress: Progress
) -> list[dict[str, Any]]:
    """Rows of one setting, one an implementation that can run it."""
    config, params = source.model(setting.model_size, setting.action_dim)
    found: dict[str, Program] = {}
    for name in names:
        try:
            found[name] = _program(name, setting, config, params, source.task_index)
        except _LeftOut as reason:
            if report.leave_out(f"{name} left out: {reason}"):
                progress.write(report.left_out[-1])
    products = planning_products(config, setting.planner, setting.batch_size)
    yardsticks = {
        "mix": programs.product_mix(products, setting.precision),
        "square": programs.square_product(setting.precision),
    }
    calls = {name: program.call for name, program in (found | yardsticks).items()}
    seconds = timing.interleave(calls, REPEATS.value, TIME_BUDGET.value)
    medians = {name: timing.summary(values)["p50_ms"] / 1e3 for name, values in seconds.items()}
    needed = planning_flops(config, setting.planner, setting.batch_size) / 1e9
    peak = needed / medians["mix"]
    _trace(setting, found)
    return [
        {
            "implementation": name,
            **setting.columns(),
            "compile_s": program.compile_s,
            **timing.summary(seconds[name]),
            "ms_per_environment": 1e3 * medians[name] / setting.batch_size,
            "needed_gflop": needed,
            "peak_gflops": peak,
            "square_gflops": 2 * programs.SQUARE**3 / 1e9 / medians["square"],
            "peak_share": needed / medians[name] / peak,
            "peak_memory_mb": program.memory_mb,
            "memory_source": program.memory_source,
            "device": report.device,
        }
        for name, program in found.items()
    ]


class _LeftOut(Exception):
    """Why an implementation cannot run a setting, in one line."""


def _program(
    name: str, setting: Setting, config: ModelConfig, params: Params, task: int
) -> Program:
    key = launch.key(1)
    if name == "jax_reference" and setting.precision != "float32":
        raise _LeftOut("the readable model computes in float32 only")
    if name in programs.IMPLEMENTATIONS:
        return programs.plan_program(name, config, params, setting, task, key)
    if importlib.util.find_spec("torch") is None:
        raise _LeftOut("PyTorch is not installed (pip install -e '.[convert]')")
    torch_program = _import_torch_baseline()
    try:
        return torch_program(
            config,
            params,
            setting,
            compiled=name == "torch_compiled",
            on_gpu=jax.default_backend() == "gpu",
            tensorfloat32=MATMUL_PRECISION.value != "float32",
        )
    except UserError as error:
        raise _LeftOut(str(error)) from error


def _import_torch_baseline() -> Callable[..., Program]:
    # Else torch.compile would answer a repeated command from what it kept on disk.
    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
    warnings.filterwarnings("ignore", message="dynamo_pgo force disabled")
    from experiments.support.torch_baseline import torch_program

    return torch_program


def _measure_steps(setting: Setting, source: Source) -> list[dict[str, Any]]:
    config, params = source.model(setting.model_size, setting.action_dim)
    agent = Agent(params, config, setting.planner)
    return step_latency.measure(
        agent, source.task, launch.key(2), _STEPS_PER_REPEAT * REPEATS.value, TIME_BUDGET.value
    )


def _trace(setting: Setting, found: dict[str, Program]) -> None:
    if TRACE_DIR.value and "jax" in found:
        with jax.profiler.trace(os.path.join(TRACE_DIR.value, setting.name)):
            for _ in range(_TRACED_CALLS):
                found["jax"].call()


def _implementations() -> list[str]:
    for name in CHOSEN.value:
        if name not in IMPLEMENTATIONS:
            raise UserError(
                f"implementation {name!r} is unknown; nearest are "
                f"{nearest_names(name, IMPLEMENTATIONS)}"
            )
    if not CHOSEN.value:
        raise UserError(f"--implementations is empty; there are {', '.join(IMPLEMENTATIONS)}")
    return list(dict.fromkeys(CHOSEN.value))


def _teacher() -> Agent | None:
    if teachers.CHECKPOINT.value:
        return teachers.load_teacher()
    if teachers.MODEL_SIZE.value is not None:
        raise UserError("--model_size belongs to --checkpoint; choose random models with --sizes")
    return None


def _axis_values(teacher: Agent | None) -> dict[str, list[Any]]:
    """What each axis of the sweep takes, by the flags and the checkpoint."""
    values: dict[str, list[Any]] = {
        "model_size": _numbers(SIZES),
        "batch_size": _numbers(BATCH_SIZES),
        "num_samples": _numbers(NUM_SAMPLES),
        "iterations": _numbers(ITERATIONS),
        "horizon": _numbers(HORIZONS),
        "action_dim": _numbers(ACTION_DIMS),
        "precision": list(PRECISION.value),
    }
    if teacher:
        check_model(teacher.config, values)
        own = {"model_size": [teacher.config.model_size], "action_dim": [teacher.config.action_dim]}
        return values | own
    return values | {"model_size": values["model_size"] or list(_DEFAULT_SIZES)}


def _numbers(flag: flags.FlagHolder) -> list[int]:
    try:
        return [int(text) for text in flag.value or ()]
    except ValueError:
        given = ",".join(flag.value)
        raise UserError(f"--{flag.name}={given} must be whole numbers, joined by commas") from None


def _print(report: Report) -> None:
    print(tables.format_text(report.rows, report.table_columns()))
    if report.steps:
        print(f"\n{tables.format_text(report.steps)}")
    print(f"wrote {report.directory}")


if __name__ == "__main__":
    launch.run(main, _before_devices)
