"""A tiny training run on several devices or processes, as a program that tests may kill."""

import functools
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import dataclasses  # noqa: E402

from absl import flags  # noqa: E402

from experiments.support import launch, multihost  # noqa: E402
from specmpc_jax.learning import online, parallel  # noqa: E402
from specmpc_jax.learning.config import ParallelConfig  # noqa: E402
from specmpc_jax.learning.run_directory import Position, RunDirectory  # noqa: E402
from toy_training import PointMass, make_settings  # noqa: E402

DIRECTORY = flags.DEFINE_string("directory", "run", "The run's directory.")
STEPS = flags.DEFINE_integer("steps", 640, "Environment steps.")
WORLD_SIZE = flags.DEFINE_integer("world_size", 2, "Devices.")
RESUME = flags.DEFINE_bool("resume", False, "Go on.")


def parallel_settings(steps: int, **changes: object) -> online.Settings:
    """`make_settings` with a small batch for each device."""
    settings = make_settings(steps, **{"eval_freq": 320, **changes})
    train = dataclasses.replace(settings.train, batch_size=4, seed_steps=40)
    return dataclasses.replace(settings, train=train)


def run(
    directory: str | Path,
    settings: online.Settings,
    config: ParallelConfig,
    make: object = PointMass,
    resume: bool = False,
) -> Position:
    """Trains in this process's share of a job."""
    return parallel.train(
        settings, config, RunDirectory(directory), make, PointMass.spec, resume=resume, quiet=True
    )


def main() -> None:
    config = ParallelConfig(WORLD_SIZE.value, sync_freq=2, lockstep=True, check_freq=10)
    make = functools.partial(PointMass)
    run(DIRECTORY.value, parallel_settings(STEPS.value), config, make, RESUME.value)
    print("finished", launch.SEED.value)


if __name__ == "__main__":
    multihost.run(main, lambda: WORLD_SIZE.value)
