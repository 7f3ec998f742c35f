"""Collection that keeps every finished episode, so that a killed run goes on where it was."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import launch
from specmpc_jax import files
from specmpc_jax.controller import Controller
from specmpc_jax.correctors.collection import collect
from specmpc_jax.correctors.dataset import CorrectorDataset, join
from specmpc_jax.envs import registry
from specmpc_jax.progress import Progress


def collect_round(
    controller: Controller,
    task: str,
    env_seeds: Sequence[int],
    num_envs: int,
    metadata: Mapping[str, Any],
    round_number: int,
    path: Path,
) -> CorrectorDataset:
    """Collects one round of corrector data.

    Args:
      controller: what drives.
      task: the environment.
      env_seeds: one episode each.
      num_envs: environments stepped side by side.
      metadata: all settings; data of other settings are not gone on with.
      round_number: aggregation round, stored with each row.
      path: where the data will lie; finished episodes are kept in
        `<name>.partial.npz` beside it, which the caller removes with `finish`.
    """
    partial = _partial_path(path)
    launch.claim(path)
    metadata = files.to_plain({**metadata, "env_seeds": list(env_seeds), "num_envs": num_envs})
    data = _kept(path, metadata) or _kept(partial, metadata)
    done = data.num_episodes if data is not None else 0
    with registry.make_batch(task, min(num_envs, len(env_seeds))) as environments:
        length = environments.spec.episode_length
        with Progress(
            len(env_seeds) * length,
            f"collect {task}",
            unit="step",
            quiet=launch.QUIET.value,
            initial=done * length,
        ) as progress:
            for start in range(done, len(env_seeds), len(environments)):
                part, _ = collect(
                    controller,
                    environments,
                    env_seeds[start : start + len(environments)],
                    jax.random.fold_in(launch.key(round_number), start),
                    metadata,
                    round_number,
                    progress.advance,
                )
                data = part if data is None else join([data, part])
                data.save(partial)
    return data


def finish(data: CorrectorDataset, path: Path) -> None:
    """Stores complete data and what made them, and removes what was kept on the way."""
    data.save(path)
    launch.write_run_record(path)
    _partial_path(path).unlink(missing_ok=True)


def mean_return(data: CorrectorDataset) -> float:
    """Mean return of the episodes in some data."""
    return float(np.bincount(data["episode"], weights=data["reward"]).mean())


def _partial_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}.partial{path.suffix}")


def _kept(path: Path, metadata: dict[str, Any]) -> CorrectorDataset | None:
    """Episodes of an earlier run with the same settings, if there are any."""
    if not path.exists():
        return None
    data = CorrectorDataset.load(path)
    known = {name: value for name, value in data.metadata.items() if name != "format"}
    return data if known == metadata else None
