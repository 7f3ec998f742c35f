"""Runs variants over the same seeds and keeps the results on disk as they come."""

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import launch, planner_flags
from specmpc_jax import files
from specmpc_jax.agent import Agent
from specmpc_jax.correctors.corrector import Corrector
from specmpc_jax.envs import registry
from specmpc_jax.evaluation.comparison import (
    BASELINE,
    EPISODE_COLUMNS,
    SUMMARY_COLUMNS,
    EvaluationSettings,
    episode_rows,
    evaluate_controller,
    summary_row,
)
from specmpc_jax.evaluation.rollout import Episode
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
    "mean_ms",
    "p50_ms",
    "p95_ms",
)


class Results:
    """The summary CSV, `episodes.csv` beside it, and what they were made with.

    A variant that is complete is kept when the same comparison is started
    again; a comparison with other settings starts from nothing.
    """

    def __init__(self, results_csv: str | Path, run: Mapping[str, Any]):
        """Opens results; `run` holds every setting that results depend on.

        Raises:
          UserError: if another process is writing them.
        """
        self.summary_path = Path(results_csv)
        self.episodes_path = self.summary_path.with_name("episodes.csv")
        self.run_path = self.summary_path.with_suffix(".run.json")
        self.run = files.to_plain(run)
        launch.claim(self.summary_path)
        self.summary: list[dict[str, Any]] = []
        self.episodes: list[dict[str, Any]] = []
        if self.run_path.exists() and self._same_run():
            self.summary = _read(self.summary_path)
            self.episodes = _read(self.episodes_path)

    def add(self, summary: dict[str, Any], episodes: list[dict[str, Any]]) -> None:
        """Stores one complete variant."""
        self.summary.append(summary)
        self.episodes.extend(episodes)
        files.write_csv(self.episodes_path, self.episodes, EPISODE_COLUMNS)
        files.write_csv(self.summary_path, self.summary, SUMMARY_COLUMNS)
        record = {"run": self.run, "provenance": launch.provenance()}
        files.write_json(self.run_path, {**record, "flags": launch.flag_values()})

    def complete(self, identity: Mapping[str, Any]) -> bool:
        """Whether a variant of one teacher is there already."""
        names = ("task", "model_id", "variant")
        return any(all(row[n] == str(identity[n]) for n in names) for row in self.summary)

    def baseline(self, identity: Mapping[str, Any]) -> list[Episode] | None:
        """The baseline's episodes of the same teacher, if they were run."""
        rows = [
            row
            for row in self.episodes
            if row["variant"] == BASELINE
            and row["task"] == identity["task"]
            and row["model_id"] == identity["model_id"]
        ]
        episodes = [Episode(int(r["env_seed"]), float(r["return"]), int(r["length"])) for r in rows]
        return episodes or None

    def _same_run(self) -> bool:
        return files.read_json(self.run_path).get("run") == self.run


def compare(
    agent: Agent,
    model_id: str,
    variants: Sequence[Variant],
    correctors: Mapping[str, Corrector],
    settings: EvaluationSettings,
    results: Results,
    follow: str = "elite",
) -> None:
    """Evaluates variants of one teacher that are not in the results yet.

    Args:
      agent: the teacher.
      model_id: what the results call it.
      variants: the baseline, if wanted, first: differences are paired to it.
      correctors: trained correctors by kind.
      settings: task, seeds and lanes, the same for all variants.
      results: gets one row a variant, as soon as it is complete.
      follow: what blocks execute.
    """
    # All controllers are built first: a missing corrector shows before hours of work.
    controllers = [
        (variant, make_controller(agent, variant, correctors, settings.task, follow))
        for variant in variants
    ]
    steps = len(settings.env_seeds) * registry.make(settings.task).spec.episode_length
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
        if results.complete(identity):
            continue
        with Progress(steps, variant.name, unit="step", quiet=launch.QUIET.value) as progress:
            rollouts = evaluate_controller(controller, settings, launch.key(), progress.advance)
        rows = episode_rows(identity, rollouts.episodes)
        baseline = results.baseline(identity)
        if variant.name == BASELINE:
            baseline = rollouts.episodes
        results.add(_as_text(summary_row(identity, rollouts, baseline)), _all_as_text(rows))


def run_settings(
    settings: EvaluationSettings,
    agents: Sequence[Agent],
    correctors: Sequence[Mapping[str, Corrector]],
    follow: str,
) -> dict[str, Any]:
    """Everything that results depend on, to tell whether they can be continued."""
    return {
        "settings": dataclasses.asdict(settings),
        "seed": launch.SEED.value,
        "follow": follow,
        "teachers": [agent.fingerprint for agent in agents],
        "planners": [planner_flags.settings(agent) for agent in agents],
        "correctors": [
            {kind: corrector.fingerprint for kind, corrector in sorted(found.items())}
            for found in correctors
        ],
    }


def _as_text(row: dict[str, Any]) -> dict[str, str]:
    """A row as the CSV holds it, so that fresh and re-read rows are alike."""
    plain = files.to_plain(row)
    return {name: "" if value is None else str(value) for name, value in plain.items()}


def _all_as_text(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [_as_text(row) for row in rows]


def _read(path: Path) -> list[dict[str, Any]]:
    with files.existing_path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def table(results: Results) -> list[dict[str, Any]]:
    """The summary's main columns as numbers, for printing."""
    return [{name: _number(row.get(name, "")) for name in TABLE_COLUMNS} for row in results.summary]


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text or None
