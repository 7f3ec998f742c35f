"""Variants of speculative execution by name, as result tables call them.

    baseline                    plan at every step
    policy                      the policy prior alone, never plan
    3_step_naive                blocks of three, open loop
    3_step_corrector            blocks of three, two_tower corrector
    3_step_corrector_temporal   blocks of three, temporal corrector
    3_step_bc                   blocks of three, behaviour cloning after the first step
    3_step_gated                bc, or the plan mended, by a learned trust in the plan
    3_step_refine               blocks of three, short replans after the first step
    3_step_prior                blocks of three, the policy prior after the first step

Any block length will do, and every `k_step` variant takes these suffixes, in this order:

    _accept<percent>    take the planned action where the mismatch is in its best percent
    _replan<percent>    drop the plan where the mismatch is in its worst percent
    _adaptive<percent>  drop the plan at percent of the steps, by a tolerance that adapts
                        while acting; needs no data. 3_step_adaptive10 is 3_step_naive_adaptive10
    _valued[<percent>]  let values choose between plan, correction and prior, and drop the plan
                        where the best is worth less than promised, if they differ by percent
                        (default 2) of what was promised
"""

import dataclasses
import re
from collections.abc import Mapping

from specmpc_jax.agent import Agent
from specmpc_jax.config import SpeculationConfig
from specmpc_jax.controller import Controller
from specmpc_jax.correctors import unlearned
from specmpc_jax.correctors.corrector import Corrector
from specmpc_jax.errors import UserError

DEFAULT = (
    "baseline",
    "policy",
    "2_step_naive",
    "2_step_corrector",
    "2_step_corrector_temporal",
    "3_step_naive",
    "3_step_corrector",
    "3_step_corrector_temporal",
    "3_step_bc",
    "3_step_gated",
    "3_step_refine",
    "3_step_prior",
)
# Corrector kind by the middle part of a variant's name.
KINDS = {
    "naive": None,
    "corrector": "two_tower",
    "corrector_temporal": "temporal",
    "bc": "bc",
    "gated": "gated",
    **{name: name for name in unlearned.CONFIGS},
}
DEFAULT_VALUE_PERCENT = 2
_PATTERN = re.compile(
    rf"(?P<horizon>[1-9]\d*)_step"
    rf"(_(?P<kind>{'|'.join(KINDS)}))?"
    r"(_accept(?P<accept>\d+))?"
    r"(_replan(?P<replan>\d+)|_adaptive(?P<adaptive>\d+))?"
    r"(?P<valued>_valued(?P<value>\d+)?)?"
)


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to execute a teacher's plans.

    `accept_percent` is the share of steps, by mismatch, on which a planned
    action is taken uncorrected, `replan_percent` that on which the plan is
    dropped, `adaptive_percent` that on which an adapting tolerance drops it.
    `value_percent` is how much less than promised an action may be worth, None
    where values decide nothing. `corrector` is "policy" where the prior acts alone.
    """

    name: str
    exec_horizon: int
    corrector: str | None = None
    replan_percent: int = 0
    accept_percent: int = 0
    adaptive_percent: int = 0
    value_percent: int | None = None


def parse(name: str) -> Variant:
    """Reads a variant's name.

    Raises:
      UserError: if the name follows no pattern of this module.
    """
    if name == "baseline":
        return Variant(name, 1)
    if name == "policy":
        return Variant(name, 1, "policy")
    match = _PATTERN.fullmatch(name)
    # Without a kind, something else has to say what the blocks are for.
    if not match or not (match["kind"] or match["adaptive"]):
        raise UserError(
            f"variant {name!r} is unknown; variants are baseline, policy, "
            f"<k>_step_adaptive<percent> and <k>_step_<{'|'.join(KINDS)}>, with _accept<percent>, "
            "_replan<percent> or _adaptive<percent>, and _valued, such as 3_step_corrector_replan10"
        )
    percents = {each: int(match[each] or 0) for each in ("accept", "replan", "adaptive", "value")}
    if max(percents.values()) > 100 or percents["adaptive"] == 100 or match["adaptive"] == "0":
        raise UserError(f"variant {name!r} has a percentage that is impossible")
    if percents["accept"] + percents["replan"] > 100:
        raise UserError(f"variant {name!r} accepts and drops more than 100% of the steps")
    value = int(match["value"] or DEFAULT_VALUE_PERCENT) if match["valued"] else None
    return Variant(
        name,
        int(match["horizon"]),
        KINDS[match["kind"] or "naive"],
        percents["replan"],
        percents["accept"],
        percents["adaptive"],
        value,
    )


def make_controller(
    agent: Agent,
    variant: Variant,
    correctors: Mapping[str, Corrector],
    task: str | None = None,
    follow: str = "elite",
) -> Controller:
    """Builds the controller of a variant.

    Args:
      agent: the teacher.
      variant: what to build.
      correctors: trained correctors by kind.
      task: multi-task teachers only.
      follow: what blocks execute, see `SpeculationConfig`.

    Raises:
      UserError: if the variant needs a corrector that is not there.
    """
    corrector: Corrector | str | None = None
    if variant.corrector in unlearned.CONFIGS:
        corrector = variant.corrector
    elif variant.corrector not in (None, "policy"):
        if variant.corrector not in correctors:
            raise UserError(
                f"{variant.name} needs a {variant.corrector} corrector; there is "
                f"{', '.join(sorted(correctors)) or 'none'}"
            )
        corrector = correctors[variant.corrector]

    def limits(percent: int, level: float) -> list[float] | None:
        return _calibrated(agent, variant, correctors, level) if percent else None

    return agent.controller(
        variant.exec_horizon,
        corrector,
        tau_accept=limits(variant.accept_percent, variant.accept_percent / 100),
        tau_replan=limits(variant.replan_percent, 1 - variant.replan_percent / 100),
        replan_rate=variant.adaptive_percent / 100,
        value_tolerance=None if variant.value_percent is None else variant.value_percent / 100,
        follow=follow,
        use_planner=variant.corrector != "policy",
        task=task,
    )


def _calibrated(
    agent: Agent, variant: Variant, correctors: Mapping[str, Corrector], level: float
) -> list[float] | None:
    """Thresholds at offsets 1..X-1 that a share `level` of the steps stays below."""
    calibrated = correctors.get(variant.corrector or "") or next(iter(correctors.values()), None)
    if calibrated is None:
        raise UserError(f"{variant.name} needs a corrector, whose data calibrate the mismatch")
    calibrated.check_teacher(agent.fingerprint, agent.config)
    limits = calibrated.thresholds_at(level, SpeculationConfig(variant.exec_horizon))
    return limits[1:].tolist() or None
