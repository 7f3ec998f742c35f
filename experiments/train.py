"""Trains a single-task TD-MPC2 agent from scratch.

python -m experiments.train --task=walker-walk --model_size=1 --steps=200000

Everything goes to logs/<task>/<seed>/<exp_name>/; a run that was killed goes on
with --resume and otherwise the same flags.
"""

import dataclasses
from pathlib import Path
from typing import Any

from absl import flags

from experiments import launch
from specmpc_jax import metrics_writers
from specmpc_jax.config import (
    OnlineConfig,
    PlannerConfig,
    TrainConfig,
    model_config,
)
from specmpc_jax.envs import registry
from specmpc_jax.envs.protocol import EnvironmentSpec
from specmpc_jax.learning import online
from specmpc_jax.learning.replay_buffer import rows_for_bytes
from specmpc_jax.learning.run_directory import RunDirectory

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
    "batch_size": "Slices in one update.",
    "horizon": "Planning horizon and length of a slice, in agent steps.",
    "reward_coef": "Weight of the reward loss.",
    "value_coef": "Weight of the value loss.",
    "termination_coef": "Weight of the termination loss.",
    "consistency_coef": "Weight of the consistency loss.",
    "rho": "Weight of a step relative to the step before it.",
    "lr": "Learning rate.",
    "enc_lr_scale": "Learning rate of the encoder relative to the others.",
    "grad_clip_norm": "Largest gradient norm, of model and policy each.",
    "tau": "Step of the target ensemble towards the online one.",
    "entropy_coef": "Weight of the policy's entropy.",
    "adam_epsilon": "Adam's epsilon for the model.",
    "policy_adam_epsilon": "Adam's epsilon for the policy.",
    "seed_steps": "Agent steps with random actions (default: max(1000, 5 episodes)).",
    "buffer_size": "Observations in the replay buffer, at most.",
    "updates_per_step": "Updates for each agent step.",
}
_PLANNER = {
    "iterations": "MPPI iterations (default: 6, or 8 from 20 action dimensions on).",
    "num_samples": "Action sequences scored in each iteration.",
    "num_elites": "Elite sequences.",
    "num_pi_trajs": "Sequences from the policy prior.",
    "min_std": "Smallest std of the planner.",
    "max_std": "Largest std of the planner.",
    "temperature": "Sharpness of the elites' weights.",
}


def _define(config: type, descriptions: dict[str, str]) -> None:
    """Defines a flag for each described field, with the field's own default and type."""
    fields = {field.name: field for field in dataclasses.fields(config)}
    for name, description in descriptions.items():
        is_float = fields[name].type is float
        define = flags.DEFINE_float if is_float else flags.DEFINE_integer
        default = None if name == "iterations" else fields[name].default
        define(name, default, description)


_define(OnlineConfig, _ONLINE)
_define(TrainConfig, _TRAIN)
_define(PlannerConfig, _PLANNER)


def main() -> None:
    """Trains as the flags say."""
    num_envs = flags.FLAGS.num_envs
    options: dict[str, Any] = {}
    if ACTION_REPEAT.value is not None:
        options["action_repeat"] = ACTION_REPEAT.value
    with (
        registry.make_batch(TASK.value, num_envs, OBSERVATION.value, **options) as lanes,
        registry.make_batch(
            TASK.value, min(num_envs, flags.FLAGS.eval_episodes), OBSERVATION.value, **options
        ) as evaluation_lanes,
    ):
        settings = make_settings(lanes.spec)
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
            quiet=launch.QUIET.value,
        )
    best = "-" if end.best_reward is None else f"{end.best_reward:.1f}"
    print(f"done; best evaluation return {best}; wrote {directory.path}")


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
