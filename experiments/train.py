"""Trains a single-task TD-MPC2 agent from scratch.

python -m experiments.train --task=walker-walk --model_size=1 --steps=200000

Everything goes to logs/<task>/<seed>/<exp_name>/; a run that was killed goes on
with --resume and otherwise the same flags. With --finetune it begins with a teacher
instead of random weights; --seed_steps then tells how many random actions come first.
"""

import dataclasses
from pathlib import Path
from typing import Any

from absl import flags

from experiments.support import launch, simulator, training_flags
from specmpc_jax import load, metrics_writers
from specmpc_jax.config import PlannerConfig, model_config
from specmpc_jax.envs import registry
from specmpc_jax.envs.protocol import EnvironmentSpec
from specmpc_jax.errors import UserError
from specmpc_jax.learning import online
from specmpc_jax.learning.config import OnlineConfig, TrainConfig
from specmpc_jax.learning.replay_buffer import rows_for_bytes
from specmpc_jax.learning.run_directory import RunDirectory
from specmpc_jax.specialise import specialise
from specmpc_jax.types import Params

TASK = flags.DEFINE_string("task", "walker-walk", "Task to learn, such as walker-walk.")
flags.DEFINE_alias("env", "task")
MODEL_SIZE = flags.DEFINE_integer("model_size", 5, "Model size in millions: 1, 5, 19, 48 or 317.")
OBSERVATION = flags.DEFINE_enum("obs", "state", ["state", "rgb"], "What the agent sees.")
EPISODIC = flags.DEFINE_bool("episodic", False, "Whether episodes may end by themselves.")
ACTION_REPEAT = flags.DEFINE_integer(
    "action_repeat", None, "Environment steps of one action (default: the task's)."
)
EXP_NAME = flags.DEFINE_string("exp_name", "default", "Name of the run's directory.")
LOGS_DIR = flags.DEFINE_string("logs_dir", "logs", "Directory of all runs.")
RESUME = flags.DEFINE_bool("resume", False, "Go on with the run in the directory, if any.")
MPC = flags.DEFINE_bool("mpc", True, "Act with the planner; --nompc acts with the policy prior.")
TENSORBOARD = flags.DEFINE_bool("tensorboard", False, "Also write TensorBoard logs.")
WANDB = flags.DEFINE_string("wandb", None, "Also log to this Weights & Biases project.")
DROPOUT = flags.DEFINE_float("dropout", 0.01, "Dropout rate of the Q functions.")

FINETUNE = flags.DEFINE_string(
    "finetune",
    None,
    "Teacher to begin with (a converted directory, a run's checkpoint or bundled:NAME), "
    "multi-task or of this task; its size wins over --model_size.",
)
FINETUNE_EMBEDDING = flags.DEFINE_string(
    "finetune_embedding",
    None,
    "Whose task embedding a multi-task teacher begins with: one of its tasks, zero or mean "
    "(default: the task's own).",
)
BUFFER_GB = flags.DEFINE_float(
    "buffer_gb", 8.0, "Memory that the replay buffer may take, in GB; it wins over --buffer_size."
)

# What each hyper-parameter is; defaults are those of the configurations.
_ONLINE = {
    "steps": "Environment steps in all.",
    "num_envs": "Environments stepped side by side.",
    "fused_updates": "Updates in one compiled call.",
    "eval_freq": "Environment steps between evaluations; 0 for none.",
    "eval_episodes": "Episodes of an evaluation.",
    "checkpoint_freq": "Environment steps between checkpoints; 0 for one at the end.",
    "video_freq": "Environment steps between videos of evaluations; 0 for none.",
}
_TRAIN = {
    **training_flags.UPDATE,
    "seed_steps": "Agent steps with random actions (default: max(1000, 5 episodes)).",
    "buffer_size": "Observations in the replay buffer, at most.",
    "updates_per_step": "Updates for each agent step.",
}
_PLANNER = training_flags.PLANNER

training_flags.define(OnlineConfig, _ONLINE)
training_flags.define(TrainConfig, _TRAIN)
training_flags.define(PlannerConfig, _PLANNER)


def main() -> None:
    """Trains as the flags say."""
    num_envs = flags.FLAGS.num_envs
    options: dict[str, Any] = {"backend": simulator.BACKEND.value}
    if ACTION_REPEAT.value is not None:
        options["action_repeat"] = ACTION_REPEAT.value
    with (
        registry.make_batch(TASK.value, num_envs, OBSERVATION.value, **options) as lanes,
        registry.make_batch(
            TASK.value, min(num_envs, flags.FLAGS.eval_episodes), OBSERVATION.value, **options
        ) as evaluation_lanes,
    ):
        settings = make_settings(lanes.spec)
        params = None
        if FINETUNE.value:
            params, settings = _finetuned(settings, lanes.spec)
        elif FINETUNE_EMBEDDING.value:
            raise UserError("--finetune_embedding needs --finetune")
        directory = RunDirectory(
            Path(LOGS_DIR.value, lanes.spec.task, str(launch.SEED.value), EXP_NAME.value)
        )
        end = online.train(
            settings,
            directory,
            online.Lanes(lanes, evaluation_lanes),
            resume=RESUME.value,
            record={"flags": launch.flag_values(), "provenance": launch.provenance()},
            further_writers=further_writers(directory),
            params=params,
            quiet=launch.QUIET.value,
        )
    best = "-" if end.best_reward is None else f"{end.best_reward:.1f}"
    print(f"done; best evaluation return {best}; wrote {directory.path}")


