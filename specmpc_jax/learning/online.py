"""Single-task training in an environment (spec section 9).

Everything that is drawn follows from the run's seed and a step or episode
number, so a run that is killed and resumed takes the course that it would have
taken: exactly where all lanes begin an episode together, as with one lane or
with episodes of fixed length; else running episodes are begun anew.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from specmpc_jax import files
from specmpc_jax.agent import Agent
from specmpc_jax.config import ModelConfig, PlannerConfig
from specmpc_jax.envs.batch import EnvironmentBatch
from specmpc_jax.evaluation.episodes import Step, success_rate
from specmpc_jax.evaluation.recording import FRAMES_PER_SECOND
from specmpc_jax.evaluation.rollout import run_episodes
from specmpc_jax.evaluation.video import write_video
from specmpc_jax.learning.acting import explore
from specmpc_jax.learning.collector import (
    EVALUATION_EPISODES,
    RANDOM_ACTIONS,
    Collector,
    derived_seed,
)
from specmpc_jax.learning.config import OnlineConfig, TrainConfig
from specmpc_jax.learning.learner import DivergenceError, Learner
from specmpc_jax.learning.replay_buffer import Episode
from specmpc_jax.learning.run_directory import Position, RunDirectory
from specmpc_jax.metrics_writers import CsvWriter, MetricsWriter, Writers
from specmpc_jax.progress import Progress
from specmpc_jax.types import Params


@dataclasses.dataclass(frozen=True)
class Settings:
    """Every configuration of a run; `config.json` holds them under these names."""

    model: ModelConfig
    planner: PlannerConfig
    train: TrainConfig
    online: OnlineConfig


class Lanes(NamedTuple):
    """The environments of a run; the caller closes them."""

    train: EnvironmentBatch  # `OnlineConfig.num_envs` of them
    evaluate: EnvironmentBatch


# ("train" or "eval", last step that stays in the record or None) -> a further writer
WriterFactory = Callable[[str, int | None], MetricsWriter]


def train(
    settings: Settings,
    directory: RunDirectory,
    lanes: Lanes,
    *,
    resume: bool = False,
    record: dict[str, Any] | None = None,
    further_writers: WriterFactory | None = None,
    params: Params | None = None,
    quiet: bool = False,
) -> Position:
    """Trains until `settings.online.steps` environment steps are done.

    Args:
      settings: all configurations.
      directory: where everything is written.
      lanes: environments to learn from and to evaluate in.
      resume: go on from the directory's newest state, if it has one.
      record: further entries of config.json, such as provenance.
      further_writers: makes metrics writers beside those of the CSV files.
      params: parameters to begin with, as for finetuning; drawn afresh if None.
      quiet: show no progress.

    Returns:
      Where the run ended.

    Raises:
      UserError: if the directory is taken, or belongs to other settings.
      DivergenceError: if training diverged; names the step and the last good state.
    """
    shallow = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    resuming = directory.start(shallow, record or {}, resume)
    run = Run(settings, directory, lanes, resuming, params)
    kept = run.environment_steps if resuming else None
    for name, path in (("train", directory.train_csv), ("eval", directory.eval_csv)):
        further = [further_writers(name, kept)] if further_writers else []
        run.writers[name] = Writers([CsvWriter(path, kept), *further])
    steps, task = settings.online.steps, settings.online.task
    try:
        with Progress(steps, task, unit="step", quiet=quiet, initial=run.environment_steps) as bar:
            run.go(bar)
    finally:
        for writer in run.writers.values():
            writer.close()
    return run.position


class Run:
    """A run under way."""

    def __init__(
        self,
        settings: Settings,
        directory: RunDirectory,
        lanes: Lanes,
        resuming: bool,
        params: Params | None = None,
    ) -> None:
        """Starts, from `params` if there are any, or goes on from the directory's newest state."""
        online, model = settings.online, settings.model
        init_key, self._acting_key, self._evaluation_key = jax.random.split(
            jax.random.key(online.seed), 3
        )
        self._settings, self._directory, self._lanes = settings, directory, lanes
        self.writers: dict[str, MetricsWriter] = {}
        self.position = Position()
        self.learner = Learner(
            model,
            settings.train,
            init_key,
            seed=online.seed,
            fused_updates=online.fused_updates,
            params=params,
        )
        if resuming:
            state, self.position = directory.restore(self.learner.state, self.learner.replay)
            self.learner.restore(state)
        self._collector = Collector(
            lanes.train,
            online.seed,
            episodic=model.episodic,
            episodes_started=self.position.episodes_started,
        )
        self._mean = jnp.zeros((len(lanes.train), settings.planner.horizon, model.action_dim))
        self._seed_steps = settings.train.seed_steps_for(lanes.train.spec.episode_length)
        # Environment steps when an episode last ended, and its time.
        self._boundary = self.environment_steps
        self._boundary_time = time.monotonic()

    @property
    def environment_steps(self) -> int:
        """Environment steps so far, over all lanes."""
        return self.position.agent_steps * self._lanes.train.spec.action_repeat

    def go(self, progress: Progress) -> None:
        """Trains to the end, evaluating and saving on the way."""
        online, lanes = self._settings.online, len(self._lanes.train)
        if online.eval_freq and not self.position.agent_steps:
            self._evaluate(progress)
        while self.environment_steps < online.steps:
            episodes = self._collector.step(self._act())
            self.position = self.position._replace(
                agent_steps=self.position.agent_steps + lanes,
                episodes_started=self._collector.episodes_under_way,
            )
            for episode in episodes:
                self.learner.replay.add(episode)
            if self.position.agent_steps >= self._seed_steps:
                self._learn(progress)
            progress.advance(lanes * self._lanes.train.spec.action_repeat)
            if episodes:
                self._log(episodes, progress)
                self._do_what_is_due(progress, last=self.environment_steps >= online.steps)
        if self._boundary < self.environment_steps:
            self._do_what_is_due(progress, last=True)

    def _act(self) -> np.ndarray:
        """Actions `[B, A]`: random in the seed phase, the agent's afterwards."""
        settings, step = self._settings, self.position.agent_steps
        if step < self._seed_steps:
            random = np.random.default_rng(derived_seed(settings.online.seed, RANDOM_ACTIONS, step))
            return random.uniform(-1.0, 1.0, self._mean[:, 0].shape)
        action, self._mean = explore(
            settings.model,
            settings.planner,
            self.learner.params,
            self._collector.observation,
            self._mean,
            self._collector.first,
            jax.random.fold_in(self._acting_key, step),
            use_planner=settings.online.use_planner,
        )
        return np.asarray(action)

    def _learn(self, progress: Progress) -> None:
        due = self.learner.updates_due(self.position.agent_steps)
        if due >= self._seed_steps > 0:
            progress.write(f"seed phase done; {due} updates follow")
        self.learner.catch_up(self.position.agent_steps)

    def _log(self, episodes: list[Episode], progress: Progress) -> None:
        """Writes a row on the episodes that ended and the updates since the last ones."""
        now = time.monotonic()
        rate = (self.environment_steps - self._boundary) / (now - self._boundary_time)
        self._boundary_time = now
        row = {
            "episode_reward": float(np.mean([episode.reward.sum() for episode in episodes])),
            "episode_length": float(np.mean([len(episode.reward) for episode in episodes])),
            "episodes": len(episodes),
            "updates": self.learner.updates_done,
            "steps_per_second": rate,
        }
        try:
            row |= self.learner.take_metrics()
        except DivergenceError as error:
            raise self._diverged(error) from None
        self.writers["train"].write(self.environment_steps, row)
        progress.advance(0, reward=row["episode_reward"])

    def _diverged(self, error: DivergenceError) -> DivergenceError:
        """Leaves a note of the divergence in the directory and says what is still good."""
        step, state = self.environment_steps, self._directory.newest_state()
        note = {"step": step, "reason": str(error), "last_good_state": state}
        files.write_json(self._directory.divergence, note)
        return DivergenceError(
            f"training diverged by environment step {step}: {error}; the last good state is "
            f"{state or 'the start'}"
        )

    def _do_what_is_due(self, progress: Progress, *, last: bool) -> None:
        """Evaluates, films and saves where a multiple of the frequency was passed."""
        before, self._boundary = self._boundary, self.environment_steps
        online = self._settings.online

        def due(frequency: int) -> bool:
            return frequency > 0 and (last or self._boundary // frequency > before // frequency)

        if due(online.eval_freq):
            self._evaluate(progress, film=due(online.video_freq))
        if last or due(online.checkpoint_freq):
            self._directory.save(
                self.learner.state, self.learner.replay, self.position, self._settings.model
            )

    def _evaluate(self, progress: Progress, *, film: bool = False) -> None:
        """Runs noise-free episodes on environment seeds of their own."""
        settings, online = self._settings, self._settings.online
        agent = Agent(self.learner.params, settings.model, settings.planner)
        first = self.position.agent_steps * online.eval_episodes
        seeds = [
            derived_seed(online.seed, EVALUATION_EPISODES, first + i)
            for i in range(online.eval_episodes)
        ]
        frames: list[np.ndarray] = []

        def keep_frame(step: Step) -> None:
            if step.active[0] and step.env_seeds[0] == seeds[0]:
                frames.append(self._lanes.evaluate.environments[0].render())

        rollouts = run_episodes(
            agent.controller(use_planner=online.use_planner),
            self._lanes.evaluate,
            seeds,
            jax.random.fold_in(self._evaluation_key, self.position.agent_steps),
            observe=keep_frame if film else None,
        )
        reward = float(np.mean([episode.episode_return for episode in rollouts.episodes]))
        row = {"episode_reward": reward, "seed": online.seed}
        success = success_rate(rollouts.episodes)
        if success is not None:
            row["episode_success"] = success
        self.writers["eval"].write(self.environment_steps, row)
        progress.write(f"step {self.environment_steps}: evaluation return {reward:.1f}")
        if frames:
            write_video(
                self._directory.videos / f"step_{self.environment_steps:012d}.mp4",
                frames,
                FRAMES_PER_SECOND,
            )
        best = self.position.best_reward
        if best is None or reward > best:
            self.position = self.position._replace(best_reward=reward)
            self._directory.save_best(
                self.learner.params, settings.model, self.position.agent_steps, reward
            )
