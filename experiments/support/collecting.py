"""Collection that keeps every finished episode, so that a killed run goes on where it was."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.support import launch
from specmpc_jax import files, processes
from specmpc_jax.controller import Controller
from specmpc_jax.correctors.collection import collect
from specmpc_jax.correctors.dataset import CorrectorDataset, join
from specmpc_jax.envs.multitask import make_batch_for, spec_for
from specmpc_jax.evaluation.sharding import Bench, in_groups, one_at_a_time, over_benches
from specmpc_jax.progress import Progress


def collect_round(
    controller: Controller,
    task: str,
    env_seeds: Sequence[int],
    num_envs: int,
    metadata: Mapping[str, Any],
    round_number: int,
    path: Path,
    devices: Sequence[jax.Device] = (),
    backend: str = "mujoco",
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
        `<name>.partial.npz` beside it, which the caller removes with `finish`. Of several
        processes the first one reads and writes them, and it alone returns all data.
      devices: this process's share of those that share the episodes; none for JAX's
        default one. Data are the same either way.
      backend: see `registry.make_batch`.
    """
    partial = _partial_path(path)
    metadata = files.to_plain({**metadata, "env_seeds": list(env_seeds), "num_envs": num_envs})
    data = None
    if processes.is_first():
        launch.claim(path)
        data = _kept(path, metadata) or _kept(partial, metadata)
    done = processes.from_first(data.num_episodes if data is not None else 0)
    lanes = min(num_envs, len(env_seeds))
    model = controller.program.model
    length = spec_for(model, task).episode_length
    devices = devices or jax.local_devices()[:1]

    with Progress(
        len(env_seeds) * length,
        f"collect {task}",
        unit="step",
        quiet=launch.QUIET.value,
        initial=done * length,
    ) as progress:
        advance = one_at_a_time(progress.advance)

        def run(bench: Bench, start: int) -> CorrectorDataset:
            key = jax.random.fold_in(launch.key(round_number), start)
            seeds = env_seeds[start : start + lanes]
            return collect(*bench, seeds, key, metadata, round_number, advance)[0]

        # A wave is a group of episodes for every device of every process.
        starts = range(done, len(env_seeds), lanes)
        for wave in in_groups(starts, len(devices) * jax.process_count()):
            own = wave[jax.process_index() :: jax.process_count()]
            parts = over_benches(
                run, own, controller, lambda: make_batch_for(model, task, lanes, backend), devices
            )
            parts = _from_all(parts, len(wave), metadata)
            data = join(parts if data is None else [data, *parts])
            if processes.is_first():
                data.save(partial)
    return data


def _from_all(
    parts: Sequence[CorrectorDataset], count: int, metadata: Mapping[str, Any]
) -> list[CorrectorDataset]:
    """The `count` parts of all processes, which took turns, in order."""
    names = {f"{n}/{name}": a for n, part in enumerate(parts) for name, a in part.arrays.items()}
    told = processes.gather_arrays(names)
    found = []
    for number in range(count):
        process, place = number % len(told), number // len(told)
        prefix = f"{place}/"
        own = {k.removeprefix(prefix): v for k, v in told[process].items() if k.startswith(prefix)}
        found.append(CorrectorDataset(own, dict(metadata)))
    return found


def finish(data: CorrectorDataset, path: Path) -> None:
    """Stores complete data and what made them, and removes what was kept on the way."""
    keep_part(data, path)
    launch.write_run_record(path)


def keep_part(data: CorrectorDataset, path: Path) -> None:
    """Stores the complete data of one task of a set, until `finish` of the whole."""
    data.save(path)
    _partial_path(path).unlink(missing_ok=True)


def part_path(path: Path, task: str) -> Path:
    """Where the data of one task lie until all tasks of a set are complete."""
    return path.with_name(f"{path.stem}.{task.replace('/', '_')}.part{path.suffix}")


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
