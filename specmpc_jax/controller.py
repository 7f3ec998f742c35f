"""One control step as a pure function: encode, gate, correct and plan.

`control_step` may be jitted on its own (as `Controller` does), or be a part of
a larger program such as a scan over an environment on the device.
"""

import dataclasses
import functools
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from specmpc_jax.config import CorrectorConfig, ModelConfig, PlannerConfig, SpeculationConfig
from specmpc_jax.correctors import registry, unlearned
from specmpc_jax.correctors.unlearned import UnlearnedConfig
from specmpc_jax.errors import UserError
from specmpc_jax.ops.lanes import over_lanes
from specmpc_jax.planning import fused_model, mppi
from specmpc_jax.planning.fused_model import FusedParams
from specmpc_jax.speculation import blind, executor
from specmpc_jax.speculation.blocks import block_from_plan, prior_block
from specmpc_jax.speculation.executor import ExecutorState, Functions, StepInfo, Thresholds
from specmpc_jax.stateful import StatefulCalls
from specmpc_jax.types import Array, Block, CorrectFunction, Params, Plan, PlanningModel
from specmpc_jax.world_model import WorldModel


@dataclasses.dataclass(frozen=True)
class ControlProgram:
    """Every static choice of a controller.

    `use_planner` False lets the policy prior's mean act at every step.
    `explore` adds the planner's std to executed actions, for training.
    """

    model: ModelConfig
    planner: PlannerConfig
    speculation: SpeculationConfig = SpeculationConfig()
    corrector: CorrectorConfig | UnlearnedConfig | None = None
    use_planner: bool = True
    explore: bool = False

    def __post_init__(self) -> None:
        if not self.use_planner and self.speculation.exec_horizon != 1:
            raise UserError("without a planner there are no blocks: exec_horizon must be 1")


@flax.struct.dataclass
class ControlArrays:
    """Every array of a controller."""

    params: Params
    planning: FusedParams  # `params`, laid out for planning
    corrector: Params | None
    thresholds: Thresholds
    task: Array  # [] int, 0 for single-task models


def control_functions(program: ControlProgram, arrays: ControlArrays) -> Functions:
    """Binds the model, the planner and the corrector for the executor."""
    model = fused_model.planning_model(program.model, arrays.planning, arrays.task)
    spec = program.speculation

    def plan(z: Array, mean: Array, key: Array) -> Block:
        if not program.use_planner:
            return prior_block(model, z, mean)
        noise = mppi.draw_noise(key, program.planner, program.model.action_dim, model.num_q)
        result = mppi.plan(model, program.planner, z, mean, noise, explore=program.explore)
        return block_from_plan(model, result, z, spec.exec_horizon, spec.follow)

    correct: CorrectFunction | None = None
    if isinstance(program.corrector, CorrectorConfig):
        assert arrays.corrector is not None
        correct = registry.correct_function(program.corrector, arrays.corrector)
    elif program.corrector is not None:
        correct = unlearned.correct_function(program.corrector, model, program.planner)
    if correct is not None and model.action_mask is not None:
        correct = _masked(correct, model.action_mask)
    if spec.value_tolerance is None:
        return Functions(plan, correct)
    return Functions(plan, correct, functools.partial(looked_ahead_value, model), model.policy_mean)


def _masked(correct: CorrectFunction, mask: Array) -> CorrectFunction:
    return lambda context, key: correct(context, key) * mask


def looked_ahead_value(model: PlanningModel, z: Array, actions: Array) -> Array:
    """Values of actions by one step of the model: reward, and the next latent's value.

    Q(z, a) itself would not do: the policy prior is trained to maximise it, and
    so wins by the ensemble's own errors. One step further all candidates are
    valued under the same prior.

    Args:
      model: the planning functions.
      z: latent `[L]`.
      actions: `[C, A]`.

    Returns:
      `[C]`, the mean over all members of the ensemble.
    """
    reward, following = model.step(z, actions)
    onward = model.policy_mean(following)
    members = range(model.num_q)
    # Members are evaluated in pairs. Of an odd number each takes part in two pairs.
    firsts = members if model.num_q % 2 else members[::2]
    pairs = [jnp.asarray([i, (i + 1) % model.num_q]) for i in firsts]
    value = jnp.mean(jnp.stack([model.value(following, onward, pair) for pair in pairs]), axis=0)
    if model.termination is not None:
        value = jnp.where(model.termination(following) > 0.5, 0.0, value)
    return reward + model.discount * value