def _finetuned(settings: online.Settings, spec: EnvironmentSpec) -> tuple[Params, online.Settings]:
    """Parameters of the teacher to begin with, and settings with its architecture."""
    teacher = load(FINETUNE.value)
    params, model = teacher.params, teacher.config
    if model.multitask and spec.observation == "state":
        params, model = specialise(
            params,
            model,
            spec.task,
            observation_dim=spec.observation_shape[0],
            action_dim=spec.action_dim,
            episode_length=spec.episode_length,
            start=FINETUNE_EMBEDDING.value,
        )
    elif FINETUNE_EMBEDDING.value:
        raise UserError(f"{FINETUNE.value} has no task embedding; leave --finetune_embedding out")
    shapes = (model.observation, model.observation_shape, model.action_dim, model.episodic)
    wanted = (spec.observation, spec.observation_shape, spec.action_dim, EPISODIC.value)
    if shapes != wanted:
        raise UserError(
            f"{FINETUNE.value} cannot begin {spec.task}: observation, its shape, action dim and "
            f"episodic are {shapes}, the task needs {wanted}"
        )
    model = dataclasses.replace(
        model,
        dropout=DROPOUT.value,
        tasks=(spec.task,),
        episode_lengths=(spec.episode_length,),
    )
    return params, dataclasses.replace(settings, model=model)


def make_settings(spec: EnvironmentSpec, num_replays: int = 1) -> online.Settings:
    """All configurations, from the flags and the environment's facts.

    Args:
      spec: the environment's facts.
      num_replays: replay buffers that share the memory of --buffer_gb.
    """
    values = flags.FLAGS.flag_values_dict()
    sizes = {}
    if spec.observation == "rgb":
        # The pixel encoder's output is the latent: 4 x 4 positions of each channel.
        latent_dim = model_config(MODEL_SIZE.value, action_dim=spec.action_dim).latent_dim
        sizes["num_channels"] = latent_dim // 16
    model = model_config(
        MODEL_SIZE.value,
        action_dim=spec.action_dim,
        observation=spec.observation,
        observation_shape=spec.observation_shape,
        dropout=DROPOUT.value,
        episodic=EPISODIC.value,
        tasks=(spec.task,),
        action_dims=(spec.action_dim,),
        observation_dims=spec.observation_shape[:1] if spec.observation == "state" else (),
        episode_lengths=(spec.episode_length,),
        **sizes,
    )
    chosen = {name: values[name] for name in (*_PLANNER, "horizon") if values[name] is not None}
    planner = PlannerConfig(**chosen)
    if "iterations" not in chosen:
        planner = planner.for_action_dim(spec.action_dim)
    train = TrainConfig(**{name: values[name] for name in _TRAIN})
    dtype = "uint8" if spec.observation == "rgb" else "float32"
    rows = rows_for_bytes(
        int(1e9 * BUFFER_GB.value / num_replays), spec.observation_shape, spec.action_dim, dtype
    )
    return online.Settings(
        model=model,
        planner=planner,
        train=dataclasses.replace(train, buffer_size=min(train.buffer_size, rows)),
        online=OnlineConfig(
            backend=simulator.BACKEND.value,
            task=spec.task,
            seed=launch.SEED.value,
            use_planner=MPC.value,
            **{name: values[name] for name in _ONLINE},
        ),
    )


def further_writers(directory: RunDirectory) -> online.WriterFactory | None:
    """TensorBoard and wandb, as far as they are asked for."""
    if not TENSORBOARD.value and not WANDB.value:
        return None
    run = metrics_writers.start_wandb(WANDB.value, directory.path) if WANDB.value else None

    def make(name: str, resume_step: int | None) -> metrics_writers.MetricsWriter:
        writers: list[metrics_writers.MetricsWriter] = []
        if TENSORBOARD.value:
            path = directory.path / "tensorboard"
            writers.append(metrics_writers.TensorBoardWriter(path, name, resume_step))
        if run is not None:
            writers.append(metrics_writers.WandbWriter(run, name))
        return metrics_writers.Writers(writers)

    return make


if __name__ == "__main__":
    launch.run(main)
