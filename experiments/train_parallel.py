"""Trains a single-task TD-MPC2 agent on many devices, in one process or several.

    python -m experiments.train_parallel --task=walker-walk --model_size=5 --world_size=8

Takes the flags of experiments.train; --batch_size, --num_envs, --buffer_size and
--seed_steps are those of one device. docs/distributed.md has the commands for several hosts.
"""

import functools
from pathlib import Path

from absl import flags

from experiments import train as single
from experiments.support import launch, multihost, simulator
from specmpc_jax import processes
from specmpc_jax.envs import registry
from specmpc_jax.errors import UserError
from specmpc_jax.learning import parallel
from specmpc_jax.learning.config import ParallelConfig
from specmpc_jax.learning.run_directory import RunDirectory

WORLD_SIZE = flags.DEFINE_integer(
    "world_size", None, "Devices in all processes together (default: all there are).", lower_bound=1
)
SYNC_FREQ = flags.DEFINE_integer(
    "sync_freq", 1, "Gradients that a device adds up before they are averaged and applied."
)
LOCKSTEP = flags.DEFINE_bool(
    "lockstep",
    False,
    "All environments wait for the slowest one; a killed run then resumes to the same numbers.",
)
CHECK_FREQ = flags.DEFINE_integer(
    "check_freq", 1000, "Updates between comparisons of all replicas; 0 for checkpoints only."
)


def main() -> None:
    """Trains as the flags say."""
    if flags.FLAGS.video_freq:
        raise UserError("train_parallel films nothing; use experiments.evaluate --save_video")
    if simulator.BACKEND.value != "mujoco":
        raise UserError("train_parallel steps environments in processes; train has --backend=mjx")
    if single.FINETUNE.value:
        raise UserError("train_parallel starts from nothing; experiments.train has --finetune")
    devices = processes.devices_in_use(WORLD_SIZE.value)
    options = {}
    if single.ACTION_REPEAT.value is not None:
        options["action_repeat"] = single.ACTION_REPEAT.value
    make = functools.partial(registry.make, single.TASK.value, single.OBSERVATION.value, **options)
    environment = make()
    spec = environment.spec
    environment.close()
    config = ParallelConfig(len(devices), SYNC_FREQ.value, LOCKSTEP.value, CHECK_FREQ.value)
    directory = RunDirectory(
        Path(single.LOGS_DIR.value, spec.task, str(launch.SEED.value), single.EXP_NAME.value)
    )
    own = sum(device.process_index == devices[0].process_index for device in devices)
    settings = single.make_settings(spec, num_replays=own)
    if not launch.QUIET.value:
        batch = settings.train.batch_size
        print(
            f"{len(devices)} devices x batch {batch} x sync_freq {config.sync_freq} = effective "
            f"batch {len(devices) * batch * config.sync_freq}; "
            f"{len(devices) * settings.online.num_envs} environments",
            flush=True,
        )
    end = parallel.train(
        settings,
        config,
        directory,
        make,
        spec,
        resume=single.RESUME.value,
        record={"flags": launch.flag_values(), "provenance": launch.provenance()},
        further_writers=single.further_writers(directory) if processes.is_first() else None,
        quiet=launch.QUIET.value,
    )
    if processes.is_first():
        best = "-" if end.best_reward is None else f"{end.best_reward:.1f}"
        print(f"done; best evaluation return {best}; wrote {directory.path}")


if __name__ == "__main__":
    multihost.run(main, lambda: WORLD_SIZE.value)
