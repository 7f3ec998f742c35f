"""Times one update, here and as eager PyTorch computes it, and whole training steps.

python -m experiments.benchmark_training --sizes=1,5 --implementations=jax,torch_eager

All implementations of a size take turns, with a large matrix product between them, so that
a slow minute of the machine strikes all alike. Writes training.json, .csv, .txt and
training.run.json to the output directory.
"""

import functools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import launch, tables
from specmpc_jax import files
from specmpc_jax.config import ModelConfig, PlannerConfig, TrainConfig, model_config
from specmpc_jax.envs import registry
from specmpc_jax.envs.batch import EnvironmentBatch
from specmpc_jax.envs.protocol import EnvironmentSpec
from specmpc_jax.errors import UserError
from specmpc_jax.learning.acting import explore
from specmpc_jax.learning.batch import Batch, draw_noise
from specmpc_jax.learning.collector import Collector
from specmpc_jax.learning.flops import update_flops
from specmpc_jax.learning.learner import Learner
from specmpc_jax.learning.replay_buffer import Episode, ReplayBuffer
from specmpc_jax.learning.update import compile_updates
from specmpc_jax.progress import Progress
from specmpc_jax.world_model import WorldModel

SIZES = flags.DEFINE_list("sizes", ["1", "5"], "Model sizes in millions of parameters.")
BATCH_SIZES = flags.DEFINE_list("batch_sizes", ["256"], "Slices in one update.")
IMPLEMENTATIONS = flags.DEFINE_list(
    "implementations", ["jax", "torch_eager"], "What to time: jax, torch_eager."
)
REPEATS = flags.DEFINE_integer("repeats", 20, "Timed updates of each kind.", lower_bound=1)
STEP_REPEATS = flags.DEFINE_integer(
    "step_repeats", 50, "Timed whole training steps; 0 for none.", lower_bound=0
)
TASK = flags.DEFINE_string("task", "walker-walk", "Task whose dimensions and steps are timed.")
OUTPUT = flags.DEFINE_string("output", "results/benchmark_training", "Directory of the results.")

_PEAK_WIDTH = 2048
_MILLION = 1_000_000
_COLUMNS = (
    "implementation",
    "model_size",
    "batch_size",
    "update_ms",
    "p95_ms",
    "needed_gflop",
    "peak_gflops",
    "peak_share",
    "updates_per_s",
    "environment_steps_per_s",
    "hours_per_million_steps",
)

Timed = Callable[[], Any]  # what it returns is waited for
Maker = Callable[[ModelConfig, TrainConfig, Batch], Timed]
Row = dict[str, Any]


def main() -> None:
    """Times every size and batch size, and writes the tables."""
    sizes, batch_sizes = _numbers(SIZES), _numbers(BATCH_SIZES)
    makers = _makers(IMPLEMENTATIONS.value)
    output, rows = Path(OUTPUT.value), []
    with (
        registry.make_batch(TASK.value, 1) as lanes,
        Progress(len(sizes) * len(batch_sizes), "sizes", quiet=launch.QUIET.value) as progress,
    ):
        models = [_model(size, lanes.spec) for size in sizes]
        for model in models:
            for batch_size in batch_sizes:
                config = TrainConfig(batch_size=batch_size)
                measured = time_updates(model, config, makers, REPEATS.value)
                if STEP_REPEATS.value and "jax" in makers:
                    rate = steps_per_second(model, config, lanes, STEP_REPEATS.value)
                    for row in measured:
                        if row["implementation"] == "jax":
                            row["environment_steps_per_s"] = rate
                            row["hours_per_million_steps"] = _MILLION / rate / 3600
                rows += measured
                progress.advance()
    table = tables.format_text(rows, _COLUMNS)
    files.write_json(output / "training.json", rows)
    files.write_csv(output / "training.csv", rows, _COLUMNS)
    files.write_text(output / "training.txt", table + "\n")
    record = {"flags": launch.flag_values(), "provenance": launch.provenance()}
    files.write_json(output / "training.run.json", record)
    print(f"{table}\nwrote {output / 'training.json'}")


def time_updates(
    model: ModelConfig, config: TrainConfig, makers: dict[str, Maker], repeats: int
) -> list[Row]:
    """Times one update of each implementation, in turns.

    Returns:
      One row an implementation. `peak_gflops` is the median rate of a float32 product of
      2048 x 2048 matrices over the same rounds, and `peak_share` the share of it that the
      update's needed operations reach.
    """
    operand = jax.random.normal(launch.key(), (_PEAK_WIDTH, _PEAK_WIDTH))
    multiply = jax.jit(jnp.matmul)
    batch = _random_batch(model, config)
    timed: dict[str, Timed] = {"peak": lambda: multiply(operand, operand)}
    timed |= {name: make(model, config, batch) for name, make in makers.items()}
    for function in timed.values():
        for _ in range(2):  # compilation, and the first use of what was allocated
            jax.block_until_ready(function())
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(repeats):
        for name, function in timed.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            seconds[name].append(time.perf_counter() - start)

    peak = 2 * _PEAK_WIDTH**3 / float(np.median(seconds.pop("peak")))
    needed = update_flops(model, config).total
    rows = []
    for name, durations in seconds.items():
        median = float(np.median(durations))
        rows.append(
            {
                "implementation": name,
                "model_size": model.model_size,
                "batch_size": config.batch_size,
                "update_ms": 1e3 * median,
                "p95_ms": 1e3 * float(np.percentile(durations, 95)),
                "needed_gflop": needed / 1e9,
                "peak_gflops": peak / 1e9,
                "peak_share": needed / median / peak,
                "updates_per_s": 1 / median,
                "environment_steps_per_s": math.nan,
                "hours_per_million_steps": math.nan,
            }
        )
    return rows


