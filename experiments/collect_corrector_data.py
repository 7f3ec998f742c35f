"""Collects corrector data: plans executed in blocks, every visited step labelled by the teacher.

    python -m experiments.collect_corrector_data --task=walker-walk \\
        --checkpoint=bundled:walker-walk-1m --episodes=10 --output=data

Finished episodes are kept: the same command goes on where it was killed.
"""

from pathlib import Path

from absl import flags

from experiments import corrector_files, launch, planner_flags, sharded, teachers
from experiments.collecting import collect_round, finish, mean_return
from specmpc_jax import processes
from specmpc_jax.agent import Agent
from specmpc_jax.correctors.corrector import Corrector
from specmpc_jax.correctors.dataset import CorrectorDataset, join
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
    if not ALL_SIZES.value:
        _collect(planner_flags.apply(teachers.load_teacher(), PLAN_HORIZON.value), task)
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
        if processes.from_first(there):
            print(f"{size}M is complete, skipped")
            continue
        _collect(agent, task)


def _collect(agent: Agent, task: str) -> None:
    path = corrector_files.data_path(OUTPUT.value, agent.config.model_size)
    earlier = _earlier(path) if processes.is_first() else None
    # Of several processes the first one knows the files.
    before = (0, 0) if earlier is None else (int(earlier["round"].max()) + 1, earlier.num_episodes)
    round_number, episodes_before = processes.from_first(before)
    corrector = Corrector.load(CORRECTOR.value) if CORRECTOR.value else None
    controller = agent.controller(EXEC_HORIZON.value, corrector, follow=FOLLOW.value, task=task)
    first = ENV_SEED.value + episodes_before
    seeds = range(first, first + EPISODES.value)
    metadata = {
        "teacher": agent.fingerprint,
        "model_size": agent.config.model_size,
        "task": task,
        "planner": planner_flags.settings(agent),
        "exec_horizon": EXEC_HORIZON.value,
        "history_len": HISTORY_LEN.value,
        "follow": FOLLOW.value,
        "corrector": corrector.fingerprint if corrector else None,
    }
    data = collect_round(
        controller,
        task,
        seeds,
        NUM_ENVS.value,
        metadata,
        round_number,
        path,
        sharded.devices(),
    )
    if not processes.is_first():
        return
    returned = mean_return(data)
    data = join([data] if earlier is None else [earlier, data])
    record = {**data.metadata, "provenance": launch.provenance()}
    finish(CorrectorDataset(data.arrays, record), path)
    print(
        f"return while collecting {returned:.1f}; {len(data)} steps of {data.num_episodes} "
        f"episodes in {path}"
    )


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
