"""The correctors that learn nothing, by name. To add one: write a module, list it here."""

from specmpc_jax.config import PlannerConfig
from specmpc_jax.correctors.prior import PriorConfig, prior
from specmpc_jax.correctors.refine import RefineConfig, refine
from specmpc_jax.types import CorrectFunction, PlanningModel

UnlearnedConfig = RefineConfig | PriorConfig
# By name, as they come if nothing else is said.
CONFIGS: dict[str, UnlearnedConfig] = {"refine": RefineConfig(), "prior": PriorConfig()}


def correct_function(
    config: UnlearnedConfig, model: PlanningModel, planner: PlannerConfig
) -> CorrectFunction:
    """Binds the model for the executor.

    Args:
      config: which corrector, and its settings.
      model: the planning functions.
      planner: settings of the full planner.

    Returns:
      A function of a context and a key, which refinement consumes.
    """
    if isinstance(config, RefineConfig):
        return refine(model, planner, config)
    return prior(model)


def kind(config: UnlearnedConfig) -> str:
    """The name of a configuration's corrector."""
    return next(name for name, known in CONFIGS.items() if isinstance(config, type(known)))
