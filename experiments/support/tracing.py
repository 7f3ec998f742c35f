"""Speculation traces: one episode of a variant, step by step, as a page to look at."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments.support import launch, planner_flags
from experiments.support.trace_page import write_trace
from specmpc_jax.agent import Agent
from specmpc_jax.controller import Controller
from specmpc_jax.correctors.corrector import Corrector
from specmpc_jax.envs.multitask import make_batch_for
from specmpc_jax.errors import UserError
from specmpc_jax.evaluation.trace import trace_episode
from specmpc_jax.evaluation.variants import Variant, make_controller
from specmpc_jax.progress import Progress

TRACE = flags.DEFINE_bool(
    "trace", False, "Also write a page (HTML) that shows one episode step by step, and a CSV of it."
)
_TRACE_VARIANTS = flags.DEFINE_list(
    "trace_variants", None, "Variants to trace, of --variants; the first corrected one if empty."
)
_TRACE_SEED = flags.DEFINE_integer(
    "trace_seed",
    None,
    "Environment seed of the traced episode; --env_seed if empty.",
    lower_bound=0,
    upper_bound=2**32 - 1,
)
_TRACE_STEPS = flags.DEFINE_integer(
    "trace_steps", None, "Trace so many agent steps; the whole episode if empty.", lower_bound=1
)


def chosen(variants: Sequence[Variant]) -> list[Variant]:
    """The variants that the flags ask to trace; none without --trace.

    Raises:
      UserError: if one is not evaluated, or tracing is described but not asked for.
    """
    if not TRACE.value:
        settings = (_TRACE_VARIANTS, _TRACE_SEED, _TRACE_STEPS)
        given = [f"--{flag.name}" for flag in settings if flag.value is not None]
        if given:
            raise UserError(f"{', '.join(given)} needs --trace")
        return []
    if not _TRACE_VARIANTS.value:
        return [_most_telling(variants)]
    known = {variant.name: variant for variant in variants}
    for name in _TRACE_VARIANTS.value:
        if name not in known:
            raise UserError(
                f"--trace_variants names {name!r}, which --variants does not: {', '.join(known)}"
            )
    return [known[name] for name in _TRACE_VARIANTS.value]


def trace(
    agent: Agent,
    model_id: str,
    variants: Sequence[Variant],
    correctors: Mapping[str, Corrector],
    task: str,
    default_seed: int,
    follow: str,
    directory: Path,
) -> list[Path]:
    """Traces one episode of each variant.

    Args:
      agent: the teacher.
      model_id: what the pages call it.
      variants: what to trace, from `chosen`.
      correctors: trained correctors by kind.
      task: the environment.
      default_seed: its seed, unless the flags name one.
      follow: what blocks execute.
      directory: gets `<model_id>_<variant>_seed<N>.html` and `.csv` of each.

    Returns:
      The files written.
    """
    env_seed = default_seed if _TRACE_SEED.value is None else _TRACE_SEED.value
    written: list[Path] = []
    prefix = model_id if model_id.startswith(f"{task}-") else f"{model_id}_{task}"
    for variant in variants:
        controller = make_controller(agent, variant, correctors, task, follow)
        path = directory / f"{prefix}_{variant.name}_seed{env_seed}.html"
        with make_batch_for(agent.config, task, 1) as environments:
            length = environments.spec.episode_length
            steps = min(_TRACE_STEPS.value or length, length)
            name = f"trace {variant.name}"
            with Progress(steps, name, unit="step", quiet=launch.QUIET.value) as progress:
                traced = trace_episode(
                    controller,
                    environments,
                    env_seed,
                    launch.key(),
                    max_steps=steps,
                    advance=progress.advance,
                )
        facts = {
            "task": task,
            "model_id": model_id,
            "episode_length": length,
            "env_seed": env_seed,
            **_facts(agent, variant, controller, correctors, follow),
        }
        written += write_trace(path, traced, facts)
        if traced.no_frames:
            print(f"{path} has no pictures: {traced.no_frames}")
    return written


def _most_telling(variants: Sequence[Variant]) -> Variant:
    """The first variant with the most kinds of outcome."""

    def score(variant: Variant) -> tuple[bool, bool, int]:
        corrected = variant.corrector not in (None, "policy")
        drops = variant.replan_percent or variant.adaptive_percent or variant.value_percent
        return corrected, bool(drops), variant.exec_horizon

    return max(variants, key=score)


def _facts(
    agent: Agent,
    variant: Variant,
    controller: Controller,
    correctors: Mapping[str, Corrector],
    follow: str,
) -> dict[str, Any]:
    """What the head of a page says of the run."""
    learned = correctors.get(variant.corrector or "")
    return {
        "variant": variant.name,
        "teacher": agent.fingerprint,
        "exec_horizon": variant.exec_horizon,
        "corrector": variant.corrector or "none",
        "corrector_fingerprint": learned.fingerprint if learned else None,
        "mismatch": controller.program.speculation.mismatch,
        "follow": follow,
        "plans": controller.program.use_planner,
        "planner": planner_flags.settings(agent),
        "seed": launch.SEED.value,
        "provenance": launch.provenance(),
    }
