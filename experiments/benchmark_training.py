"""Times one update, here and as eager PyTorch computes it, and whole training steps.

python -m experiments.benchmark_training --sizes=1,5 --implementations=jax,torch_eager

All implementations of a size take turns, with a large matrix product between them, so that
a slow minute of the machine strikes all alike. Writes training.json, .csv, .txt and
training.run.json to the output directory.
"""

from pathlib import Path

from absl import flags

from experiments.support import launch, tables, update_timing
from specmpc_jax import files
from specmpc_jax.config import ModelConfig, model_config
from specmpc_jax.envs import registry
from specmpc_jax.envs.protocol import EnvironmentSpec
from specmpc_jax.errors import UserError
from specmpc_jax.learning.config import TrainConfig
from specmpc_jax.progress import Progress

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

_MILLION = 1_000_000


def main() -> None:
    """Times every size and batch size, and writes the tables."""
    sizes, batch_sizes = _numbers(SIZES), _numbers(BATCH_SIZES)
    makers = _makers(IMPLEMENTATIONS.value)
    output = Path(OUTPUT.value)
    rows: list[update_timing.Row] = []
    with (
        registry.make_batch(TASK.value, 1) as lanes,
        Progress(len(sizes) * len(batch_sizes), "sizes", quiet=launch.QUIET.value) as progress,
    ):
        models = [_model(size, lanes.spec) for size in sizes]
        for model in models:
            for batch_size in batch_sizes:
                config = TrainConfig(batch_size=batch_size)
                measured = update_timing.time_updates(
                    model, config, makers, REPEATS.value, launch.key()
                )
                if STEP_REPEATS.value and "jax" in makers:
                    rate = update_timing.steps_per_second(
                        model, config, lanes, STEP_REPEATS.value, launch.key(1)
                    )
                    for row in measured:
                        if row["implementation"] == "jax":
                            row["environment_steps_per_s"] = rate
                            row["hours_per_million_steps"] = _MILLION / rate / 3600
                rows += measured
                progress.advance()
    table = tables.format_text(rows, update_timing.COLUMNS)
    files.write_json(output / "training.json", rows)
    files.write_csv(output / "training.csv", rows, update_timing.COLUMNS)
    files.write_text(output / "training.txt", table + "\n")
    record = {"flags": launch.flag_values(), "provenance": launch.provenance()}
    files.write_json(output / "training.run.json", record)
    print(f"{table}\nwrote {output / 'training.json'}")


def _makers(names: list[str]) -> dict[str, update_timing.Maker]:
    known = update_timing.MAKERS
    if not names or not set(names) <= set(known):
        raise UserError(f"implementations are {', '.join(known)}; got {', '.join(names) or '-'}")
    return {name: known[name] for name in names}


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


if __name__ == "__main__":
    launch.run(main)
