"""Variants compared over the same environment seeds."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from specmpc_jax.config import Perturbation
from specmpc_jax.controller import Controller
from specmpc_jax.envs.batch import EnvironmentBatch
from specmpc_jax.envs.multitask import check_backend, make_batch_for
from specmpc_jax.errors import UserError
from specmpc_jax.evaluation import device_rollout
from specmpc_jax.evaluation.episodes import Episode, Rollouts, success_rate
from specmpc_jax.evaluation.offsets import OffsetRecorder
from specmpc_jax.evaluation.rollout import run_episodes
from specmpc_jax.evaluation.sharding import run_sharded
from specmpc_jax.evaluation.statistics import (
    stratified_iqm,
    summarise_latency,
    summarise_returns,
)
from specmpc_jax.types import Array

EPISODE_COLUMNS = (
    "task",
    "model_id",
    "model_size",
    "variant",
    "exec_horizon",
    "corrector",
    "episode",
    "env_seed",
    "return",
    "length",
    "planner_calls",
    "corrected",
    "mismatch_replans",
    "value_replans",
    "jerk",
    "success",
)
SUMMARY_COLUMNS = (
    "task",
    "model_id",
    "model_size",
    "variant",
    "exec_horizon",
    "corrector",
    "episodes",
    "seed",
    "mean_return",
    "median_return",
    "iqm_return",
    "std_return",
    "ci_low",
    "ci_high",
    "min_return",
    "p5_return",
    "paired_difference",
    "paired_ci_low",
    "paired_ci_high",
    "planner_calls_per_step",
    "corrected_per_step",
    "mismatch_replans_per_step",
    "p50_ms",
    "p95_ms",
    "p99_ms",
    "mean_ms",
    "first_call_ms",
    "mean_length",
    "iqm_ci_low",
    "iqm_ci_high",
    "value_replans_per_step",
    "mean_jerk",
    "success_rate",
)
AGGREGATE_COLUMNS = (
    "variant",
    "exec_horizon",
    "corrector",
    "strata",
    "episodes",
    "iqm_return",
    "iqm_ci_low",
    "iqm_ci_high",
    "mean_return",
)
BASELINE = "baseline"


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """What all variants of one comparison share.

    `latency_steps` bounds the extra single-lane run that measures the action
    latency when episodes are run side by side, 0 does without. `backend` is that of
    `registry.make_batch`; only on MJX may worlds differ from the task's own.
    """

    task: str
    env_seeds: tuple[int, ...]
    num_envs: int = 1
    latency_steps: int = 200
    backend: str = "mujoco"
    perturbation: Perturbation = Perturbation()


def evaluate_controller(
    controller: Controller,
    settings: EvaluationSettings,
    key: Array,
    advance: Callable[[int], None] | None = None,
    recorder: OffsetRecorder | None = None,
    devices: Sequence[jax.Device] = (),
) -> Rollouts:
    """Runs one variant over all environment seeds.

    Latencies are those of single-environment control: measured in the episodes
    themselves with one lane on one device, in a separate shorter run otherwise.

    Args:
      controller: what acts.
      settings: task, seeds and lanes.
      key: not consumed, see `run_episodes`.
      advance: called with the number of agent steps just done.
      recorder: told of each step.
      devices: this process's share of those that share the episodes; none for JAX's default
        one alone. Episodes are the same either way.
    """
    seeds, model = settings.env_seeds, controller.program.model
    lanes = min(settings.num_envs, len(seeds))
    shared = len(devices) > 1 or jax.process_count() > 1
    on_device = settings.backend == "mjx"
    if on_device:
        if shared:
            raise UserError("the backend mjx runs on one device: leave --devices out")
        result = _run_on_device(controller, settings, lanes, key, advance, recorder)
    elif shared:

        def make_lanes() -> EnvironmentBatch:
            return make_batch_for(model, settings.task, lanes)

        result = run_sharded(controller, make_lanes, lanes, seeds, key, devices, advance, recorder)
    else:
        observe = None if recorder is None else recorder.observe
        with make_batch_for(model, settings.task, lanes) as environments:
            result = run_episodes(controller, environments, seeds, key, observe, advance)
    if settings.latency_steps and (lanes > 1 or shared or on_device):
        with make_batch_for(model, settings.task, 1) as environment:
            timed = run_episodes(
                controller,
                environment,
                settings.env_seeds[:1],
                key,
                max_steps=settings.latency_steps,
            )
        result.latencies, result.first_latency = timed.latencies, timed.first_latency
    return result


def _run_on_device(
    controller: Controller,
    settings: EvaluationSettings,
    lanes: int,
    key: Array,
    advance: Callable[[int], None] | None,
    recorder: OffsetRecorder | None,
) -> Rollouts:
    """All episodes on MJX, which is imported only here."""
    from specmpc_jax.envs.mjx import MjxEnvironment, perturbed, starts_of_seeds

    check_backend(controller.program.model, settings.task, settings.backend)
    environment = MjxEnvironment(settings.task)
    return device_rollout.run_episodes(
        controller,
        environment,
        settings.env_seeds,
        key,
        num_envs=lanes,
        starts=lambda seeds: starts_of_seeds(environment, seeds),
        models=lambda keys: perturbed(environment, settings.perturbation, keys),
        observe=None if recorder is None else recorder.observe,
        advance=advance,
    )


def episode_rows(identity: dict[str, Any], episodes: Sequence[Episode]) -> list[dict[str, Any]]:
    """One row an episode, in `EPISODE_COLUMNS`; `identity` holds the shared fields."""
    return [
        {
            **{name: identity[name] for name in EPISODE_COLUMNS if name in identity},
            "episode": number,
            "env_seed": episode.env_seed,
            "return": episode.episode_return,
            "length": episode.length,
            "planner_calls": episode.planner_calls,
            "corrected": episode.corrected,
            "mismatch_replans": episode.mismatch_replans,
            "value_replans": episode.value_replans,
            "jerk": episode.jerk,
            "success": episode.success,
        }
        for number, episode in enumerate(episodes)
    ]


def summary_row(identity: dict[str, Any], rollouts: Rollouts) -> dict[str, Any]:
    """One row a variant, in `SUMMARY_COLUMNS` but for those that compare it with another.

    Args:
      identity: task, model, variant and seed.
      rollouts: the variant's episodes and latencies.
    """
    episodes = rollouts.episodes
    returns = np.array([episode.episode_return for episode in episodes])
    steps = sum(episode.length for episode in episodes)
    return {
        **identity,
        "episodes": len(episodes),
        **summarise_returns(returns),
        "planner_calls_per_step": sum(e.planner_calls for e in episodes) / steps,
        "corrected_per_step": sum(e.corrected for e in episodes) / steps,
        "mismatch_replans_per_step": sum(e.mismatch_replans for e in episodes) / steps,
        "value_replans_per_step": sum(e.value_replans for e in episodes) / steps,
        "mean_jerk": float(np.mean([episode.jerk for episode in episodes])),
        **summarise_latency(np.array(rollouts.latencies)),
        "mean_ms": 1e3 * float(np.mean(rollouts.latencies)) if rollouts.latencies else None,
        "first_call_ms": 1e3 * rollouts.first_latency,
        "mean_length": steps / len(episodes),
        "success_rate": success_rate(episodes),
    }


def aggregate_rows(episodes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a variant over all tasks and models it was run on, in `AGGREGATE_COLUMNS`.

    Args:
      episodes: rows in `EPISODE_COLUMNS`, as values or as a CSV's text.
    """
    groups: dict[str, dict[tuple[str, str], list[float]]] = {}
    first: dict[str, Mapping[str, Any]] = {}
    for row in episodes:
        name, stratum = str(row["variant"]), (str(row["task"]), str(row["model_id"]))
        first.setdefault(name, row)
        groups.setdefault(name, {}).setdefault(stratum, []).append(float(row["return"]))
    rows = []
    for name, strata in groups.items():
        returns = [np.array(values) for values in strata.values()]
        iqm, low, high = stratified_iqm(returns)
        rows.append(
            {
                "variant": name,
                "exec_horizon": first[name]["exec_horizon"],
                "corrector": first[name]["corrector"],
                "strata": len(returns),
                "episodes": sum(map(len, returns)),
                "iqm_return": iqm,
                "iqm_ci_low": low,
                "iqm_ci_high": high,
                "mean_return": float(np.concatenate(returns).mean()),
            }
        )
    return rows