def control_step(
    program: ControlProgram, arrays: ControlArrays, state: ExecutorState, observation: Array
) -> tuple[Array, ExecutorState, StepInfo]:
    """Acts on one observation, or on B of them with B states.

    Args:
      program: static choices.
      arrays: parameters and thresholds.
      state: from `initial_state`, with a leading axis B for a batch.
      observation: `[D]` or `[B, D]`; pixels `[C, 64, 64]` or `[B, C, 64, 64]`.

    Returns:
      The action `[A]` or `[B, A]`, the next state, and what happened. Where the
      observation is not finite, the plan alone acts (`speculation.blind`).
    """
    z = WorldModel(program.model).encode(arrays.params, observation, arrays.task)
    seen = blind.usable(observation, z)
    z = jnp.where(seen[..., None], z, 0.0)
    run = executor.step if z.ndim == 1 else executor.batched_step
    functions = control_functions(program, arrays)
    step = run(program.speculation, functions, arrays.thresholds, state, z)
    return blind.unless_blind(program.speculation, seen, state, step)


def plan_from_latent(
    config: ModelConfig,
    planner: PlannerConfig,
    explore: bool,
    planning: FusedParams,
    z: Array,
    key: Array,
    warm_start: Array,
    task: Array,
) -> Plan:
    """Plans from latents, without an executor; see `Agent.plan`.

    Args:
      config: the architecture.
      planner: planner settings.
      explore: add the planner's std to the action.
      planning: weights, laid out for planning.
      z: `[L]`, or `[B, L]`.
      key: consumed; one key, split over a batch.
      warm_start: `[H, A]`, or `[B, H, A]`.
      task: `[]`.
    """
    model = fused_model.planning_model(config, planning, task)

    def single(z: Array, key: Array, warm_start: Array) -> Plan:
        noise = mppi.draw_noise(key, planner, config.action_dim, model.num_q)
        return mppi.plan(model, planner, z, warm_start, noise, explore=explore)

    if z.ndim == 1:
        return single(z, key, warm_start)
    return over_lanes(single, z, jax.random.split(key, z.shape[0]), warm_start)


def initial_state(program: ControlProgram, key: Array) -> ExecutorState:
    """State before an episode; `key` is one key, or `[B]` keys for a batch."""

    def single(key: Array) -> ExecutorState:
        model = program.model
        return executor.initial_state(
            program.speculation,
            key,
            model.latent_dim,
            model.action_dim,
            program.planner.horizon,
        )

    return single(key) if key.ndim == 0 else jax.vmap(single)(key)


def make_initial_state(
    program: ControlProgram, key: Array, batch_size: int | None = None
) -> ExecutorState:
    """Jitted `initial_state`; with a batch size, `key` is consumed and split over the batch."""
    if batch_size is not None:
        key = jax.random.split(key, batch_size)
    return _jitted_initial_state(program, key)


_jitted_initial_state = jax.jit(initial_state, static_argnums=0)

# Thresholds and parameters are arguments, so changing them compiles nothing anew.
jitted_step = jax.jit(control_step, static_argnums=0, donate_argnums=2)


