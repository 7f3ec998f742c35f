"""Runs variants over the same seeds and keeps the results on disk as they come."""

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.support import launch, planner_flags
from specmpc_jax import files, processes
from specmpc_jax.agent import Agent
from specmpc_jax.checkpointing import fingerprint
from specmpc_jax.config import to_json
from specmpc_jax.controller import Controller
from specmpc_jax.correctors.corrector import Corrector
from specmpc_jax.envs.multitask import spec_for
from specmpc_jax.evaluation.comparison import (
    AGGREGATE_COLUMNS,
    BASELINE,
    EPISODE_COLUMNS,
    SUMMARY_COLUMNS,
    EvaluationSettings,
    aggregate_rows,
    episode_rows,
    evaluate_controller,
    summary_row,
)
from specmpc_jax.evaluation.offsets import OFFSET_COLUMNS, OffsetRecorder
from specmpc_jax.evaluation.statistics import normalised_score, paired_difference
from specmpc_jax.evaluation.variants import Variant, make_controller
from specmpc_jax.progress import Progress

TABLE_COLUMNS = (
    "variant",
    "mean_return",
    "ci_low",
    "ci_high",
    "paired_difference",
    "paired_ci_low",
    "paired_ci_high",
    "planner_calls_per_step",
    "corrected_per_step",
    "mean_jerk",
    "mean_ms",
    "p50_ms",
    "p95_ms",
)


class VariantRows(NamedTuple):
    """What one variant of one model adds to the tables."""

    summary: dict[str, Any]
    episodes: list[dict[str, Any]]
    offsets: list[dict[str, Any]]


class Results:
    """The tables of a comparison, and what each of their rows was made with.

    The summary CSV holds a row a variant; beside it lie `episodes.csv`,
    `offsets.csv`, `aggregate.csv` (a variant over all models) and
    `<summary>.run.json`. A variant of a model that is complete is kept when the
    comparison is started again, unless something that it depends on has
    changed; rows made over other episodes are dropped altogether, as nothing
    could be paired with them.
    """

    def __init__(self, results_csv: str | Path, shared: Mapping[str, Any]):
        """Opens results; `shared` holds the settings that all variants depend on.

        Raises:
          UserError: if another process is writing them.
        """
        self.summary_path = Path(results_csv)
        self.episodes_path = self.summary_path.with_name("episodes.csv")
        self.offsets_path = self.summary_path.with_name("offsets.csv")
        self.aggregate_path = self.summary_path.with_name("aggregate.csv")
        self.run_path = self.summary_path.with_suffix(".run.json")
        self.shared = files.to_plain(shared)
        self.made_with: dict[str, Any] = {}
        if processes.is_first():
            launch.claim(self.summary_path)
        self.summary: list[dict[str, Any]] = []
        self.episodes: list[dict[str, Any]] = []
        self.offsets: list[dict[str, Any]] = []
        if self.run_path.exists():
            self._read_kept()

    def add(
        self,
        rows: VariantRows,
        made_with: Mapping[str, Any],
    ) -> None:
        """Stores one complete variant; `made_with` is what it alone depends on."""
        name = _name(rows.summary)
        self._drop({name})
        self.made_with[name] = files.to_plain(made_with)
        self.summary.append(_as_text(rows.summary))
        self.episodes.extend(map(_as_text, rows.episodes))
        self.offsets.extend(map(_as_text, rows.offsets))
        self._pair(rows.summary)
        if not processes.is_first():
            return
        files.write_csv(self.offsets_path, self.offsets, OFFSET_COLUMNS)
        files.write_csv(self.episodes_path, self.episodes, EPISODE_COLUMNS)
        files.write_csv(self.aggregate_path, aggregate_rows(self.episodes), AGGREGATE_COLUMNS)
        files.write_csv(self.summary_path, self.summary, SUMMARY_COLUMNS)
        # Last, as what makes the rows count: without its entry a row is not kept.
        record = {"shared": self.shared, "made_with": self.made_with}
        record |= {"provenance": launch.provenance(), "flags": launch.flag_values()}
        files.write_json(self.run_path, record)

    def complete(self, identity: Mapping[str, Any], made_with: Mapping[str, Any]) -> bool:
        """Whether a variant of one teacher is there, made with the same things."""
        return self.made_with.get(_name(identity)) == files.to_plain(made_with)

    def _pair(self, added: Mapping[str, Any]) -> None:
        """Compares the new variant with the baseline, or all others with a new baseline."""
        baseline = self._returns({**added, "variant": BASELINE})
        if not baseline.size:
            return
        for row in self.summary:
            same_model = _name({**row, "variant": ""}) == _name({**added, "variant": ""})
            if same_model and added["variant"] in (BASELINE, row["variant"]):
                row.update(_as_text(paired_difference(self._returns(row), baseline)))

    def _returns(self, row: Mapping[str, Any]) -> np.ndarray:
        """Returns of one variant of one model by environment seed; none if it was not run."""
        name = _name(row)
        return np.array([float(each["return"]) for each in self.episodes if _name(each) == name])

    def _read_kept(self) -> None:
        record = files.read_json(self.run_path)
        if record.get("shared") != self.shared:
            return
        self.made_with = record["made_with"]
        self.summary = _read(self.summary_path)
        self.episodes = _read(self.episodes_path)
        self.offsets = _read(self.offsets_path)
        # A run that was killed between two files leaves rows of a variant that does not count.
        self._drop({_name(row) for row in self.episodes + self.summary} - set(self.made_with))

    def _drop(self, names: set[str]) -> None:
        for rows in (self.summary, self.episodes, self.offsets):
            rows[:] = [row for row in rows if _name(row) not in names]
        self.made_with = {k: v for k, v in self.made_with.items() if k not in names}


