"""The policy prior at the real latent in the plan's place; nothing is learned anew."""

import dataclasses

from specmpc_jax.types import Array, CorrectFunction, CorrectionContext, PlanningModel


@dataclasses.dataclass(frozen=True)
class PriorConfig:
    """Nothing can be chosen: the prior's mean acts."""


def prior(model: PlanningModel) -> CorrectFunction:
    """Makes a correct function that acts by the policy prior between plans.

    What behaviour cloning of the planner has to beat: it costs no data and no
    training, as the teacher brings it along.

    Args:
      model: the planning functions.

    Returns:
      A function of a context and a key, which is not needed and not consumed.
    """

    def correct(context: CorrectionContext, key: Array) -> Array:
        return model.policy_mean(context.step.z_real)

    return correct
