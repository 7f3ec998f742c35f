"""Summaries of returns with bootstrap intervals; nothing here knows of agents."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

RESAMPLES = 10_000
CONFIDENCE = 0.95
_CHUNK = 500  # resamples at a time, which bounds memory


def interquartile_mean(values: np.ndarray) -> float:
    """Mean of the middle half of the values `[E]`."""
    return float(stats.trim_mean(values, 0.25))


def bootstrap_interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95% percentile bootstrap interval of the mean of `[E]` values.

    Returns:
      Lower and upper end; NaNs for fewer than two values.
    """
    values = np.asarray(values, np.float64)
    if values.size < 2:
        return float("nan"), float("nan")
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    result = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    return float(low), float(high)


def stratified_iqm(strata: Sequence[np.ndarray], seed: int = 0) -> tuple[float, float, float]:
    """Interquartile mean over several tasks or models, with a stratified bootstrap interval.

    Resampling is done within each stratum, so that every task counts with as
    many episodes as it has in each resample (Agarwal et al., Deep Reinforcement
    Learning at the Edge of the Statistical Precipice, NeurIPS 2021).

    Args:
      strata: returns `[E_i]` of each stratum, on one scale.
      seed: decides the resamples.

    Returns:
      The IQM of all returns, and the lower and upper end of its 95% percentile
      interval; NaNs where a stratum has a single return.
    """
    groups = [np.asarray(stratum, np.float64) for stratum in strata]
    point = interquartile_mean(np.concatenate(groups))
    if min(group.size for group in groups) < 2:
        return point, float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    means = [
        stats.trim_mean(
            np.concatenate(
                [group[rng.integers(group.size, size=(_CHUNK, group.size))] for group in groups],
                axis=1,
            ),
            0.25,
            axis=1,
        )
        for _ in range(RESAMPLES // _CHUNK)
    ]
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(np.concatenate(means), (tail, 100 - tail))
    return point, float(low), float(high)


def jerk(actions: np.ndarray) -> float:
    """Mean absolute third difference of actions `[T, A]`, in units of the action per step^3.

    The discrete third derivative, of whose smallness smooth motion is the
    usual definition (Flash and Hogan 1985); 0 for actions that follow a
    parabola, NaN for fewer than four steps.
    """
    if len(actions) < 4:
        return float("nan")
    return float(np.abs(np.diff(np.asarray(actions, np.float64), n=3, axis=0)).mean())


def summarise_returns(returns: np.ndarray) -> dict[str, float]:
    """Mean, median, IQM, standard deviation, 95% intervals, minimum and 5th percentile.

    Args:
      returns: `[E]`, one an episode.
    """
    returns = np.asarray(returns, np.float64)
    low, high = bootstrap_interval(returns)
    iqm, iqm_low, iqm_high = stratified_iqm([returns])
    return {
        "mean_return": float(returns.mean()),
        "median_return": float(np.median(returns)),
        "iqm_return": iqm,
        "iqm_ci_low": iqm_low,
        "iqm_ci_high": iqm_high,
        "std_return": float(returns.std(ddof=1)) if returns.size > 1 else float("nan"),
        "ci_low": low,
        "ci_high": high,
        "min_return": float(returns.min()),
        "p5_return": float(np.percentile(returns, 5)),
    }


def paired_difference(returns: np.ndarray, baseline: np.ndarray) -> dict[str, float]:
    """Mean difference of two runs over the same environment seeds, with its interval.

    Args:
      returns: `[E]`, episode i on seed i.
      baseline: `[E]`, likewise.
    """
    difference = np.asarray(returns, np.float64) - np.asarray(baseline, np.float64)
    low, high = bootstrap_interval(difference)
    return {
        "paired_difference": float(difference.mean()),
        "paired_ci_low": low,
        "paired_ci_high": high,
    }


def normalised_score(task: str, mean_return: float, success_rate: float | None) -> float:
    """A task's score from 0 to about 100, as TD-MPC2 averages them over a task set.

    Args:
      task: Meta-World's (`mw-`) count by success, all others by return.
      mean_return: of an episode; 1000 is the most that a DMControl task gives.
      success_rate: share of episodes, where it is known.
    """
    if task.startswith("mw-"):
        return 100.0 * (success_rate or 0.0)
    return mean_return / 10.0


def summarise_latency(seconds: np.ndarray) -> dict[str, float]:
    """p50, p95 and p99 of latencies `[T]`, given in seconds, returned in milliseconds."""
    if len(seconds) == 0:
        return dict.fromkeys(("p50_ms", "p95_ms", "p99_ms"), float("nan"))
    p50, p95, p99 = 1e3 * np.percentile(seconds, (50, 95, 99))
    return {"p50_ms": float(p50), "p95_ms": float(p95), "p99_ms": float(p99)}
