"""Learning curves: a run's evaluations, the official ones, and their mean over seeds."""

import csv
import glob
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from specmpc_jax import files
from specmpc_jax.errors import UserError
from specmpc_jax.evaluation import statistics

REFERENCES = Path(__file__).parents[1] / "reference_curves"


class Curve(NamedTuple):
    """Returns of one seed over environment steps."""

    steps: np.ndarray  # [N] rising
    returns: np.ndarray  # [N]


class Run(NamedTuple):
    """The evaluations of one training run."""

    task: str
    name: str  # --exp_name
    model_size: int | None
    seed: int
    curve: Curve


class Band(NamedTuple):
    """Mean over seeds and its 95% bootstrap interval; both ends equal the mean of one seed."""

    steps: np.ndarray  # [N]
    mean: np.ndarray  # [N]
    low: np.ndarray  # [N]
    high: np.ndarray  # [N]


def find_runs(patterns: Iterable[str]) -> list[Run]:
    """Reads the runs whose directories match any of the shell patterns.

    Raises:
      UserError: if a pattern matches no run, or a run cannot be read.
    """
    directories: dict[Path, None] = {}
    for pattern in patterns:
        found = [Path(path) for path in sorted(glob.glob(pattern))]
        found = [path.parent if path.name == "eval.csv" else path for path in found]
        found = [path for path in found if (path / "eval.csv").is_file()]
        if not found:
            raise UserError(
                f"{pattern} matches no run: a run is a directory with eval.csv and config.json, "
                "such as logs/walker-walk/0/default"
            )
        directories |= dict.fromkeys(path.resolve() for path in found)
    return [read_run(path) for path in directories]


def read_run(directory: Path) -> Run:
    """Reads eval.csv and config.json of a run directory.

    Raises:
      UserError: if a file is missing or is not what a training run writes.
    """
    config = files.read_json(directory / "config.json")
    try:
        task, seed = config["online"]["task"], int(config["online"]["seed"])
        model_size = config["model"]["model_size"]
    except (KeyError, TypeError) as error:
        raise UserError(f"{directory}/config.json is not that of a training run") from error
    (curve,) = _read_curves(directory / "eval.csv", "episode_reward").values()
    return Run(task, directory.name, model_size, seed, curve)


def official_curves(task: str) -> list[Curve]:
    """The official curves of a task, one a seed; none if the task has none."""
    path = REFERENCES / f"{task}.csv"
    return list(_read_curves(path, "reward").values()) if path.is_file() else []


def mean_over_seeds(curves: Sequence[Curve]) -> Band:
    """Averages curves at every step that one of them was evaluated at.

    Between its own steps a curve is interpolated; where it has not begun or has ended, the
    other ones alone make the mean.
    """
    steps = np.unique(np.concatenate([curve.steps for curve in curves]))
    returns = np.stack(
        [np.interp(steps, *curve, left=np.nan, right=np.nan) for curve in curves], axis=1
    )
    rows = [row[~np.isnan(row)] for row in returns]
    ends = [
        statistics.bootstrap_interval(row) if len(row) > 1 else (row[0], row[0]) for row in rows
    ]
    low, high = np.array(ends).T
    return Band(steps, np.array([row.mean() for row in rows]), low, high)


def _read_curves(path: Path, column: str) -> dict[str, Curve]:
    """Curves of a CSV file by their seed."""
    points: dict[str, list[tuple[float, float]]] = {}
    try:
        with files.existing_path(path).open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                points.setdefault(row["seed"], []).append((float(row["step"]), float(row[column])))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} must have the columns step, {column} and seed") from error
    if not points:
        raise UserError(f"{path} holds no evaluation yet")
    return {seed: Curve(*np.array(sorted(rows)).T) for seed, rows in points.items()}
