"""Trains a multi-task TD-MPC2 agent on recorded episodes, the official mt30 or mt80 data.

    python -m experiments.train_offline --task_set=mt30 --data_dir=mt30 --model_size=5

The directory holds the official chunk files (*.pt, read without running anything of
theirs), or what experiments.convert_dataset made of them, which is faster to sample from
when it does not fit into memory. Everything goes to logs/<set>/<seed>/<exp_name>/; a run
that was killed goes on with --resume and otherwise the same flags.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from experiments.support import launch, training_flags
from specmpc_jax.agent import Agent
from specmpc_jax.config import ModelConfig, PlannerConfig, model_config
from specmpc_jax.datasets.episodes import Chunk, open_chunks
from specmpc_jax.envs.multitask import spec_for
from specmpc_jax.evaluation.comparison import EvaluationSettings, evaluate_controller
from specmpc_jax.evaluation.episodes import success_rate
from specmpc_jax.evaluation.statistics import normalised_score
from specmpc_jax.learning import offline
from specmpc_jax.learning.config import OfflineConfig, TrainConfig
from specmpc_jax.learning.offline_data import OfflineData
from specmpc_jax.learning.run_directory import RunDirectory
from specmpc_jax.tasks import TaskSet, task_set

TASK_SET = flags.DEFINE_string("task_set", "mt30", "Tasks of the data: mt30 or mt80.")
DATA_DIR = flags.DEFINE_string("data_dir", "mt30", "Directory of the data.")
MODEL_SIZE = flags.DEFINE_integer("model_size", 5, "Model size in millions: 1, 5, 19, 48 or 317.")
EXP_NAME = flags.DEFINE_string("exp_name", "offline", "Name of the run's directory.")
LOGS_DIR = flags.DEFINE_string("logs_dir", "logs", "Directory of all runs.")
RESUME = flags.DEFINE_bool("resume", False, "Go on with the run in the directory, if any.")
DROPOUT = flags.DEFINE_float("dropout", 0.01, "Dropout rate of the Q functions.")
EVAL_TASKS = flags.DEFINE_list(
    "eval_tasks", [], "Tasks to evaluate on every --eval_freq updates (default: the whole set)."
)
LEAK = flags.DEFINE_bool(
    "leak_embedding_gradient",
    False,
    "Add the policy loss's gradient of the task embedding to the next update, as the official "
    "code does.",
)

_OFFLINE = {
    "steps": "Updates in all.",
    "fused_updates": "Updates in one compiled call.",
    "log_freq": "Updates between rows of train.csv.",
    "eval_freq": "Updates between evaluations; 0 for none.",
    "eval_episodes": "Episodes of an evaluation, on each task.",
    "checkpoint_freq": "Updates between checkpoints; 0 for one at the end.",
}
training_flags.define(OfflineConfig, _OFFLINE)
training_flags.define(TrainConfig, training_flags.UPDATE)
training_flags.define(PlannerConfig, training_flags.PLANNER)


def main() -> None:
    """Trains as the flags say."""
    tasks = task_set(TASK_SET.value)
    chunks = open_chunks(DATA_DIR.value)
    settings = make_settings(tasks)
    data = OfflineData(chunks, tasks, horizon=settings.train.horizon, seed=settings.offline.seed)
    if not launch.QUIET.value:
        print(_describe(chunks, data))
    evaluate = _evaluation(settings, tasks) if settings.offline.eval_freq else None
    directory = RunDirectory(
        Path(LOGS_DIR.value, tasks.name, str(launch.SEED.value), EXP_NAME.value)
    )
    offline.train(
        settings,
        directory,
        data,
        evaluate=evaluate,
        resume=RESUME.value,
        record={"flags": launch.flag_values(), "provenance": launch.provenance()},
        quiet=launch.QUIET.value,
    )
    print(f"done; wrote {directory.path}")


def make_settings(tasks: TaskSet) -> offline.OfflineSettings:
    """All configurations, from the flags and the task set."""
    values = flags.FLAGS.flag_values_dict()
    chosen = {name: values[name] for name in (*training_flags.PLANNER, "horizon")}
    train = {name: values[name] for name in training_flags.UPDATE}
    return offline.OfflineSettings(
        model=_model(tasks),
        planner=PlannerConfig(**{n: v for n, v in chosen.items() if v is not None}),
        train=TrainConfig(**train, leak_embedding_gradient=LEAK.value),
        offline=OfflineConfig(
            task_set=tasks.name,
            seed=launch.SEED.value,
            **{name: values[name] for name in _OFFLINE},
        ),
    )


def _model(tasks: TaskSet) -> ModelConfig:
    """The released architecture of a size and a task set, with its exceptions (spec section 1)."""
    size = MODEL_SIZE.value
    wide_embedding = tasks.name == "mt80" or size in (1, 317)
    narrow_latent = {"latent_dim": 512} if tasks.name == "mt30" and size == 19 else {}
    return model_config(
        size,
        action_dim=max(tasks.action_dims),
        observation_shape=(max(tasks.observation_dims),),
        task_dim=96 if wide_embedding else 64,
        dropout=DROPOUT.value,
        tasks=tasks.names,
        action_dims=tasks.action_dims,
        observation_dims=tasks.observation_dims,
        episode_lengths=tasks.episode_lengths,
        **narrow_latent,
    )


def _describe(chunks: list[Chunk], data: OfflineData) -> str:
    steps = data.num_episodes * (chunks[0].rows - 1)
    return (
        f"{len(chunks)} chunks, {data.num_episodes:,} episodes of {chunks[0].rows - 1} steps, "
        f"{steps:,} steps in all"
    )


def _evaluation(
    settings: offline.OfflineSettings, tasks: TaskSet
) -> Callable[[Agent, int], dict[str, Any]]:
    """What measures an agent; every task that it needs is made once to see that it can be."""
    names = EVAL_TASKS.value or tasks.names
    for name in names:
        tasks.index(name)
        spec_for(settings.model, name)
    first = 1000
    seeds = tuple(range(first, first + settings.offline.eval_episodes))

    def evaluate(agent: Agent, updates: int) -> dict[str, Any]:
        scores, returns = [], {}
        for name in names:
            measured = EvaluationSettings(name, seeds, 1)
            episodes = evaluate_controller(
                agent.controller(task=name), measured, launch.key(updates)
            ).episodes
            mean = sum(episode.episode_return for episode in episodes) / len(episodes)
            returns[f"return {name}"] = mean
            scores.append(normalised_score(name, mean, success_rate(episodes)))
        return {"normalised_score": sum(scores) / len(scores), **returns}

    return evaluate


if __name__ == "__main__":
    launch.run(main)
