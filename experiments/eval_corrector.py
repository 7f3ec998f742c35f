"""Compares ways of executing a teacher's plans, over the same environment seeds.

    python -m experiments.eval_corrector --task=walker-walk \\
        --checkpoint=bundled:walker-walk-1m --corrector_dir=correctors --episodes=10

With a multi-task teacher --task may be one of its tasks, or the set (mt30, mt80) for all:
then every variant gets a normalised score too.

With --devices=N the episodes are shared out over N devices; they are the same ones. With
--trace it also writes pages that show an episode step by step, into `traces`
beside the results.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments import corrector_files, planner_flags, sharded, tables, teachers, tracing
from experiments.compare import Results, compare, score_table, shared_settings, table
from specmpc_jax import processes
from specmpc_jax.agent import Agent
from specmpc_jax.correctors import registry
from specmpc_jax.correctors.corrector import Corrector
from specmpc_jax.envs.multitask import spec_for
from specmpc_jax.errors import UserError
from specmpc_jax.evaluation import variants as variant_names
from specmpc_jax.evaluation.comparison import EvaluationSettings

ALL_SIZES = flags.DEFINE_bool(
    "all_model_sizes", False, "Evaluate every size of teacher in --model_dir."
)
CORRECTOR_DIR = flags.DEFINE_string(
    "corrector_dir", corrector_files.CORRECTOR_DIR, "Directory of the correctors."
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
    "corrector_temporal|bc|gated|refine>, with optional suffixes _accept<percent>, "
    "_replan<percent> or _adaptive<percent>, and _valued<percent>, in this order.",
)
FOLLOW = flags.DEFINE_enum(
    "follow", "elite", ["elite", "mean"], "What a block executes: the sampled elite or the mean."
)
NUM_ENVS = flags.DEFINE_integer("num_envs", 1, "Environments stepped side by side.", lower_bound=1)
ENV_SEED = flags.DEFINE_integer("env_seed", 1000, "Environment seed of the first episode.")


def main() -> None:
    """Evaluates all variants of one teacher, or of all sizes that are there."""
    task = teachers.TASK.value
    variants = [variant_names.parse(name) for name in VARIANTS.value]
    traced = tracing.chosen(variants)
    agents = [planner_flags.apply(agent, PLAN_HORIZON.value) for agent in _agents(task)]
    found = [_correctors(agent, variants) for agent in agents]
    names = teachers.tasks_named(task)
    for name in names:
        spec_for(agents[0].config, name)  # what cannot be made shows before hours of work
    devices = sharded.devices()
    seeds = tuple(range(ENV_SEED.value, ENV_SEED.value + EPISODES.value))
    settings = EvaluationSettings(task, seeds, NUM_ENVS.value)
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


def _correctors(agent: Agent, variants: Sequence[variant_names.Variant]) -> dict[str, Corrector]:
    """Loads the correctors that the variants need; all have to be this teacher's."""
    kinds = {variant.corrector for variant in variants} & set(registry.MODULES)
    found = {}
    for kind in sorted(kinds):
        path = corrector_files.corrector_path(CORRECTOR_DIR.value, agent.config.model_size, kind)
        found[kind] = Corrector.load(str(path))
        found[kind].check_teacher(agent.fingerprint, agent.config)
    return found


if __name__ == "__main__":
    sharded.run(main)
