"""Compares ways of executing a teacher's plans, over the same environment seeds.

    python -m experiments.eval_corrector --task=walker-walk \\
        --checkpoint=bundled:walker-walk-1m --corrector_dir=correctors --episodes=10

With a multi-task teacher --task may be one of its tasks, or the set (mt30, mt80) for all:
then every variant gets a normalised score too.

With --backend=mjx environment, planner and corrector run as one program on the device, for
--num_envs episodes side by side; --perturb_mass, --perturb_friction and --perturb_gain then
let every episode's world differ from the one that the teacher knows. The latency is
measured beside the task's own environment in any case.

With --devices=N the episodes are shared out over N devices; they are the same ones. With
--trace it also writes pages that show an episode step by step, into `traces`
beside the results.
"""

import dataclasses
from pathlib import Path

from absl import flags

from experiments.support import (
    corrector_files,
    planner_flags,
    sharded,
    simulator,
    tables,
    teachers,
    tracing,
)
from experiments.support.compare import Results, compare, score_table, shared_settings, table
from specmpc_jax import processes
from specmpc_jax.agent import Agent
from specmpc_jax.envs.multitask import check_backend
from specmpc_jax.errors import UserError
from specmpc_jax.evaluation import variants as variant_names
from specmpc_jax.evaluation.comparison import EvaluationSettings

ALL_SIZES = flags.DEFINE_bool(
    "all_model_sizes", False, "Evaluate every size of teacher in --model_dir."
)
CORRECTOR_DIR = flags.DEFINE_string(
    "corrector_dir",
    corrector_files.CORRECTOR_DIR,
    "Directory of the correctors, or bundled:TEACHER for those that come along.",
)
EPISODES = flags.DEFINE_integer("episodes", 10, "Episodes of each variant.", lower_bound=1)
PLAN_HORIZON = flags.DEFINE_integer(
    "spec_plan_horizon", None, "Planning horizon H in agent steps (default 3).", lower_bound=1
)
RESULTS = flags.DEFINE_string(
    "results_csv", None, "CSV of the summary; results/<task>/summary.csv if empty."
)
VARIANTS = flags.DEFINE_list(
    "variants",
    list(variant_names.DEFAULT),
    "Variants by name: baseline, policy, <k>_step_adaptive<percent>, <k>_step_<naive|corrector|"
    "corrector_temporal|bc|gated|refine|prior>, with optional suffixes _accept<percent>, "
    "_replan<percent> or _adaptive<percent>, and _valued<percent>, in this order.",
)
FOLLOW = flags.DEFINE_enum(
    "follow", "elite", ["elite", "mean"], "What a block executes: the sampled elite or the mean."
)
NUM_ENVS = flags.DEFINE_integer("num_envs", 1, "Environments stepped side by side.", lower_bound=1)
ENV_SEED = flags.DEFINE_integer("env_seed", 1000, "Environment seed of the first episode.")
simulator.define_perturbation()


def main() -> None:
    """Evaluates all variants of one teacher, or of all sizes that are there."""
    task = teachers.TASK.value
    variants = [variant_names.parse(name) for name in VARIANTS.value]
    traced = tracing.chosen(variants)
    agents = [planner_flags.apply(agent, PLAN_HORIZON.value) for agent in _agents(task)]
    found = [corrector_files.load_for(CORRECTOR_DIR.value, agent, variants) for agent in agents]
    names = teachers.tasks_named(task)
    for name in names:
        # What cannot be made shows before hours of work.
        check_backend(agents[0].config, name, simulator.BACKEND.value)
    devices = sharded.devices()
    seeds = tuple(range(ENV_SEED.value, ENV_SEED.value + EPISODES.value))
    settings = EvaluationSettings(
        task,
        seeds,
        NUM_ENVS.value,
        backend=simulator.BACKEND.value,
        perturbation=simulator.perturbation(),
    )
    path = RESULTS.value or f"results/{task}/summary.csv"
    results = Results(path, shared_settings(settings, FOLLOW.value))
    traces = Path(path).parent / "traces"
    written: list[Path] = []
    for agent, correctors in zip(agents, found, strict=True):
        model_id = f"{task}-{corrector_files.size_name(agent.config.model_size)}"
        for name in names:
            own = dataclasses.replace(settings, task=name)
            compare(agent, model_id, variants, correctors, own, results, FOLLOW.value, devices)
            if processes.is_first():
                written += tracing.trace(
                    agent, model_id, traced, correctors, name, seeds[0], FOLLOW.value, traces
                )
    if not processes.is_first():
        return
    print(tables.format_text(table(results)))
    if len(names) > 1:
        print(tables.format_text(score_table(results, names)))
    print(
        f"wrote {results.summary_path}, and beside it {results.episodes_path.name}, "
        f"{results.offsets_path.name} and {results.aggregate_path.name}"
    )
    for page in written:
        print(f"wrote {page}")


def _agents(task: str) -> list[Agent]:
    if not ALL_SIZES.value:
        return [teachers.load_teacher()]
    directory = teachers.MODEL_DIR.value
    sizes = teachers.sizes_available(directory, task)
    if not sizes:
        raise UserError(f"{directory} holds no teacher for {task}")
    return [teachers.load(str(teachers.find(directory, task, s).path), task, s) for s in sizes]


if __name__ == "__main__":
    sharded.run(main)
