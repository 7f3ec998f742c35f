"""Training on recorded episodes of many tasks, without an environment.

Batch n follows from the run's seed and n alone, so a run that is killed and resumed
takes exactly the course that it would have taken.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax

from specmpc_jax import files
from specmpc_jax.agent import Agent
from specmpc_jax.config import ModelConfig, PlannerConfig
from specmpc_jax.learning.config import OfflineConfig, TrainConfig
from specmpc_jax.learning.learner import DivergenceError, Learner
from specmpc_jax.learning.offline_data import OfflineData
from specmpc_jax.learning.run_directory import Position, RunDirectory
from specmpc_jax.metrics_writers import CsvWriter
from specmpc_jax.progress import Progress

# (agent, updates so far) -> a row of eval.csv, which holds `normalised_score`
Evaluate = Callable[[Agent, int], dict[str, float]]


@dataclasses.dataclass(frozen=True)
class OfflineSettings:
    """Every configuration of a run; `config.json` holds them under these names."""

    model: ModelConfig
    planner: PlannerConfig
    train: TrainConfig
    offline: OfflineConfig


def train(
    settings: OfflineSettings,
    directory: RunDirectory,
    data: OfflineData,
    *,
    evaluate: Evaluate | None = None,
    resume: bool = False,
    record: dict[str, Any] | None = None,
    quiet: bool = False,
) -> Position:
    """Trains until `settings.offline.steps` updates are made.

    Args:
      settings: all configurations.
      directory: where everything is written.
      data: recorded episodes.
      evaluate: measures an agent, every `offline.eval_freq` updates and at the end.
      resume: go on from the directory's newest state, if it has one.
      record: further entries of config.json, such as provenance.
      quiet: show no progress.

    Returns:
      Where the run ended; its `agent_steps` are updates.

    Raises:
      UserError: if the directory is taken or belongs to other settings, or the data
        are not fit to train on.
      DivergenceError: if training diverged; names the last good state.
    """
    shallow = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    resuming = directory.start(shallow, record or {}, resume)
    run = _Run(settings, directory, data, evaluate, resuming)
    total = settings.offline.steps
    name = f"train {settings.offline.task_set}"
    start = run.learner.updates_done
    with Progress(total, name, unit="update", quiet=quiet, initial=start) as progress:
        run.go(progress)
    return run.position


class _Run:
    """A run under way."""

    def __init__(
        self,
        settings: OfflineSettings,
        directory: RunDirectory,
        data: OfflineData,
        evaluate: Evaluate | None,
        resuming: bool,
    ) -> None:
        self._settings, self._directory, self._evaluate = settings, directory, evaluate
        offline = settings.offline
        self.learner = Learner(
            settings.model,
            settings.train,
            jax.random.key(offline.seed),
            fused_updates=offline.fused_updates,
            data=data,
        )
        self.position = Position()
        if resuming:
            state, self.position = directory.restore(self.learner.state, None)
            self.learner.restore(state)
        data.drawn = self.learner.updates_done
        kept = self.learner.updates_done if resuming else None
        self._train_csv = CsvWriter(directory.train_csv, kept)
        self._eval_csv = CsvWriter(directory.eval_csv, kept)

    def go(self, progress: Progress) -> None:
        """Trains to the end in stretches that end where something is due."""
        offline = self._settings.offline
        while (done := self.learner.updates_done) < offline.steps:
            begin = time.monotonic()
            until = min(self._next_stop(done), offline.steps)
            while self.learner.updates_done < until:
                before = self.learner.updates_done
                self.learner.catch_up_to(before + offline.fused_updates)
                progress.advance(self.learner.updates_done - before)
            self._log(self.learner.updates_done - done, begin, progress)
            self._do_what_is_due(done, last=self.learner.updates_done >= offline.steps)

    def _next_stop(self, done: int) -> int:
        offline = self._settings.offline
        frequencies = (offline.log_freq, offline.checkpoint_freq, offline.eval_freq)
        return min((done // every + 1) * every for every in frequencies if every > 0)

    def _log(self, updates: int, begin: float, progress: Progress) -> None:
        """Writes a row on the last `updates` updates: losses, throughput, time left."""
        try:
            metrics = self.learner.take_metrics()
        except DivergenceError as error:
            state = self._directory.newest_state()
            note = {"updates": self.learner.updates_done, "reason": str(error)}
            files.write_json(self._directory.divergence, {**note, "last_good_state": state})
            raise DivergenceError(
                f"training diverged: {error}; the last good state is {state or 'the start'}"
            ) from None
        rate = updates / (time.monotonic() - begin)
        left = self._settings.offline.steps - self.learner.updates_done
        batch_size = self._settings.train.batch_size
        row = {
            "updates_per_second": rate,
            "slices_per_second": rate * batch_size,
            "hours_left": left / rate / 3600,
        }
        self._train_csv.write(self.learner.updates_done, {**metrics, **row})
        progress.advance(0, loss=metrics["total_loss"])

    def _do_what_is_due(self, before: int, *, last: bool) -> None:
        offline, done = self._settings.offline, self.learner.updates_done

        def due(frequency: int) -> bool:
            return frequency > 0 and (last or done // frequency > before // frequency)

        if self._evaluate is not None and due(offline.eval_freq):
            agent = Agent(self.learner.params, self._settings.model, self._settings.planner)
            row = self._evaluate(agent, done)
            self._eval_csv.write(done, {**row, "seed": offline.seed})
            score, best = row["normalised_score"], self.position.best_reward
            if best is None or score > best:
                self.position = self.position._replace(best_reward=score)
                self._directory.save_best(self.learner.params, self._settings.model, done, score)
        self.position = self.position._replace(agent_steps=done)
        if last or due(offline.checkpoint_freq):
            self._directory.save(self.learner.state, None, self.position, self._settings.model)
