"""Planner settings for a time budget: which one to take, and when to change it.

Pure logic on measured numbers; who measures is `deadline_controller`.
"""

import dataclasses
import math
from collections.abc import Sequence

from specmpc_jax.config import PlannerConfig
from specmpc_jax.errors import UserError

# (iterations, samples) as fractions of the full planner's, best first.
DEFAULT_FRACTIONS = (
    (1.0, 1.0),
    (2 / 3, 1.0),
    (2 / 3, 0.5),
    (0.5, 0.5),
    (0.5, 0.25),
    (1 / 3, 0.25),
    (1 / 3, 0.125),
    (1 / 6, 0.125),
)


def scaled_planner(planner: PlannerConfig, iterations: int, num_samples: int) -> PlannerConfig:
    """A planner with another budget, its elites and policy sequences scaled with the samples.

    Raises:
      UserError: if the numbers make no planner.
    """
    share = num_samples / planner.num_samples
    elites = max(1, round(share * planner.num_elites))
    policy = min(round(share * planner.num_pi_trajs), num_samples - 1)
    if planner.num_pi_trajs and num_samples > 1:
        policy = max(1, policy)
    return dataclasses.replace(
        planner,
        iterations=iterations,
        num_samples=num_samples,
        num_elites=elites,
        num_pi_trajs=policy,
    )


def default_planners(planner: PlannerConfig) -> tuple[PlannerConfig, ...]:
    """The full planner and cheaper ones, without repetitions."""
    settings = (
        (max(1, round(i * planner.iterations)), max(2, round(s * planner.num_samples)))
        for i, s in DEFAULT_FRACTIONS
    )
    return tuple(
        scaled_planner(planner, iterations, min(samples, planner.num_samples))
        for iterations, samples in dict.fromkeys(settings)
    )


@dataclasses.dataclass(frozen=True)
class Timing:
    """A planner and how long an action takes with it."""

    planner: PlannerConfig
    latency_ms: float

    @property
    def sequences(self) -> int:
        """Action sequences scored in one plan, which is what quality is judged by."""
        return self.planner.iterations * self.planner.num_samples


def ladder(timings: Sequence[Timing], budget_ms: float) -> tuple[Timing, ...]:
    """The planners that hold a budget, best first.

    Better means more sequences scored, then more iterations. A planner that a
    better one beats in time as well is left out.

    Args:
      timings: measured planners in any order.
      budget_ms: milliseconds from observation to action.

    Raises:
      UserError: if none holds the budget; names the smallest that one would.
    """
    if not timings:
        raise UserError("a deadline needs at least one planner to choose from")
    if not budget_ms > 0:
        raise UserError(f"the budget is {budget_ms} ms; it must be above 0")
    fitting = [timing for timing in timings if timing.latency_ms <= budget_ms]
    if not fitting:
        least = min(timings, key=lambda timing: timing.latency_ms)
        raise UserError(
            f"no planner acts within {budget_ms:g} ms here; the cheapest ({_describe(least)}) "
            f"needs a budget of {math.ceil(10 * least.latency_ms) / 10:g} ms"
        )
    fitting.sort(key=lambda timing: (-timing.sequences, -timing.planner.iterations))
    kept: list[Timing] = []
    for timing in fitting:
        if not kept or timing.latency_ms < kept[-1].latency_ms:
            kept.append(timing)
    return tuple(kept)


def _describe(timing: Timing) -> str:
    return f"{timing.planner.iterations} iterations, {timing.planner.num_samples} samples"


@dataclasses.dataclass(frozen=True)
class GovernorConfig:
    """When to leave a rung of the ladder.

    `misses` plans over the budget among the last `window` go one rung down;
    `patience` plans in a row within it go one rung up. A climb that does not
    last for `patience` plans doubles the patience, up to `max_patience`; one
    that lasts sets it back.
    """

    misses: int = 2
    window: int = 20
    patience: int = 50
    max_patience: int = 800

    def __post_init__(self) -> None:
        if not 1 <= self.misses <= self.window:
            raise UserError(f"misses {self.misses} must lie in 1..window ({self.window})")
        if not 1 <= self.patience <= self.max_patience:
            raise UserError(
                f"patience {self.patience} must lie in 1..max_patience ({self.max_patience})"
            )


@dataclasses.dataclass(frozen=True)
class GovernorState:
    """Where on the ladder a controller is; `recent` says which of the last plans were late."""

    rung: int = 0  # 0 is the best
    recent: tuple[bool, ...] = ()
    in_time: int = 0  # plans in a row within the budget
    patience: int = 0  # plans in time before the next climb; 0 before the first plan
    held: int = 0  # plans since the rung was entered
    climbed: bool = False  # whether it was entered from below


def observe(
    config: GovernorConfig, rungs: int, state: GovernorState, over_budget: bool
) -> GovernorState:
    """Counts one plan and moves along the ladder if it is time to.

    Args:
      config: when to move.
      rungs: number of rungs of the ladder.
      state: the state before the plan.
      over_budget: whether the plan took longer than the budget.

    Returns:
      The next state; a new rung begins with nothing remembered.
    """
    patience, held = state.patience or config.patience, state.held + 1
    if state.climbed and held > config.patience:
        patience = config.patience
    recent = (*state.recent, over_budget)[-config.window :]
    in_time = 0 if over_budget else state.in_time + 1
    if sum(recent) >= config.misses and state.rung < rungs - 1:
        if state.climbed and held <= config.patience:
            patience = min(2 * patience, config.max_patience)
        return GovernorState(state.rung + 1, patience=patience)
    if in_time >= patience and state.rung > 0:
        return GovernorState(state.rung - 1, patience=patience, climbed=True)
    return GovernorState(state.rung, recent, in_time, patience, held, state.climbed)
