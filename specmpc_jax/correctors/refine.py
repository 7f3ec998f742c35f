"""Refinement: a short replan around the rest of the plan; nothing is learned."""

import dataclasses

from specmpc_jax.config import PlannerConfig
from specmpc_jax.planning import mppi
from specmpc_jax.types import Array, CorrectFunction, CorrectionContext, PlanningModel


@dataclasses.dataclass(frozen=True)
class RefineConfig:
    """Budget of one refinement; `initial_std` is in units of the action range."""

    num_samples: int = 128
    iterations: int = 2
    num_elites: int = 16
    num_pi_trajs: int = 24
    initial_std: float = 0.3


def refine(model: PlanningModel, planner: PlannerConfig, config: RefineConfig) -> CorrectFunction:
    """Makes a correct function that replans with few samples around the old plan.

    Args:
      model: the planning functions.
      planner: settings of the full planner; horizon and temperature are kept.
      config: the smaller budget.

    Returns:
      A function of a context and a key, which it consumes.
    """
    small = dataclasses.replace(
        planner,
        num_samples=config.num_samples,
        iterations=config.iterations,
        num_elites=config.num_elites,
        num_pi_trajs=config.num_pi_trajs,
    )

    def correct(context: CorrectionContext, key: Array) -> Array:
        action_dim = context.step.a_plan.shape[-1]
        noise = mppi.draw_noise(key, small, action_dim, model.num_q)
        plan = mppi.plan(
            model,
            small,
            context.step.z_real,
            context.plan_mean,
            noise,
            initial_std=config.initial_std,
        )
        return plan.mean[0]

    return correct
