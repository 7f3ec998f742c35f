"""What happened at each offset of a block: mismatch, decisions, size of corrections."""

from typing import Any

import numpy as np

from specmpc_jax.evaluation.episodes import Step
from specmpc_jax.speculation.decisions import Decision, Outcome

OFFSET_COLUMNS = (
    "task",
    "model_id",
    "model_size",
    "variant",
    "exec_horizon",
    "corrector",
    "offset",
    "steps",
    "mean_mismatch",
    "median_mismatch",
    "p90_mismatch",
    "accepted_share",
    "corrected_share",
    "prior_share",
    "mismatch_replan_share",
    "value_replan_share",
    "mean_correction",
    "p90_correction",
)
_DROPPED = (Decision.MISMATCH, Decision.VALUE_POOR)


class OffsetRecorder:
    """Observes episodes and sums up the steps that are compared with a prediction."""

    def __init__(self) -> None:
        self._last: np.ndarray | None = None  # [B] offset of each lane's last step
        self._steps: list[np.ndarray] = []  # each [4, n]: offset, mismatch, decision, correction

    def observe(self, step: Step) -> None:
        """Takes one step of all lanes; for `run_episodes`."""
        info = step.info
        offset, decision = np.asarray(info.offset), np.asarray(info.decision)
        # Where the plan was dropped, the comparison was made at the offset that was due.
        due = offset if self._last is None or step.time == 0 else self._last + 1
        compared = np.where(np.isin(decision, _DROPPED), due, offset)
        moved = np.abs(step.action - np.asarray(info.planned.a_plan)).mean(-1)
        corrected = np.asarray(info.outcome) == Outcome.CORRECT
        row = np.stack(
            [compared, np.asarray(info.mismatch), decision, np.where(corrected, moved, np.nan)]
        )
        self._steps.append(row[:, step.active & (decision != Decision.BLOCK_END)])
        self._last = offset

    @property
    def steps(self) -> np.ndarray:
        """What was seen, `[4, n]`: offset, mismatch, decision, size of the correction or NaN."""
        return np.concatenate([np.zeros((4, 0)), *self._steps], axis=1)

    def take(self, steps: np.ndarray) -> None:
        """Adds the `steps` of a recorder that observed other episodes."""
        self._steps.append(steps)

    def rows(self, identity: dict[str, Any]) -> list[dict[str, Any]]:
        """One row an offset, in `OFFSET_COLUMNS`; `identity` holds the shared fields.

        Corrections are mean absolute changes of the planned action, over
        the steps at which it was changed.
        """
        steps = self.steps
        shared = {name: identity[name] for name in OFFSET_COLUMNS if name in identity}
        return [
            {**shared, "offset": int(k), **_summary(steps[1:, steps[0] == k])}
            for k in np.unique(steps[0])
        ]


def _summary(steps: np.ndarray) -> dict[str, float]:
    mismatch, decision, moved = steps
    moved = moved[~np.isnan(moved)]

    def share(*decisions: Decision) -> float:
        return float(np.isin(decision, decisions).mean())

    return {
        "steps": mismatch.size,
        "mean_mismatch": float(mismatch.mean()),
        "median_mismatch": float(np.median(mismatch)),
        "p90_mismatch": float(np.percentile(mismatch, 90)),
        "accepted_share": share(Decision.ACCEPTED, Decision.VALUE_PLANNED),
        "corrected_share": share(Decision.CORRECTED, Decision.VALUE_CORRECTED),
        "prior_share": share(Decision.VALUE_PRIOR),
        "mismatch_replan_share": share(Decision.MISMATCH),
        "value_replan_share": share(Decision.VALUE_POOR),
        "mean_correction": float(moved.mean()) if moved.size else float("nan"),
        "p90_correction": float(np.percentile(moved, 90)) if moved.size else float("nan"),
    }