def steps_per_second(
    model: ModelConfig, config: TrainConfig, lanes: EnvironmentBatch, repeats: int
) -> float:
    """Environment steps a second of training: plan, step the environment, update.

    Uses the parts that `experiments.train` runs on, one lane, one update an agent step.
    """
    planner = PlannerConfig(horizon=config.horizon).for_action_dim(model.action_dim)
    spec = lanes.spec
    # Room for the episode below and a few that the timed steps may end.
    config = TrainConfig(batch_size=config.batch_size, buffer_size=20 * (spec.episode_length + 1))
    learner = Learner(model, config, launch.key(1))
    learner.replay.add(_random_episode(spec))
    collector = Collector(lanes, launch.SEED.value)
    mean = jnp.zeros((1, planner.horizon, model.action_dim))
    start = 0.0
    warm_up = 3
    for step in range(warm_up + repeats):
        if step == warm_up:
            jax.block_until_ready(learner.state)
            start = time.perf_counter()
        observation, first = collector.observation, collector.first
        key = jax.random.fold_in(launch.key(2), step)
        action, mean = explore(model, planner, learner.params, observation, mean, first, key)
        for episode in collector.step(np.asarray(action)):
            learner.replay.add(episode)
        learner.catch_up(step + 1)
    jax.block_until_ready(learner.state)
    return repeats * spec.action_repeat / (time.perf_counter() - start)


def make_jax(model: ModelConfig, config: TrainConfig, batch: Batch) -> Timed:
    """The compiled update as training calls it: batches from the host, the state donated."""
    learner = Learner(model, TrainConfig(batch_size=config.batch_size, buffer_size=4), launch.key())
    run = compile_updates(WorldModel(model), config)
    batches = jax.tree.map(lambda leaf: leaf[None], batch)
    state = learner.state

    def update() -> Any:
        nonlocal state
        state, metrics = run(state, batches)
        return state.updates, metrics

    return update


def make_torch_eager(model: ModelConfig, config: TrainConfig, batch: Batch) -> Timed:
    """The eager PyTorch update; its random numbers, dropout apart, are drawn beforehand."""
    from experiments.torch_update import TorchLearner

    params = jax.jit(WorldModel(model).init)(launch.key())
    learner = TorchLearner(model, config, params)
    noise = draw_noise(launch.key(1), batch, model)
    return functools.partial(learner.update, batch, noise)


_MAKERS: dict[str, Maker] = {"jax": make_jax, "torch_eager": make_torch_eager}


def _makers(names: list[str]) -> dict[str, Maker]:
    unknown = [name for name in names if name not in _MAKERS]
    if unknown or not names:
        raise UserError(f"implementations are {', '.join(_MAKERS)}; got {', '.join(names) or '-'}")
    return {name: _MAKERS[name] for name in names}


def _numbers(flag: flags.FlagHolder) -> list[int]:
    if not flag.value or not all(text.isdigit() and int(text) for text in flag.value):
        raise UserError(f"--{flag.name} takes whole numbers above 0, such as 1,5")
    return [int(text) for text in flag.value]


def _model(size: int, spec: EnvironmentSpec) -> ModelConfig:
    return model_config(
        size,
        action_dim=spec.action_dim,
        observation_shape=spec.observation_shape,
        tasks=(spec.task,),
        action_dims=(spec.action_dim,),
        observation_dims=spec.observation_shape,
        episode_lengths=(spec.episode_length,),
    )


def _random_batch(model: ModelConfig, config: TrainConfig) -> Batch:
    rng = np.random.default_rng(launch.SEED.value)
    replay = ReplayBuffer(1000, model.observation_shape, model.action_dim, horizon=config.horizon)
    spec = EnvironmentSpec("", "state", model.observation_shape, model.action_dim, 500, 1)
    replay.add(_random_episode(spec, rng))
    return replay.sample(config.batch_size)


def _random_episode(spec: EnvironmentSpec, rng: np.random.Generator | None = None) -> Episode:
    rng = rng or np.random.default_rng(launch.SEED.value)
    steps = spec.episode_length
    return Episode(
        observation=rng.normal(size=(steps + 1, *spec.observation_shape)).astype(np.float32),
        action=rng.uniform(-1, 1, (steps, spec.action_dim)).astype(np.float32),
        reward=rng.uniform(0, 2, steps).astype(np.float32),
        terminated=np.zeros(steps, np.float32),
    )


if __name__ == "__main__":
    launch.run(main)
