"""Time of an update by number of devices, and what devices have to tell each other for it.

python -m experiments.benchmark_parallel --device=cpu --model_size=1 --world_sizes=1,2,4,8

Every device gets --batch_size slices a gradient, so the effective batch grows with the number of
devices. On a CPU that is split into devices these share its cores: slices a second can at
best stay the same, and what is lost is the cost of the split.
"""

import time
from pathlib import Path

import jax
import numpy as np
from absl import flags

from experiments.support import launch, tables
from specmpc_jax import files
from specmpc_jax.config import model_config
from specmpc_jax.errors import UserError
from specmpc_jax.learning import data_parallel, train_state
from specmpc_jax.learning.batch import Batch
from specmpc_jax.learning.config import TrainConfig
from specmpc_jax.progress import track
from specmpc_jax.world_model import WorldModel

MODEL_SIZE = flags.DEFINE_integer("model_size", 1, "Model size in millions.")
WORLD_SIZES = flags.DEFINE_list("world_sizes", ["1", "2", "4", "8"], "Numbers of devices.")
SYNC_FREQS = flags.DEFINE_list("sync_freqs", ["1"], "Gradients added up for one update.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "Slices of one gradient.", lower_bound=1)
REPEATS = flags.DEFINE_integer("repeats", 5, "Timed calls of each row.", lower_bound=1)
OBSERVATION_DIM = flags.DEFINE_integer("observation_dim", 24, "Numbers in an observation.")
ACTION_DIM = flags.DEFINE_integer("action_dim", 6, "Numbers in an action.")
OUTPUT = flags.DEFINE_string(
    "output", "results/benchmark_parallel", "Directory that gets parallel.json and parallel.csv."
)
COLUMNS = (
    *(
        "devices",
        "sync_freq",
        "effective_batch",
        "update_ms",
        "best_ms",
        "slices_per_second",
        "compile_s",
    ),
    *("gradient_mb", "sent_mb"),
)


def main() -> None:
    """Measures every combination and writes the table."""
    pairs = [(n, k) for n in _numbers(WORLD_SIZES.value) for k in _numbers(SYNC_FREQS.value)]
    most = max(n for n, _ in pairs)
    if most > len(jax.devices()):
        raise UserError(f"{most} devices are asked for; JAX sees {len(jax.devices())}")
    model = WorldModel(
        model_config(
            MODEL_SIZE.value,
            action_dim=ACTION_DIM.value,
            observation_shape=(OBSERVATION_DIM.value,),
        )
    )
    rows = [
        measure(model, jax.devices()[:n], k)
        for n, k in track(pairs, "benchmark", quiet=launch.QUIET.value)
    ]
    directory = Path(OUTPUT.value)
    record = {"rows": rows, "flags": launch.flag_values(), "provenance": launch.provenance()}
    files.write_json(directory / "parallel.json", record)
    files.write_csv(directory / "parallel.csv", rows, COLUMNS)
    print(tables.format_text(rows))
    print(f"wrote {directory}")


def measure(model: WorldModel, devices: list[jax.Device], sync_freq: int) -> dict[str, float]:
    """One row: the median and the least time of an update on these devices."""
    config = TrainConfig(batch_size=BATCH_SIZE.value)
    state = jax.jit(train_state.init, static_argnums=(0, 1))(model, config, launch.key())
    gradient_mb = data_parallel.gradient_bytes(model) / 1e6
    state = data_parallel.replicate(state, devices)
    update = data_parallel.compile_parallel_updates(model, config, devices, sync_freq)
    batches = _batches(model, len(devices), sync_freq)
    begin = time.perf_counter()
    state, metrics = jax.block_until_ready(update(state, batches))
    first = time.perf_counter() - begin
    times = []
    for _ in range(REPEATS.value):
        begin = time.perf_counter()
        state, metrics = jax.block_until_ready(update(state, batches))
        times.append(time.perf_counter() - begin)
    seconds = float(np.median(times))
    count = len(devices)
    effective = count * sync_freq * config.batch_size
    return {
        "devices": count,
        "sync_freq": sync_freq,
        "effective_batch": effective,
        "update_ms": 1e3 * seconds,
        "best_ms": 1e3 * min(times),
        "slices_per_second": effective / seconds,
        "compile_s": first - seconds,
        "gradient_mb": gradient_mb,
        "sent_mb": 2 * (count - 1) / count * gradient_mb,
    }


def _batches(model: WorldModel, count: int, sync_freq: int) -> Batch:
    """One update's worth of random slices, `[N, K, ...]`."""
    random = np.random.default_rng(launch.SEED.value)
    lead, size, horizon = (count, sync_freq), BATCH_SIZE.value, TrainConfig().horizon
    steps = (*lead, horizon, size)
    shape = (*lead, horizon + 1, size, *model.config.observation_shape)
    return Batch(
        observation=random.normal(size=shape).astype(np.float32),
        action=random.uniform(-1, 1, (*steps, model.config.action_dim)).astype(np.float32),
        reward=random.uniform(0, 2, steps).astype(np.float32),
        terminated=np.zeros(steps, np.float32),
    )


def _numbers(texts: list[str]) -> list[int]:
    if not all(text.isdigit() and int(text) for text in texts):
        raise UserError(f"{','.join(texts)} must be positive whole numbers")
    return [int(text) for text in texts]


def _split_cpu() -> None:
    launch.use_virtual_cpu_devices(max(_numbers(WORLD_SIZES.value)))


if __name__ == "__main__":
    launch.run(main, _split_cpu)
