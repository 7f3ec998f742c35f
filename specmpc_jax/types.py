"""Axis legend and the pytrees that cross module borders.

Axes, used in every shape comment of the library:
  B batch (environments or rows)   T time            H planning horizon
  N sampled sequences              P policy-prior sequences
  E elites                         I planner iterations
  A action                         L latent          D observation
  K members of the Q ensemble      X length of an execution block
  W window of steps that a corrector remembers
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax

Array = jax.Array
Params = dict[str, Any]


class PlanningModel(NamedTuple):
    """What a planner needs to know of a model: functions of latents, no networks.

    Leading axes broadcast: a latent `[L]` with actions `[N, A]` stands for N
    copies of one state, which lets an implementation share work.
    """

    # (z [..., L], a [..., A]) -> reward [...], next z [..., L]
    step: Callable[[Array, Array], tuple[Array, Array]]
    # (z [..., L], noise [..., A]) -> sampled action [..., A]
    policy: Callable[[Array, Array], Array]
    # (z [..., L]) -> mean action [..., A]
    policy_mean: Callable[[Array], Array]
    # (z [..., L], a [..., A], members [2]) -> mean value of two Q members [...]
    value: Callable[[Array, Array, Array], Array]
    # (z [..., L]) -> probability that the episode has ended [...]; None if it cannot end
    termination: Callable[[Array], Array] | None
    discount: Array  # []
    action_mask: Array | None  # [A] of 0/1, None if every dimension is used
    num_q: int
    # (z [L]) -> what `step` takes in its place, where many calls begin with the same latent
    share: Callable[[Array], Any] = lambda z: z


@flax.struct.dataclass
class PlannerNoise:
    """Every random number of one plan, so that a plan is a pure function of it."""

    policy: Array  # [H, P, A] normal, policy-prior sequences
    samples: Array  # [I, H, N-P, A] normal
    value: Array  # [I, N, A] normal, action at the last latent
    members: Array  # [I, 2] int, the two Q members of each iteration
    gumbel: Array  # [E] Gumbel, choice of the elite
    exploration: Array  # [A] normal, added while training


@flax.struct.dataclass
class Plan:
    """Result of one planner call."""

    action: Array  # [A] the action to execute now
    actions: Array  # [H, A] the chosen elite sequence, beginning with `action`
    latents: Array  # [H + 1, L] the latents that `actions` are predicted to visit, from z on
    mean: Array  # [H, A] mean over elites, unshifted: the next plan's warm start
    std: Array  # [H, A] std over elites
    elite_values: Array  # [E] descending
    value: Array  # [] expectation of the elites' values under their weights


@flax.struct.dataclass
class Block:
    """The steps that are executed from one plan, and what it expects to see on the way."""

    actions: Array  # [X, A]
    latents: Array  # [X, L] predicted latent at each offset; the first is the real one
    mean: Array  # [H, A] the plan's mean, unshifted
    std: Array  # [H, A] the plan's std
    value: Array  # [] the plan's expected value


@flax.struct.dataclass
class PlannedStep:
    """One visited step as a corrector sees it."""

    z_real: Array  # [L] encoded observation
    z_pred: Array  # [L] latent that the plan predicted for this step
    a_plan: Array  # [A] planned action
    offset: Array  # [] int, steps since the plan was made
    mismatch: Array  # [] relative mismatch, whatever the thresholds refer to; 0 at the plan itself


@flax.struct.dataclass
class CorrectionContext:
    """What a corrector may look at when it mends one planned action."""

    step: PlannedStep  # the present step
    window: PlannedStep  # the last W steps of the episode, [W, ...], newest last and present
    window_mask: Array  # [W] bool, False for padding before the episode's start
    plan_mean: Array  # [H, A] the planner's mean, shifted to this step


# (context, key) -> action [A]
CorrectFunction = Callable[[CorrectionContext, Array], Array]
# (z [L], actions [C, A]) -> value of each at z [C], the mean over the Q ensemble
ValueFunction = Callable[[Array, Array], Array]
# (z [L], warm start [H, A], key) -> block
PlanFunction = Callable[[Array, Array, Array], Block]
