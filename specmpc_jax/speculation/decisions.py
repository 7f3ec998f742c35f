"""What can be decided at a step, and why."""

import enum

import jax.numpy as jnp

from specmpc_jax.types import Array


class Outcome(enum.IntEnum):
    """The three answers to a mismatch; planning at a block's start is a REPLAN."""

    ACCEPT = 0
    CORRECT = 1
    REPLAN = 2


class Decision(enum.IntEnum):
    """An outcome with its reason."""

    ACCEPTED = 0  # the planned action; the mismatch is small, or there is no corrector
    CORRECTED = 1  # the corrector's action
    BLOCK_END = 2  # a new plan: the old one was used up
    MISMATCH = 3  # a new plan: the mismatch was beyond the limit
    VALUE_PLANNED = 4  # the planned action, after values were compared
    VALUE_CORRECTED = 5  # the corrector's action, likewise
    VALUE_PRIOR = 6  # the policy prior's mean, likewise
    VALUE_POOR = 7  # a new plan: every candidate is worth much less than the plan promised


_OUTCOMES = {
    Decision.ACCEPTED: Outcome.ACCEPT,
    Decision.CORRECTED: Outcome.CORRECT,
    Decision.BLOCK_END: Outcome.REPLAN,
    Decision.MISMATCH: Outcome.REPLAN,
    Decision.VALUE_PLANNED: Outcome.ACCEPT,
    Decision.VALUE_CORRECTED: Outcome.CORRECT,
    Decision.VALUE_PRIOR: Outcome.CORRECT,
    Decision.VALUE_POOR: Outcome.REPLAN,
}


def outcome_of(decision: Array) -> Array:
    """The `Outcome` of a `Decision`, `[...]` int -> `[...]` int."""
    return jnp.asarray([_OUTCOMES[each] for each in Decision], jnp.int32)[decision]


def replans(decision: Array) -> Array:
    """Whether a `Decision` makes a new plan, `[...]` int -> `[...]` bool."""
    return outcome_of(decision) == Outcome.REPLAN
