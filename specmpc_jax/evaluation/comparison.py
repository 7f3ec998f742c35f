"""Variants compared over the same environment seeds."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from specmpc_jax.controller import Controller
from specmpc_jax.envs import registry
from specmpc_jax.envs.batch import EnvironmentBatch
from specmpc_jax.evaluation.rollout import Episode, Rollouts, run_episodes
from specmpc_jax.evaluation.sharding import run_sharded
from specmpc_jax.evaluation.statistics import (
    paired_difference,
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
)
BASELINE = "baseline"


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """What all variants of one comparison share.

    `latency_steps` bounds the extra single-lane run that measures the action
    latency when episodes are run side by side.
    """

    task: str
    env_seeds: tuple[int, ...]
    num_envs: int = 1
    latency_steps: int = 200


def evaluate_controller(
    controller: Controller,
    settings: EvaluationSettings,
    key: Array,
    advance: Callable[[int], None] | None = None,
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
      devices: this process's share of those that share the episodes; none for JAX's default
        one alone. Episodes are the same either way.
    """
    lanes = min(settings.num_envs, len(settings.env_seeds))
    shared = len(devices) > 1 or jax.process_count() > 1
    if shared:

        def make_lanes() -> EnvironmentBatch:
            return registry.make_batch(settings.task, lanes)

        seeds = settings.env_seeds
        result = run_sharded(controller, make_lanes, lanes, seeds, key, devices, advance)
    else:
        with registry.make_batch(settings.task, lanes) as environments:
            result = run_episodes(
                controller, environments, settings.env_seeds, key, advance=advance
            )
    if lanes > 1 or shared:
        with registry.make_batch(settings.task, 1) as environment:
            timed = run_episodes(
                controller,
                environment,
                settings.env_seeds[:1],
                key,
                max_steps=settings.latency_steps,
            )
        result.latencies, result.first_latency = timed.latencies, timed.first_latency
    return result


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
        }
        for number, episode in enumerate(episodes)
    ]


def summary_row(
    identity: dict[str, Any],
    rollouts: Rollouts,
    baseline: Sequence[Episode] | None,
) -> dict[str, Any]:
    """One row a variant, in `SUMMARY_COLUMNS`.

    Args:
      identity: task, model, variant and seed.
      rollouts: the variant's episodes and latencies.
      baseline: the baseline's episodes over the same seeds, if they were run.
    """
    episodes = rollouts.episodes
    returns = np.array([episode.episode_return for episode in episodes])
    steps = sum(episode.length for episode in episodes)
    row = {
        **identity,
        "episodes": len(episodes),
        **summarise_returns(returns),
        "planner_calls_per_step": sum(e.planner_calls for e in episodes) / steps,
        "corrected_per_step": sum(e.corrected for e in episodes) / steps,
        "mismatch_replans_per_step": sum(e.mismatch_replans for e in episodes) / steps,
        **summarise_latency(np.array(rollouts.latencies)),
        "mean_ms": 1e3 * float(np.mean(rollouts.latencies)) if rollouts.latencies else None,
        "first_call_ms": 1e3 * rollouts.first_latency,
        "mean_length": steps / len(episodes),
    }
    if baseline is not None:
        row |= paired_difference(returns, np.array([e.episode_return for e in baseline]))
    return row
