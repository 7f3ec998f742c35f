"""Whole episodes as one program: environment, encoder, gate, corrector and planner in a scan.

Nothing but the trace of what happened leaves the device. Planning is done for the lanes that
need it only: the controller's batched step sees to that, here as anywhere.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import numpy as np

from specmpc_jax.controller import ControlArrays, Controller, ControlProgram, control_step
from specmpc_jax.envs.device import DeviceEnvironment, Models, reset_lanes, resume_lanes, step_lanes
from specmpc_jax.evaluation.episodes import Ledger, Rollouts, Step
from specmpc_jax.speculation.executor import ExecutorState, StepInfo
from specmpc_jax.types import Array

# Steps of one call: often enough for a progress bar, seldom enough to cost nothing.
STEPS_PER_CALL = 50


@flax.struct.dataclass
class LoopState:
    """What a loop of B lanes carries from step to step."""

    environment: Any
    control: ExecutorState


@flax.struct.dataclass
class Trace:
    """What happened at every step; leading axes `[T, B]`.

    Without latents, those of `info.planned` have no entries.
    """

    action: Array  # [T, B, A]
    reward: Array  # [T, B]
    info: StepInfo


def roll(
    program: ControlProgram,
    environment: DeviceEnvironment,
    steps: int,
    latents: bool,
    arrays: ControlArrays,
    models: Models,
    state: LoopState,
) -> tuple[LoopState, Trace]:
    """Runs B environments for some steps.

    Args:
      program: the controller's static choices.
      environment: the task.
      steps: T.
      latents: keep real and predicted latents in the trace.
      arrays: the controller's arrays.
      models: the lanes' models of the world.
      state: where the lanes are.

    Returns:
      Where they are afterwards, and the trace.
    """

    def step(state: LoopState, _: None) -> tuple[LoopState, Trace]:
        observation = state.environment.observation
        action, control, info = control_step(program, arrays, state.control, observation)
        after, reward = step_lanes(environment, models, state.environment, action)
        if not latents:
            planned = info.planned
            planned = dataclasses.replace(
                planned, z_real=planned.z_real[:, :0], z_pred=planned.z_pred[:, :0]
            )
            info = dataclasses.replace(info, planned=planned)
        return LoopState(after, control), Trace(action, reward, info)

    return jax.lax.scan(step, state, length=steps)


def begin(
    controller: Controller, environment: DeviceEnvironment, models: Models, starts: Any, keys: Array
) -> LoopState:
    """The state before the first step.

    Args:
      controller: what acts.
      environment: the task.
      models: the lanes' models of the world.
      starts: B starts for `DeviceEnvironment.resume`, or None to draw them.
      keys: `[B]`; consumed where starts are drawn, and kept by the controller.
    """
    if starts is None:
        lanes = _reset(environment, models, keys)
    else:
        lanes = _resume(environment, models, starts)
    return LoopState(lanes, controller.initial_state(keys))


def run_episodes(
    controller: Controller,
    environment: DeviceEnvironment,
    env_seeds: Sequence[int],
    key: Array,
    *,
    num_envs: int,
    starts: Callable[[Sequence[int]], Any] | None = None,
    models: Callable[[Array], Models] | None = None,
    latents: bool = False,
    observe: Callable[[Step], None] | None = None,
    advance: Callable[[int], None] | None = None,
    max_steps: int | None = None,
) -> Rollouts:
    """`rollout.run_episodes` without a round trip a step.

    Args:
      controller: what acts.
      environment: the task; its episodes have a fixed length.
      env_seeds: one an episode.
      key: not consumed; each episode folds its seed in.
      num_envs: B, lanes side by side.
      starts: from seeds to the starts of their episodes; None draws them from the key.
      models: from keys `[B]` to the lanes' models of the world; None for the task's own.
      latents: let observers see real and predicted latents.
      observe: called for each step, once the steps of a call are done; `state` is None.
      advance: called with the number of agent steps just done, over all lanes.
      max_steps: cut episodes off after so many agent steps.

    Returns:
      Episodes in the order of the seeds, no latencies.
    """
    result = Rollouts([], [])
    length = min(environment.spec.episode_length, max_steps or environment.spec.episode_length)
    for first in range(0, len(env_seeds), num_envs):
        wanted = list(env_seeds[first : first + num_envs])
        # A last, smaller group repeats its seeds: a smaller batch would compile anew.
        seeds = [wanted[i % len(wanted)] for i in range(num_envs)]
        keys = jax.vmap(lambda seed: jax.random.fold_in(key, seed))(np.asarray(seeds, np.uint32))
        worlds = Models(environment.model) if models is None else models(keys)
        state = begin(controller, environment, worlds, starts(seeds) if starts else None, keys)
        ledger = Ledger(wanted, controller.program.use_planner)
        for time in range(0, length, STEPS_PER_CALL):
            steps = min(STEPS_PER_CALL, length - time)
            state, trace = jitted_roll(
                controller.program, environment, steps, latents, controller.arrays, worlds, state
            )
            _hand_out(jax.device_get(trace), seeds, len(wanted), time, ledger, observe)
            if advance is not None:
                advance(steps * len(wanted))
        result.episodes.extend(ledger.finish())
    return result


def _hand_out(
    trace: Trace,
    seeds: Sequence[int],
    wanted: int,
    time: int,
    ledger: Ledger,
    observe: Callable[[Step], None] | None,
) -> None:
    """Lets the ledger and the observer see the steps of one call."""
    active = np.arange(len(seeds)) < wanted
    untold = np.full(len(seeds), np.nan)
    for number in range(len(trace.reward)):
        action, reward, info = jax.tree.map(
            lambda leaf, n=number: leaf[n], (trace.action, trace.reward, trace.info)
        )
        ledger.take(active, action, reward, untold, info.outcome, info.decision)
        if observe is not None:
            observe(Step(active, seeds, time + number, action, reward, info, None))


# (program, environment, steps, latents) are static, and the state's buffers are given away.
jitted_roll = jax.jit(roll, static_argnums=(0, 1, 2, 3), donate_argnums=6)
_reset = jax.jit(reset_lanes, static_argnums=0)
_resume = jax.jit(resume_lanes, static_argnums=0)
