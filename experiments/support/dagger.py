"""Aggregation rounds (DAgger): collect, train, and collect again while the corrector drives.

Round 0 executes plans as they are. In each further round the corrector that all
earlier data have made drives, so that the data hold the states it leads to
itself; the last corrector is trained on the union (Ross et al., AISTATS 2011).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.support import corrector_training, launch
from experiments.support.collecting import collect_round, finish, mean_return
from specmpc_jax import files
from specmpc_jax.agent import Agent
from specmpc_jax.config import CorrectorConfig, CorrectorTrainConfig
from specmpc_jax.correctors.corrector import Corrector
from specmpc_jax.correctors.dataset import CorrectorDataset, join
from specmpc_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Aggregation:
    """What the rounds are; `rounds` counts those that a corrector drives.

    `settings` is stored with the data and must hold `exec_horizon`, `follow`
    and everything else that the data depend on.
    """

    task: str
    rounds: int
    episodes: int
    first_env_seed: int
    num_envs: int
    settings: Mapping[str, Any]
    config: CorrectorConfig
    training: CorrectorTrainConfig

    def env_seeds(self, round_number: int) -> Sequence[int]:
        """Environment seeds of one round; no two rounds share any."""
        first = self.first_env_seed + round_number * self.episodes
        return range(first, first + self.episodes)


def rounds_directory(path: Path) -> Path:
    """Where the rounds of the data at `path` are kept: `<name>_rounds` beside it."""
    return path.with_name(f"{path.stem}_rounds")


def aggregate(
    agent: Agent, plan: Aggregation, path: Path
) -> tuple[CorrectorDataset, Corrector, list[dict[str, Any]]]:
    """Carries out all rounds that are not complete yet.

    Every finished episode, round and corrector is kept in `rounds_directory`,
    so a killed run goes on where it was, and more rounds can be added later.

    Args:
      agent: the teacher.
      plan: the rounds.
      path: gets the union of all rounds.

    Returns:
      The union, the corrector trained on it, and one row a round for a table.

    Raises:
      UserError: if rounds of other settings lie there, or other data at `path`.
    """
    directory = rounds_directory(path)
    if path.exists() and not directory.is_dir():
        raise UserError(
            f"{path} exists already, but not by aggregation rounds; remove it or choose "
            "another --output"
        )
    corrector: Corrector | None = None
    parts: list[CorrectorDataset] = []
    table = []
    for number in range(plan.rounds + 1):
        parts.append(_round(agent, plan, number, corrector, directory))
        data = _union(parts)
        driver = plan.config.kind if corrector else "the plan"
        corrector = _corrector(plan, data, directory / f"corrector_{number}_{plan.config.kind}")
        row = {
            "round": number,
            "driver": driver,
            "return": mean_return(parts[-1]),
            "steps in all": len(data),
            "held-out error": corrector.record["held_out_loss"],
            "plan's own error": corrector.record["plan_error"],
        }
        table.append(row)
        print(
            f"round {number}: {driver} drove, return {row['return']:.1f}; "
            f"{row['steps in all']} steps in all",
            flush=True,
        )
    record = {**data.metadata, "provenance": launch.provenance()}
    CorrectorDataset(data.arrays, record).save(path)
    return data, corrector, table


def _round(
    agent: Agent, plan: Aggregation, number: int, corrector: Corrector | None, directory: Path
) -> CorrectorDataset:
    """Data of one round, collected as far as they are not on disk."""
    path = directory / f"round_{number}.npz"
    seeds = plan.env_seeds(number)
    metadata = files.to_plain(
        {
            **plan.settings,
            "env_seeds": list(seeds),
            "num_envs": plan.num_envs,
            "corrector": corrector.fingerprint if corrector else None,
        }
    )
    if path.exists():
        kept = CorrectorDataset.load(path)
        _check_same(path, kept.metadata, metadata)
        return kept
    controller = agent.controller(
        plan.settings["exec_horizon"], corrector, follow=plan.settings["follow"], task=plan.task
    )
    data = collect_round(
        controller,
        plan.task,
        seeds,
        plan.num_envs,
        metadata,
        number,
        path,
        backend=plan.settings.get("backend", "mujoco"),
    )
    finish(data, path)
    return data


def _check_same(path: Path, kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    differing = sorted(
        name for name in {*kept, *wanted} - {"format"} if kept.get(name) != wanted.get(name)
    )
    if differing:
        raise UserError(
            f"{path} was collected with another {', '.join(differing)}; remove {path.parent} or "
            "choose another --output"
        )


def _union(parts: Sequence[CorrectorDataset]) -> CorrectorDataset:
    """All rounds as one dataset, which keeps what is known of each."""
    settings = [{k: v for k, v in part.metadata.items() if k != "format"} for part in parts]
    shared = {k: v for k, v in settings[0].items() if all(s.get(k) == v for s in settings)}
    return CorrectorDataset(join(parts).arrays, {**shared, "rounds": settings})


def _corrector(plan: Aggregation, data: CorrectorDataset, path: Path) -> Corrector:
    """The corrector of some data, read if it was trained before."""
    kept = corrector_training.trained_before(path, plan.config, plan.training, data)
    if kept is not None:
        return kept
    corrector, _ = corrector_training.train_with_progress(plan.config, plan.training, data)
    corrector.save(str(path), overwrite=True)
    return corrector
