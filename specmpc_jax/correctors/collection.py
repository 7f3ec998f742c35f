"""Collects distillation data under block execution, at every offset."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from specmpc_jax.controller import ControlArrays, Controller, ControlProgram, control_functions
from specmpc_jax.correctors.dataset import ARRAYS, CorrectorDataset
from specmpc_jax.envs.batch import EnvironmentBatch
from specmpc_jax.evaluation.episodes import Episode, Step
from specmpc_jax.evaluation.rollout import run_episodes
from specmpc_jax.ops.lanes import on_lanes
from specmpc_jax.ops.sequences import shift_sequence
from specmpc_jax.speculation.decisions import Outcome
from specmpc_jax.types import Array, Block

# Separates the labelling planner's random numbers from the executing one's.
_LABEL_STREAM = 0x1ABE1


class Collector:
    """Observes episodes and labels each visited step with the teacher's mean action.

    The label is what a planner that replans at every step would do. It has a
    warm start of its own, so that the executing planner is left alone. At a
    replan the executed plan itself is the label, and nothing is planned twice.
    """

    def __init__(self, controller: Controller, key: Array, round_number: int = 0):
        """Labels the steps of one controller; consumes `key`."""
        # Labels are the teacher's: no corrector, and a block of one step.
        speculation = dataclasses.replace(controller.program.speculation, exec_horizon=1)
        self._program = dataclasses.replace(
            controller.program, speculation=speculation, corrector=None, explore=False
        )
        self._arrays = dataclasses.replace(controller.arrays, corrector=None)
        self._key = jax.random.fold_in(key, _LABEL_STREAM)
        self._round = round_number
        self._mean: Array | None = None
        self._episodes = 0
        self._rows: list[dict[str, np.ndarray]] = []

    def observe(self, step: Step) -> None:
        """Labels and stores one step of all lanes; for `run_episodes`."""
        assert step.state is not None
        block, planned = step.state.block, step.info.planned
        if step.time == 0:
            self._mean = jnp.zeros_like(block.mean)
            self._lane_episode = self._episodes + np.cumsum(step.active) - 1
            self._episodes += int(step.active.sum())
        key = jax.random.fold_in(jax.random.fold_in(self._key, self._episodes), step.time)
        label, self._mean = _label(
            self._program,
            self._arrays,
            jnp.asarray(step.active) & (step.info.outcome != Outcome.REPLAN),
            planned.z_real,
            self._mean,
            block.mean,
            jax.random.split(key, len(step.active)),
        )
        lanes = np.flatnonzero(step.active)
        row = {
            "z_real": planned.z_real,
            "z_pred": planned.z_pred,
            "a_plan": planned.a_plan,
            "a_teacher": label,
            "distance": planned.mismatch,
            "reward": step.reward,
            "offset": planned.offset,
            "episode": self._lane_episode,
            "step": np.full(len(step.active), step.time),
            "task": np.full(len(step.active), int(self._arrays.task)),
            "round": np.full(len(step.active), self._round),
        }
        self._rows.append({name: np.asarray(value)[lanes] for name, value in row.items()})

    def dataset(self, metadata: dict[str, Any]) -> CorrectorDataset:
        """Everything observed so far, ordered by episode and step."""
        arrays = {
            name: np.concatenate([row[name] for row in self._rows]).astype(dtype)
            for name, dtype in ARRAYS.items()
        }
        order = np.lexsort((arrays["step"], arrays["episode"]))
        return CorrectorDataset({name: a[order] for name, a in arrays.items()}, metadata)


def collect(
    controller: Controller,
    environments: EnvironmentBatch,
    env_seeds: Sequence[int],
    key: Array,
    metadata: dict[str, Any],
    round_number: int = 0,
    advance: Callable[[int], None] | None = None,
) -> tuple[CorrectorDataset, list[Episode]]:
    """Runs a controller and labels every step it visits.

    Args:
      controller: what drives; with a corrector this is an aggregation round
        (DAgger), whose data are the states that the corrector itself reaches.
      environments: lanes stepped side by side.
      env_seeds: one episode each.
      key: consumed.
      metadata: stored with the data; must hold `teacher`, its fingerprint.
      round_number: stored with each row.
      advance: called with the number of agent steps just done.

    Returns:
      The data and the episodes' outcomes.
    """
    run_key, label_key = jax.random.split(key)
    collector = Collector(controller, label_key, round_number)
    rollouts = run_episodes(
        controller, environments, env_seeds, run_key, collector.observe, advance
    )
    return collector.dataset(metadata), rollouts.episodes


@functools.partial(jax.jit, static_argnums=0)
def _label(
    program: ControlProgram,
    arrays: ControlArrays,
    need: Array,
    z: Array,
    label_mean: Array,
    plan_mean: Array,
    keys: Array,
) -> tuple[Array, Array]:
    """Plans for the lanes that did not; returns labels `[B, A]` and means `[B, H, A]`."""
    plan = control_functions(program, arrays).plan

    def replan(z: Array, mean: Array, key: Array) -> Array:
        block: Block = plan(z, shift_sequence(mean, jnp.asarray(1)), key)
        return block.mean

    mean = on_lanes(replan, need, (z, label_mean, keys), plan_mean)
    return mean[:, 0], mean