def _name(row: Mapping[str, Any]) -> str:
    """What tells one variant of one model from all others in the tables."""
    return "/".join(str(row[name]) for name in ("task", "model_id", "variant"))


def compare(
    agent: Agent,
    model_id: str,
    variants: Sequence[Variant],
    correctors: Mapping[str, Corrector],
    settings: EvaluationSettings,
    results: Results,
    follow: str = "elite",
    devices: Sequence[jax.Device] = (),
) -> None:
    """Evaluates variants of one teacher that are not in the results yet.

    Args:
      agent: the teacher.
      model_id: what the results call it.
      variants: what to evaluate; differences are paired to the baseline, once that is there.
      correctors: trained correctors by kind.
      settings: task, seeds and lanes, the same for all variants.
      results: gets one row a variant, as soon as it is complete.
      follow: what blocks execute.
      devices: see `evaluate_controller`.
    """
    # All controllers are built first: a missing corrector shows before hours of work.
    controllers = [
        (variant, make_controller(agent, variant, correctors, settings.task, follow))
        for variant in variants
    ]
    steps = len(settings.env_seeds) * spec_for(agent.config, settings.task).episode_length
    for variant, controller in controllers:
        identity = {
            "task": settings.task,
            "model_id": model_id,
            "model_size": agent.config.model_size,
            "variant": variant.name,
            "exec_horizon": variant.exec_horizon,
            "corrector": variant.corrector or "none",
            "seed": launch.SEED.value,
        }
        made_with = _made_with(agent, controller)
        if processes.from_first(results.complete(identity, made_with)):
            continue
        recorder = OffsetRecorder()
        with Progress(steps, variant.name, unit="step", quiet=launch.QUIET.value) as progress:
            rollouts = evaluate_controller(
                controller, settings, launch.key(), progress.advance, recorder, devices
            )
        rows = VariantRows(
            summary_row(identity, rollouts),
            episode_rows(identity, rollouts.episodes),
            recorder.rows(identity),
        )
        results.add(rows, made_with)


def shared_settings(settings: EvaluationSettings, follow: str) -> dict[str, Any]:
    """What all rows of a comparison depend on."""
    return {"settings": dataclasses.asdict(settings), "seed": launch.SEED.value, "follow": follow}


def _made_with(agent: Agent, controller: Controller) -> dict[str, Any]:
    """What the rows of one variant depend on, besides."""
    program, arrays = controller.program, controller.arrays
    learned = None if arrays.corrector is None else fingerprint(arrays.corrector)
    return {
        "teacher": agent.fingerprint,
        "planner": planner_flags.settings(agent),
        "speculation": to_json(program.speculation),
        "corrector": learned or program.corrector,
        "thresholds": {
            "accept": np.asarray(arrays.thresholds.accept),
            "replan": np.asarray(arrays.thresholds.replan),
        },
    }


def _as_text(row: dict[str, Any]) -> dict[str, str]:
    """A row as the CSV holds it, so that fresh and re-read rows are alike."""
    plain = files.to_plain(row)
    return {name: "" if value is None else str(value) for name, value in plain.items()}


def _read(path: Path) -> list[dict[str, Any]]:
    with files.existing_path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def table(results: Results) -> list[dict[str, Any]]:
    """The summary's main columns as numbers, for printing; with task and model if they differ."""
    differ = (name for name in ("task", "model_id") if len({r[name] for r in results.summary}) > 1)
    columns = (*differ, *TABLE_COLUMNS)
    return [{name: _number(row.get(name, "")) for name in columns} for row in results.summary]


def score_table(results: Results, tasks: Sequence[str]) -> list[dict[str, Any]]:
    """The normalised score of each variant that was run on all `tasks`."""
    scores: dict[tuple[str, str], list[float]] = {}
    for row in results.summary:
        if row["task"] in tasks:
            success = float(row["success_rate"]) if row.get("success_rate") else None
            score = normalised_score(row["task"], float(row["mean_return"]), success)
            scores.setdefault((row["model_id"], row["variant"]), []).append(score)
    return [
        {"model": model, "variant": variant, "normalised score": sum(found) / len(found)}
        for (model, variant), found in scores.items()
        if len(found) == len(tasks)
    ]


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text or None
