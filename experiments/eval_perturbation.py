"""Returns and replans of variants in worlds that the teacher does not know, by strength.

    python -m experiments.eval_perturbation --task=walker-walk \\
        --checkpoint=bundled:walker-walk-1m --corrector_dir=correctors --strengths=0,0.2,0.4

Every episode's masses, friction and actuators are scaled by factors of their own (see
`config.Perturbation`); variants meet the same worlds. Needs MJX, and writes one directory a
strength as `eval_corrector` does, and a table and a figure over all strengths.
"""

import dataclasses
from pathlib import Path
from typing import Any

from absl import flags

from experiments.support import (
    corrector_files,
    launch,
    perturbation_plot,
    planner_flags,
    tables,
    teachers,
)
from experiments.support.compare import Results, compare, shared_settings
from specmpc_jax import files
from specmpc_jax.config import Perturbation
from specmpc_jax.envs.multitask import check_backend
from specmpc_jax.errors import UserError
from specmpc_jax.evaluation import variants as variant_names
from specmpc_jax.evaluation.comparison import EvaluationSettings

STRENGTHS = flags.DEFINE_list("strengths", ["0", "0.2", "0.4", "0.6"], "Strengths, 0 to 5.")
PARTS = flags.DEFINE_list("parts", ["mass", "friction", "gain"], "What is scaled.")
CORRECTOR_DIR = flags.DEFINE_string(
    "corrector_dir",
    corrector_files.CORRECTOR_DIR,
    "Directory of the correctors, or bundled:TEACHER for those that come along.",
)
EPISODES = flags.DEFINE_integer("episodes", 10, "Episodes of each variant.", lower_bound=1)
NUM_ENVS = flags.DEFINE_integer("num_envs", 10, "Environments side by side.", lower_bound=1)
ENV_SEED = flags.DEFINE_integer("env_seed", 1000, "Environment seed of the first episode.")
OUTPUT = flags.DEFINE_string(
    "output", None, "Directory of the results; results/<task>/perturbation if empty."
)
VARIANTS = flags.DEFINE_list(
    "variants",
    ["baseline", "3_step_naive", "3_step_naive_replan20", "3_step_corrector", "3_step_bc"],
    "Variants by name, as for eval_corrector.",
)
COLUMNS = (
    "strength",
    "variant",
    "mean_return",
    "ci_low",
    "ci_high",
    "paired_difference",
    "paired_ci_low",
    "paired_ci_high",
    "planner_calls_per_step",
    "mismatch_replans_per_step",
)


def main() -> None:
    """Evaluates all variants at all strengths."""
    task = teachers.TASK.value
    variants = [variant_names.parse(name) for name in VARIANTS.value]
    worlds = {strength: _perturbation(strength) for strength in map(_number, STRENGTHS.value)}
    agent = planner_flags.apply(teachers.load_teacher())
    correctors = corrector_files.load_for(CORRECTOR_DIR.value, agent, variants)
    check_backend(agent.config, task, "mjx")
    directory = Path(OUTPUT.value or f"results/{task}/perturbation")
    seeds = tuple(range(ENV_SEED.value, ENV_SEED.value + EPISODES.value))
    model_id = f"{task}-{corrector_files.size_name(agent.config.model_size)}"
    rows: list[dict[str, Any]] = []
    for strength, world in worlds.items():
        settings = EvaluationSettings(
            task, seeds, NUM_ENVS.value, latency_steps=0, backend="mjx", perturbation=world
        )
        summary = directory / f"strength_{strength:g}" / "summary.csv"
        results = Results(summary, shared_settings(settings, "elite"))
        compare(agent, model_id, variants, correctors, settings, results)
        wanted = {variant.name for variant in variants}
        kept = [row for row in results.summary if row["variant"] in wanted]
        rows += [{"strength": strength, **_numbers(row)} for row in kept]
        files.write_csv(directory / "perturbation.csv", rows, COLUMNS)
    launch.write_run_record(directory / "perturbation.csv")
    print(tables.format_text(rows))
    picture = directory / "perturbation.png"
    perturbation_plot.save(rows, picture, task)
    print(f"wrote {picture} and {directory / 'perturbation.csv'}")


def _perturbation(strength: float) -> Perturbation:
    """The same strength for every part that is scaled."""
    known = [field.name for field in dataclasses.fields(Perturbation)]
    if not PARTS.value or not set(PARTS.value) <= set(known):
        raise UserError(f"--parts is {','.join(PARTS.value)!r}; it can be {', '.join(known)}")
    return Perturbation(**dict.fromkeys(PARTS.value, strength))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--strengths holds {text!r}, which is no number") from None


def _numbers(row: dict[str, str]) -> dict[str, Any]:
    """The columns of the table, as numbers but for the variant's name."""
    shown = {name: row.get(name) or "nan" for name in COLUMNS[2:]}
    return {"variant": row["variant"], **{name: float(text) for name, text in shown.items()}}


if __name__ == "__main__":
    launch.run(main)
