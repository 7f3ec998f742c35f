"""Collects corrector data: plans executed in blocks, every visited step labelled by the teacher.

    python -m experiments.collect_corrector_data --task=walker-walk \\
        --checkpoint=bundled:walker-walk-1m --episodes=10 --output=data

Finished episodes are kept: the same command goes on where it was killed. With
--dagger_rounds=N a corrector is trained on the data and drives for N more rounds,
each time trained again on all data so far; it ends in --corrector_dir. With a
multi-task teacher --task may be one of its tasks, or the set (mt30, mt80) for all.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags

from experiments.support import (
    corrector_files,
    corrector_training,
    launch,
    planner_flags,
    sharded,
    simulator,
    tables,
    teachers,
)
from experiments.support.collecting import collect_round, finish, keep_part, mean_return, part_path
from experiments.support.dagger import Aggregation, aggregate
from specmpc_jax import processes
from specmpc_jax.agent import Agent
from specmpc_jax.correctors.corrector import Corrector
from specmpc_jax.correctors.dataset import CorrectorDataset, join
from specmpc_jax.envs.multitask import check_backend
from specmpc_jax.errors import UserError

ALL_SIZES = flags.DEFINE_bool(
    "all_model_sizes", False, "Collect with every size of teacher in --model_dir."
)
EPISODES = flags.DEFINE_integer("episodes", 10, "Episodes.", lower_bound=1)
PLAN_HORIZON = flags.DEFINE_integer(
    "plan_horizon", None, "Planning horizon H in agent steps (default 3).", lower_bound=1
)
EXEC_HORIZON = flags.DEFINE_integer(
    "exec_horizon",
    3,
    "Steps executed of each plan; data hold offsets 0 to this less one.",
    lower_bound=2,
)
HISTORY_LEN = flags.DEFINE_integer(
    "history_len", 4, "Window that temporal correctors of these data see, in steps.", lower_bound=1
)
CORRECTOR = flags.DEFINE_string(
    "corrector", None, "Corrector that drives: an aggregation round. Its data join those there."
)
DAGGER_ROUNDS = flags.DEFINE_integer(
    "dagger_rounds",
    None,
    "Aggregation rounds after the first, of --episodes each, in which a corrector drives that "
    "was trained on all data so far. Complete rounds are kept.",
    lower_bound=1,
)
DAGGER_CORRECTOR = flags.DEFINE_enum(
    "dagger_corrector",
    None,
    ["two_tower", "temporal", "bc", "gated"],
    "Which corrector drives in aggregation rounds (default two_tower).",
)
CORRECTOR_DIR = flags.DEFINE_string(
    "corrector_dir",
    corrector_files.CORRECTOR_DIR,
    "Directory that gets the corrector which aggregation rounds end with.",
)
FOLLOW = flags.DEFINE_enum(
    "follow", "elite", ["elite", "mean"], "What a block executes: the sampled elite or the mean."
)
NUM_ENVS = flags.DEFINE_integer("num_envs", 1, "Environments stepped side by side.", lower_bound=1)
ENV_SEED = flags.DEFINE_integer(
    "env_seed", 100_000, "Environment seed of the first episode; far from evaluation seeds."
)
OUTPUT = flags.DEFINE_string(
    "output",
    corrector_files.DATA_DIR,
    "Directory that gets corrector_data_<size>.npz, or a file ending in .npz.",
)


def main() -> None:
    """Collects for one teacher, or for all sizes that are there."""
    task = teachers.TASK.value
    _check_flags()
    collect = _aggregate if DAGGER_ROUNDS.value else _collect
    if not ALL_SIZES.value:
        collect(planner_flags.apply(teachers.load_teacher(), PLAN_HORIZON.value), task)
        return
    if OUTPUT.value.endswith(".npz"):
        raise UserError("with --all_model_sizes, --output must be a directory, not a file")
    sizes = teachers.sizes_available(teachers.MODEL_DIR.value, task)
    if not sizes:
        raise UserError(f"{teachers.MODEL_DIR.value} holds no teacher for {task}")
    for size in sizes:
        path = str(teachers.find(teachers.MODEL_DIR.value, task, size).path)
        agent = planner_flags.apply(teachers.load(path, task, size), PLAN_HORIZON.value)
        there = corrector_files.data_path(OUTPUT.value, agent.config.model_size).exists()
        # Aggregation finds out by itself which of its rounds are there.
        if processes.from_first(there) and not DAGGER_ROUNDS.value:
            print(f"{size}M is complete, skipped")
            continue
        collect(agent, task)


def _check_flags() -> None:
    if DAGGER_CORRECTOR.value and not DAGGER_ROUNDS.value:
        raise UserError("--dagger_corrector needs --dagger_rounds, the number of rounds it drives")
    if CORRECTOR.value and DAGGER_ROUNDS.value:
        raise UserError(
            "--corrector adds one round by hand and --dagger_rounds trains its own correctors: "
            "give one of them"
        )
    if DAGGER_ROUNDS.value and (jax.process_count() > 1 or (sharded.DEVICES.value or 1) > 1):
        raise UserError("--dagger_rounds runs on one device: leave --devices out")
    if DAGGER_ROUNDS.value and len(teachers.tasks_named(teachers.TASK.value)) > 1:
        raise UserError(
            f"--dagger_rounds takes one task; --task={teachers.TASK.value} is a set: add rounds "
            "with --corrector instead"
        )


def _collect(agent: Agent, task: str) -> None:
    path = corrector_files.data_path(OUTPUT.value, agent.config.model_size)
    earlier = _earlier(path) if processes.is_first() else None
    # Of several processes the first one knows the files.
    before = (0, 0) if earlier is None else (int(earlier["round"].max()) + 1, earlier.num_episodes)
    round_number, episodes_before = processes.from_first(before)
    corrector = Corrector.load(CORRECTOR.value) if CORRECTOR.value else None
    first = ENV_SEED.value + episodes_before
    seeds = range(first, first + EPISODES.value)
    metadata = {
        **_settings(agent, task),
        "corrector": corrector.fingerprint if corrector else None,
        "round": round_number,
    }
    names = teachers.tasks_named(task)
    data = _collect_tasks(agent, names, corrector, seeds, metadata, path)
    if data is None:
        return
    data.metadata["task"] = task
    returned = mean_return(data)
    data = join([data] if earlier is None else [earlier, data])
    record = {**data.metadata, "provenance": launch.provenance()}
    finish(CorrectorDataset(data.arrays, record), path)
    for name in names:
        part_path(path, name).unlink(missing_ok=True)
    print(
        f"return while collecting {returned:.1f}; {len(data)} steps of {data.num_episodes} "
        f"episodes in {path}"
    )


def _aggregate(agent: Agent, task: str) -> None:
    """All aggregation rounds of one teacher; ends with the last corrector in its directory."""
    kind = DAGGER_CORRECTOR.value or "two_tower"
    path = corrector_files.data_path(OUTPUT.value, agent.config.model_size)
    plan = Aggregation(
        task=task,
        rounds=DAGGER_ROUNDS.value,
        episodes=EPISODES.value,
        first_env_seed=ENV_SEED.value,
        num_envs=NUM_ENVS.value,
        settings=_settings(agent, task),
        config=corrector_training.corrector_config(kind, HISTORY_LEN.value),
        training=corrector_training.train_config(),
    )
    data, corrector, rows = aggregate(agent, plan, path)
    directory = CORRECTOR_DIR.value
    target = corrector_files.corrector_path(directory, agent.config.model_size, kind)
    corrector.save(str(target), overwrite=True)
    print(tables.format_text(rows))
    print(f"{len(data)} steps of {data.num_episodes} episodes in {path}, corrector in {target}")


def _settings(agent: Agent, task: str) -> dict[str, Any]:
    """Everything that collected data depend on, but who drives and the environment seeds."""
    return {
        "teacher": agent.fingerprint,
        "model_size": agent.config.model_size,
        "task": task,
        "planner": planner_flags.settings(agent),
        "exec_horizon": EXEC_HORIZON.value,
        "history_len": HISTORY_LEN.value,
        "follow": FOLLOW.value,
        "backend": simulator.BACKEND.value,
        "seed": launch.SEED.value,
    }


def _collect_tasks(
    agent: Agent,
    names: Sequence[str],
    corrector: Corrector | None,
    seeds: Sequence[int],
    metadata: Mapping[str, Any],
    path: Path,
) -> CorrectorDataset | None:
    """Collects one round on each task; of several, those that are complete are kept.

    The first process has all data, the others None.
    """
    for name in names:
        # What cannot be made shows before hours of work.
        check_backend(agent.config, name, simulator.BACKEND.value)
    parts = []
    for name in names:
        controller = agent.controller(EXEC_HORIZON.value, corrector, follow=FOLLOW.value, task=name)
        part = path if len(names) == 1 else part_path(path, name)
        own = {**metadata, "task": name}
        data = collect_round(
            controller,
            name,
            seeds,
            NUM_ENVS.value,
            own,
            metadata["round"],
            part,
            sharded.devices(),
            simulator.BACKEND.value,
        )
        if not processes.is_first():
            continue
        if len(names) > 1:
            keep_part(data, part)
        parts.append(data)
    return join(parts) if processes.is_first() else None


def _earlier(path: Path) -> CorrectorDataset | None:
    """Data of earlier rounds that an aggregation round joins; None for a first round."""
    if not CORRECTOR.value:
        if path.exists():
            raise UserError(
                f"{path} exists already; remove it, choose another --output, or name a "
                "--corrector to add an aggregation round"
            )
        return None
    return CorrectorDataset.load(path)


if __name__ == "__main__":
    sharded.run(main)
