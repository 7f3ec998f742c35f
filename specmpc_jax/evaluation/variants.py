"""Variants of speculative execution by name, as result tables call them.

    baseline                    plan at every step
    policy                      the policy prior alone, never plan
    3_step_naive                blocks of three, open loop
    3_step_corrector            blocks of three, two_tower corrector
    3_step_corrector_temporal   blocks of three, temporal corrector
    3_step_bc                   blocks of three, behaviour cloning after the first step
    3_step_refine               blocks of three, short replans after the first step
    3_step_corrector_replan10   also replan where the mismatch is in its worst 10%

Any block length will do, and every `k_step` variant takes a `_replan` suffix.
"""

import dataclasses
import re
from collections.abc import Mapping

from specmpc_jax.agent import Agent
from specmpc_jax.config import SpeculationConfig
from specmpc_jax.controller import Controller
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
    "3_step_refine",
)
# Corrector kind by the middle part of a variant's name.
KINDS = {
    "naive": None,
    "corrector": "two_tower",
    "corrector_temporal": "temporal",
    "bc": "bc",
    "refine": "refine",
}
_PATTERN = re.compile(
    rf"(?P<horizon>[1-9]\d*)_step_(?P<kind>{'|'.join(KINDS)})(_replan(?P<replan>\d+))?"
)


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to execute a teacher's plans.

    `replan_percent` is the share of steps, by mismatch, on which the plan is
    dropped; `corrector` is "policy" where the prior acts alone.
    """

    name: str
    exec_horizon: int
    corrector: str | None = None
    replan_percent: int = 0


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
    if not match or not int(match["replan"] or 0) <= 100:
        raise UserError(
            f"variant {name!r} is unknown; variants are baseline, policy and "
            f"<k>_step_<{'|'.join(KINDS)}>[_replan<percent>], such as 3_step_corrector"
        )
    horizon, kind = int(match["horizon"]), KINDS[match["kind"]]
    return Variant(name, horizon, kind, int(match["replan"] or 0))


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
    tau_replan = None
    if variant.replan_percent:
        calibrated = correctors.get(variant.corrector or "") or next(
            iter(correctors.values()), None
        )
        if calibrated is None:
            raise UserError(f"{variant.name} needs a corrector, whose data calibrate the mismatch")
        calibrated.check_teacher(agent.fingerprint, agent.config)
        limits = calibrated.thresholds_at(
            1 - variant.replan_percent / 100, SpeculationConfig(variant.exec_horizon)
        )
        tau_replan = limits[1:].tolist() or None
    corrector: Corrector | str | None = None
    if variant.corrector == "refine":
        corrector = "refine"
    elif variant.corrector not in (None, "policy"):
        if variant.corrector not in correctors:
            raise UserError(
                f"{variant.name} needs a {variant.corrector} corrector; there is "
                f"{', '.join(sorted(correctors)) or 'none'}"
            )
        corrector = correctors[variant.corrector]
    return agent.controller(
        variant.exec_horizon,
        corrector,
        tau_replan=tau_replan,
        follow=follow,
        use_planner=variant.corrector != "policy",
        task=task,
    )
