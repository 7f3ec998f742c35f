"""A teacher bound to its configuration: the library's front door."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from specmpc_jax.config import CorrectorConfig, ModelConfig, PlannerConfig, SpeculationConfig
from specmpc_jax.controller import (
    ControlArrays,
    Controller,
    ControlProgram,
    make_initial_state,
    plan_from_latent,
    warm_up,
)
from specmpc_jax.correctors.corrector import Corrector, by_name
from specmpc_jax.correctors.unlearned import UnlearnedConfig
from specmpc_jax.deadline_controller import DeadlineController, calibrate
from specmpc_jax.errors import UserError, nearest_names
from specmpc_jax.pipelined_controller import PipelinedController
from specmpc_jax.planning import deadline, fused_model
from specmpc_jax.planning.deadline import GovernorConfig, Timing
from specmpc_jax.speculation import async_planner
from specmpc_jax.speculation.executor import ExecutorState, StepInfo
from specmpc_jax.thresholds import Threshold, thresholds_from
from specmpc_jax.types import Array, Params, Plan
from specmpc_jax.world_model import WorldModel


class Agent:
    """A world model with a planner.

    Arrays may be single or batched: leading axes are free. Multi-task agents
    take `task=`, a name or an index.
    """

    def __init__(
        self,
        params: Params,
        config: ModelConfig,
        planner: PlannerConfig | None = None,
        metadata: Mapping[str, Any] | None = None,
        fingerprint: str = "",
    ):
        """Binds parameters to their configuration.

        Args:
          params: parameter tree of `WorldModel(config)`.
          config: architecture and tasks.
          planner: planner settings; the published ones for this action size if None.
          metadata: where the parameters come from, as free JSON.
          fingerprint: hash of the parameters (`checkpointing.fingerprint`),
            which ties correctors to their teacher.
        """
        self.params = jax.tree.map(jnp.asarray, params)
        self.planning_params = _prepare(config, self.params)
        self.config = config
        self.planner = planner or PlannerConfig().for_action_dim(config.action_dim)
        self.metadata = dict(metadata or {})
        self.fingerprint = fingerprint
        self._controllers: dict[str | int | None, Controller] = {}

    def with_planner(self, **changes: Any) -> "Agent":
        """Returns an agent with some `PlannerConfig` fields replaced."""
        planner = dataclasses.replace(self.planner, **changes)
        return Agent(self.params, self.config, planner, self.metadata, self.fingerprint)

    def task_index(self, task: str | int | None = None) -> int:
        """Row of a task in the task embedding; 0 for single-task agents.

        Raises:
          UserError: if a multi-task agent gets no task, or an unknown one.
        """
        if not self.config.multitask:
            return 0
        if isinstance(task, (int, np.integer)) and 0 <= task < self.config.num_tasks:
            return int(task)
        if task in self.config.tasks:
            return self.config.tasks.index(task)
        raise UserError(
            f"this teacher knows {self.config.num_tasks} tasks, {task!r} is none of them; "
            f"nearest are {nearest_names(str(task), self.config.tasks)}"
        )

    def encode(self, observation: ArrayLike, task: str | int | None = None) -> Array:
        """Encodes observations: `[..., D]` -> `[..., L]`."""
        return self._call("encode", task, observation)

    def next(self, z: ArrayLike, action: ArrayLike, task: str | int | None = None) -> Array:
        """Predicts the next latent: `[..., L]`, `[..., A]` -> `[..., L]`."""
        return self._call("next", task, z, action)

    def reward(self, z: ArrayLike, action: ArrayLike, task: str | int | None = None) -> Array:
        """Predicts the reward as a scalar: `[..., L]`, `[..., A]` -> `[...]`."""
        return self._call("reward", task, z, action)

    def q(self, z: ArrayLike, action: ArrayLike, task: str | int | None = None) -> Array:
        """Values of all Q members: `[..., L]`, `[..., A]` -> `[num_q, ...]`."""
        return self._call("q", task, z, action)

    def policy_mean(self, z: ArrayLike, task: str | int | None = None) -> Array:
        """Mean action of the policy prior: `[..., L]` -> `[..., A]`."""
        return self._call("policy_mean", task, z)

    def plan(
        self,
        z: ArrayLike,
        key: Array,
        warm_start: ArrayLike | None = None,
        task: str | int | None = None,
        explore: bool = False,
    ) -> Plan:
        """Plans from a latent.

        Args:
          z: `[L]`, or `[B, L]`.
          key: consumed; one key, split over a batch.
          warm_start: `[H, A]` or `[B, H, A]`, the last plan's mean shifted by
            the steps executed since; None at an episode's start.
          task: multi-task only.
          explore: add the planner's std to the action.

        Returns:
          The `Plan`, with a leading axis B for a batch.
        """
        if warm_start is None:
            shape = (*np.shape(z)[:-1], self.planner.horizon, self.config.action_dim)
            warm_start = jnp.zeros(shape)
        index = jnp.asarray(self.task_index(task))
        return _plan(
            self.config, self.planner, explore, self.planning_params, z, key, warm_start, index
        )

    def controller(
        self,
        exec_horizon: int = 1,
        corrector: "Corrector | UnlearnedConfig | str | None" = None,
        *,
        tau_accept: Threshold | None = None,
        tau_replan: Threshold | None = None,
        accept_quantile: float | None = None,
        replan_quantile: float | None = None,
        replan_rate: float = 0.0,
        value_tolerance: float | None = None,
        mismatch: str = "relative",
        follow: str = "elite",
        use_planner: bool = True,
        explore: bool = False,
        task: str | int | None = None,
    ) -> Controller:
        """Makes a controller that executes plans speculatively.

        Args:
          exec_horizon: steps executed of one plan at most; 1 plans at every step.
          corrector: a `Corrector`, the path of one, "refine" or "prior" (see `unlearned`), or None.
          tau_accept: mismatch up to which a planned action is taken as it is;
            one number, or one per offset 1, 2, ...; 0 if None.
          tau_replan: mismatch beyond which the plan is dropped; infinite if None.
          accept_quantile: `tau_accept` as a quantile of the mismatch that the
            corrector's data showed at each offset.
          replan_quantile: `tau_replan` alike; 0.9 replans on the worst tenth.
          replan_rate: share of the steps after a plan's first at which the plan is to be
            dropped; `tau_replan` (1 if None) is then multiplied by a tolerance that
            adapts while acting. 0 adapts nothing.
          value_tolerance: let the Q ensemble decide which of the planned, the corrected and
            the prior's action is executed, and drop the plan where even the best is worth
            less than promised; values that differ by less than this share are taken for
            equal. None decides by mismatch alone.
          mismatch: "relative" or "l2".
          follow: "elite" or "mean", see `SpeculationConfig`.
          use_planner: False lets the policy prior act, without any planning.
          explore: add the planner's std to planned actions.
          task: multi-task only.

        Raises:
          UserError: if the corrector was made for another teacher, or settings
            contradict each other.
        """
        return Controller(
            *self._control(
                exec_horizon,
                corrector,
                exec_horizon,
                tau_accept=tau_accept,
                tau_replan=tau_replan,
                accept_quantile=accept_quantile,
                replan_quantile=replan_quantile,
                replan_rate=replan_rate,
                value_tolerance=value_tolerance,
                mismatch=mismatch,
                follow=follow,
                use_planner=use_planner,
                explore=explore,
                task=task,
            )
        )

    def pipelined_controller(
        self,
        exec_horizon: int = 3,
        corrector: "Corrector | UnlearnedConfig | str | None" = None,
        *,
        background: Executor | None = None,
        **options: Any,
    ) -> PipelinedController:
        """Makes a controller that plans the next block while it executes the present one.

        Args:
          exec_horizon: steps X of a block, which are the time that a plan has.
          corrector: as in `controller`.
          background: what plans run in; a thread of the controller's own if None.
          **options: further arguments of `controller`. Thresholds have offsets 1 to
            2X - 1: a block planned ahead begins at offset X, as its plan has seen
            nothing newer. Quantiles of offsets that the corrector's data lack are
            those of the largest one there is.

        Raises:
          UserError: as `controller`.
        """
        offsets = async_planner.offsets(exec_horizon)
        program, arrays = self._control(exec_horizon, corrector, offsets, **options)
        return PipelinedController(program, arrays, background)

    def deadline_controller(
        self,
        budget_ms: float,
        exec_horizon: int = 1,
        corrector: "Corrector | UnlearnedConfig | str | None" = None,
        *,
        timings: Sequence[Timing] | None = None,
        governor: GovernorConfig | None = None,
        **options: Any,
    ) -> DeadlineController:
        """Makes a controller that plans as much as a time budget allows.

        Args:
          budget_ms: milliseconds from observation to action.
          exec_horizon: as in `controller`.
          corrector: as in `controller`.
          timings: result of `deadline_controller.calibrate`; measured now if None,
            which compiles several planners.
          governor: when to change the planner while acting.
          **options: further arguments of `controller`.

        Raises:
          UserError: if no planner holds the budget; names the smallest that one would.
        """
        control = self.controller(exec_horizon, corrector, **options)
        if timings is None:
            timings = calibrate(control, deadline.default_planners(self.planner))
        return DeadlineController(control, timings, budget_ms, governor)

    def _control(
        self,
        exec_horizon: int,
        corrector: "Corrector | UnlearnedConfig | str | None",
        offsets: int,
        *,
        tau_accept: Threshold | None = None,
        tau_replan: Threshold | None = None,
        accept_quantile: float | None = None,
        replan_quantile: float | None = None,
        replan_rate: float = 0.0,
        value_tolerance: float | None = None,
        mismatch: str = "relative",
        follow: str = "elite",
        use_planner: bool = True,
        explore: bool = False,
        task: str | int | None = None,
    ) -> tuple[ControlProgram, ControlArrays]:
        """Static choices and arrays of a controller with thresholds at `offsets` offsets."""
        if isinstance(corrector, str):
            corrector = by_name(corrector)
        learned: Corrector | None = None
        architecture: CorrectorConfig | UnlearnedConfig | None
        history_len = 1
        if isinstance(corrector, Corrector):
            corrector.check_teacher(self.fingerprint, self.config)
            learned, architecture = corrector, corrector.config
            history_len = corrector.config.history_len
        else:
            architecture = corrector
        speculation = SpeculationConfig(
            exec_horizon,
            mismatch,
            follow,
            history_len,
            replan_rate,
            value_tolerance=value_tolerance,
        )
        limits = dataclasses.replace(speculation, exec_horizon=offsets)
        thresholds = thresholds_from(
            limits,
            learned,
            accept=(tau_accept, accept_quantile),
            replan=(tau_replan, replan_quantile),
        )
        program = ControlProgram(
            model=self.config,
            planner=self.planner,
            speculation=speculation,
            corrector=architecture,
            use_planner=use_planner,
            explore=explore,
        )
        arrays = ControlArrays(
            params=self.params,
            planning=self.planning_params,
            # Loaded ones are NumPy arrays, which every step would bring to the device anew.
            corrector=jax.tree.map(jnp.asarray, learned.params) if learned is not None else None,
            thresholds=thresholds,
            task=jnp.asarray(self.task_index(task)),
        )
        return program, arrays

    def initial_state(self, key: Array, batch_size: int | None = None) -> ExecutorState:
        """State before an episode's first step; see `Controller.initial_state`."""
        program = ControlProgram(self.config, self.planner)
        return make_initial_state(program, key, batch_size)

    def compile(self, batch_size: int | None = None) -> "Agent":
        """Compiles `initial_state` and `act` ahead of time; see `Controller.compile`.

        What is compiled serves all tasks.

        Returns:
          This agent.
        """
        task = 0 if self.config.multitask else None
        warm_up(self.initial_state, self._every_step(task).act, self.config, batch_size)
        return self

    def act(
        self, observation: ArrayLike, state: ExecutorState, task: str | int | None = None
    ) -> tuple[Array, ExecutorState, StepInfo]:
        """Plans at every step; see `Controller.act`."""
        return self._every_step(task).act(observation, state)

    def _every_step(self, task: str | int | None = None) -> Controller:
        if task not in self._controllers:
            self._controllers[task] = self.controller(task=task)
        return self._controllers[task]

    def _call(self, function: str, task: str | int | None, *inputs: ArrayLike) -> Array:
        index = jnp.asarray(self.task_index(task))
        return _model_call(function, self.config, self.params, index, *inputs)


_prepare = jax.jit(fused_model.prepare, static_argnums=0)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _model_call(
    function: str, config: ModelConfig, params: Params, task: Array, *inputs: ArrayLike
) -> Array:
    """Calls one function of the world model and decodes its scalars."""
    model = WorldModel(config)
    result = getattr(model, function)(params, *inputs, task)
    return model.decode(result) if function in ("reward", "q") else result


_plan = jax.jit(plan_from_latent, static_argnums=(0, 1, 2))
