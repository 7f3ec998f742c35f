"""Thresholds as quantiles of the mismatch that was seen at each offset."""

import numpy as np

from specmpc_jax.errors import UserError

# Percent steps at which quantiles are stored.
LEVELS = np.linspace(0.0, 1.0, 101)


def mismatch_quantiles(distance: np.ndarray, offset: np.ndarray) -> dict[int, list[float]]:
    """Summarises the mismatch of visited steps.

    Args:
      distance: `[R]` mismatch of each row.
      offset: `[R]` int, offset of each row; rows at offset 0 are left out.

    Returns:
      For each offset seen, its 0%, 1%, ... 100% quantiles.
    """
    offsets = np.unique(offset[offset > 0])
    return {int(k): np.quantile(distance[offset == k], LEVELS).tolist() for k in offsets}


def thresholds_at(quantiles: dict[int, list[float]], level: float, exec_horizon: int) -> np.ndarray:
    """Turns "the worst 10%" (level 0.9) into one threshold per offset.

    Args:
      quantiles: result of `mismatch_quantiles`.
      level: quantile in 0..1.
      exec_horizon: X.

    Returns:
      `[X]`; offsets beyond those seen use the largest seen.

    Raises:
      UserError: if the level is out of range or nothing was calibrated.
    """
    if not 0.0 <= level <= 1.0:
        raise UserError(f"a mismatch quantile is {level}; it must lie between 0 and 1")
    if not quantiles:
        raise UserError("no mismatch quantiles are stored: give thresholds instead of quantiles")
    last = max(quantiles)
    rows = [quantiles[min(k, last)] for k in range(1, exec_horizon)]
    return np.array([0.0, *(np.interp(level, LEVELS, row) for row in rows)], np.float32)