def warm_up(
    start: Callable[[Array, int | None], ExecutorState],
    act: Callable[[ArrayLike, ExecutorState], tuple[Array, ExecutorState, StepInfo]],
    model: ModelConfig,
    batch_size: int | None,
) -> None:
    """Runs `initial_state` and `act` of a controller or an agent until they are compiled.

    Args:
      start: `initial_state`.
      act: `act`.
      model: says what observations look like.
      batch_size: lanes, None without a batch axis.
    """
    lead = () if batch_size is None else (batch_size,)
    observation = np.zeros((*lead, *model.observation_shape), np.float32)
    state = start(jax.random.key(0), batch_size)
    # If parameters are tied to a device, so are the states that steps return, unlike the first
    # one: JAX compiles a second time for them.
    for _ in range(2):
        _, state, _ = act(observation, state)
    jax.block_until_ready(state)


class Controller(StatefulCalls[ExecutorState, StepInfo]):
    """Acts in an environment; made by `Agent.controller`.

    `action, info = controller(observation)` for scripts (see `StatefulCalls`), `initial_state`
    and `act` where the state is to be a value.
    """

    def __init__(
        self, program: ControlProgram, arrays: ControlArrays, device: jax.Device | None = None
    ):
        self.program = program
        self.arrays = arrays if device is None else jax.device_put(arrays, device)
        self._device = device

    def initial_state(self, key: Array, batch_size: int | None = None) -> ExecutorState:
        """State before an episode's first step.

        Args:
          key: a key that the episode keeps; with a batch size it is consumed
            and split. `[B]` keys make a batch whose lanes have these keys.
          batch_size: number of environments stepped side by side.
        """
        state = make_initial_state(self.program, key, batch_size)
        # Tied to the device as later states will be, or JAX compiles a second time for those.
        return state if self._device is None else jax.device_put(state, self._device)

    def _first_state(self, key: Array, shape: tuple[int, ...]) -> ExecutorState:
        single = len(shape) <= len(self.program.model.observation_shape)
        return self.initial_state(key, None if single else shape[0])

    def on(self, device: jax.Device) -> "Controller":
        """The same controller with its arrays on a device, which then does the work."""
        return Controller(self.program, self.arrays, device)

    def compile(self, batch_size: int | None = None) -> "Controller":
        """Compiles ahead of time all that an episode needs, so that its first step is not late.

        Runs two steps on observations of zeros and drops the results. After
        that, `initial_state` and `act` trace and compile nothing more for this
        batch size, whatever the thresholds; a controller of the same agent
        and settings shares what was compiled.

        Args:
          batch_size: as for `initial_state`; call once for each that will be used.

        Returns:
          This controller: `agent.controller(3).compile()`.
        """
        warm_up(self.initial_state, self.act, self.program.model, batch_size)
        return self

    def act(
        self, observation: ArrayLike, state: ExecutorState
    ) -> tuple[Array, ExecutorState, StepInfo]:
        """Chooses the action for an observation.

        Args:
          observation: `[D]`, or `[B, D]` for a batch (pixels alike).
          state: the last state; its buffers are given away, use the returned one.

        Returns:
          Action `[A]` or `[B, A]` in [-1, 1], the next state, and `info` with
          `outcome`, `decision` (why), `offset`, `mismatch`, `limit` and the planned step. An
          observation with a NaN or an infinity is answered by the plan's next action, or by
          zeros where there is none, and `info.blind` is True.

        Raises:
          UserError: if the observation's shape is not the model's.
        """
        observation = check_observation(self.program, observation, state.step.shape)
        return jitted_step(self.program, self.arrays, state, observation)


def check_observation(
    program: ControlProgram, observation: ArrayLike, batch: tuple[int, ...] = ()
) -> Array | np.ndarray:
    """Brings an observation to the model's dtype.

    Raises:
      UserError: if its shape is not the model's, with the leading axes `batch`.
    """
    expected = (*batch, *program.model.observation_shape)
    if np.shape(observation) != expected:
        raise UserError(
            f"the observation has shape {np.shape(observation)}, but this model and state "
            f"expect {expected}"
        )
    dtype = jnp.uint8 if program.model.observation == "rgb" else jnp.float32
    if isinstance(observation, jax.Array):
        return observation.astype(dtype)
    # A copy, as callers may write into theirs; a jitted program takes it faster than an Array.
    return np.array(observation, dtype)
