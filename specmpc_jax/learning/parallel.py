"""Single-task training on many devices, in one process or several.

Every device has environments and a replay buffer of its own. A tick is one agent step of each
lane on average: in lockstep exactly that; otherwise as many steps, by whichever lanes are
ready, so that a slow environment only falls behind. All processes make the same number of
ticks and updates, which is all that they have to agree on. Environments step while devices
update. What is due besides (rows, evaluations, checkpoints) is done every `episode_length`
ticks, which is where episodes of fixed length end in lockstep.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from specmpc_jax import files, processes
from specmpc_jax.agent import Agent
from specmpc_jax.envs.batch import EnvironmentBatch
from specmpc_jax.envs.protocol import Environment, EnvironmentSpec
from specmpc_jax.envs.workers import EnvironmentWorkers
from specmpc_jax.evaluation.sharding import run_sharded
from specmpc_jax.learning import data_parallel
from specmpc_jax.learning.acting import explore_lanes
from specmpc_jax.learning.collector import EVALUATION_EPISODES, RANDOM_ACTIONS, derived_seed
from specmpc_jax.learning.config import ParallelConfig
from specmpc_jax.learning.learner import DivergenceError
from specmpc_jax.learning.online import Settings, WriterFactory
from specmpc_jax.learning.parallel_collector import LaneRecord, ParallelCollector
from specmpc_jax.learning.parallel_learner import ParallelLearner
from specmpc_jax.learning.replay_shards import ReplayShards
from specmpc_jax.learning.run_directory import Position, RunDirectory
from specmpc_jax.metrics_writers import CsvWriter, MetricsWriter, Writers
from specmpc_jax.progress import Progress


def train(
    settings: Settings,
    parallel: ParallelConfig,
    directory: RunDirectory,
    make: Callable[[], Environment],
    spec: EnvironmentSpec,
    *,
    resume: bool = False,
    record: dict[str, Any] | None = None,
    further_writers: WriterFactory | None = None,
    quiet: bool = False,
) -> Position:
    """Trains until `settings.online.steps` environment steps are done; see `online.train`.

    Args:
      settings: all configurations; `num_envs`, `batch_size`, `buffer_size` and `seed_steps`
        are those of one device.
      parallel: how devices share the work.
      directory: where process 0 writes everything, and each process its replay.
      make: builds one environment; picklable.
      spec: what it builds.
      resume: go on from the directory's newest state, if it has one.
      record: further entries of config.json.
      further_writers: makes metrics writers beside those of the CSV files.
      quiet: show no progress.

    Returns:
      Where the run ended.

    Raises:
      UserError: as `online.train`; if there are too few devices.
      DivergenceError: if training diverged.
      ReplicaError: if devices no longer hold the same state.
    """
    devices = processes.devices_in_use(parallel.world_size)
    shallow = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    resuming = _start(directory, shallow | {"parallel": parallel}, record or {}, resume)
    online = settings.online
    lanes = online.num_envs * len(devices) // jax.process_count()
    with EnvironmentWorkers(make, spec, lanes) as workers:
        run = ParallelRun(settings, parallel, directory, workers, make, devices, resuming)
        kept = run.environment_steps if resuming else None
        for name, path in (("train", directory.train_csv), ("eval", directory.eval_csv)):
            further = [further_writers(name, kept)] if further_writers else []
            first = [CsvWriter(path, kept), *further] if processes.is_first() else []
            run.writers[name] = Writers(first)
        try:
            start = run.environment_steps
            with Progress(online.steps, online.task, unit="step", quiet=quiet, initial=start) as b:
                run.go(b)
        finally:
            for writer in run.writers.values():
                writer.close()
    return run.position


class ParallelRun:
    """A run under way, as one process sees it."""

    def __init__(
        self,
        settings: Settings,
        parallel: ParallelConfig,
        directory: RunDirectory,
        workers: EnvironmentWorkers,
        make: Callable[[], Environment],
        devices: list[jax.Device],
        resuming: bool,
    ) -> None:
        """Starts, or goes on from the directory's newest state."""
        online, model, spec = settings.online, settings.model, workers.spec
        init_key, self._acting_key, self._evaluation_key = jax.random.split(
            jax.random.key(online.seed), 3
        )
        self._settings, self._parallel, self._directory = settings, parallel, directory
        self._make, self._spec = make, spec
        self.writers: dict[str, MetricsWriter] = {}
        self.position, self._device_steps = Position(), 0
        self._world_size = len(devices)
        self.learner = ParallelLearner(
            model,
            settings.train,
            parallel,
            init_key,
            devices,
            seed=online.seed,
            fused_updates=online.fused_updates,
        )
        self._shards = ReplayShards(directory.states, self._world_size)
        records = self._restore() if resuming else [LaneRecord()] * len(workers)
        first_lane = self.learner.first_device * online.num_envs
        self._numbers = range(first_lane, first_lane + len(workers))
        self._collector = ParallelCollector(
            workers,
            self._numbers,
            online.seed,
            records,
            episodic=model.episodic,
            lockstep=parallel.lockstep,
        )
        self._mean = np.zeros((len(workers), settings.planner.horizon, model.action_dim))
        self._mean = self._mean.astype(np.float32)
        self._explore = _compile_explore(settings, self.learner.devices)
        self._seed_steps = settings.train.seed_steps_for(spec.episode_length)
        self._started_at = self._device_steps
        self._may_learn = False
        self._rewards: list[tuple[float, int]] = []
        self._boundary, self._boundary_time = self.environment_steps, time.monotonic()

    @property
    def environment_steps(self) -> int:
        """Environment steps so far, over all lanes of all processes."""
        return self.position.agent_steps * self._spec.action_repeat

    def go(self, progress: Progress) -> None:
        """Trains to the end, evaluating and saving on the way."""
        online = self._settings.online
        if online.eval_freq and not self.position.agent_steps:
            self._evaluate(progress)
        while self.environment_steps < online.steps:
            before = self.environment_steps
            self._tick()
            progress.advance(self.environment_steps - before)
            ticks = (self._device_steps - self._started_at) // online.num_envs
            last = self.environment_steps >= online.steps
            if last or ticks % self._spec.episode_length == 0:
                self._do_what_is_due(progress, last=last)

    def _tick(self) -> None:
        """As many agent steps as there are lanes, then the updates that are due."""
        left = len(self._numbers)
        while left:
            ready = np.flatnonzero(self._collector.wait())
            self._store_episodes()
            # Those that are behind go first.
            ready = ready[np.argsort(self._collector.steps[ready], kind="stable")][:left]
            chosen = np.isin(np.arange(len(self._numbers)), ready)
            self._collector.step(self._act(chosen), chosen)
            left -= len(ready)
        online = self._settings.online
        self._device_steps += online.num_envs
        self.position = self.position._replace(
            agent_steps=self.position.agent_steps + online.num_envs * self._world_size
        )
        if self._device_steps >= self._seed_steps:
            if not self._may_learn:
                self._may_learn = all(processes.gather(self.learner.can_learn()))
            if self._may_learn:
                self.learner.catch_up(self._device_steps)

    def _act(self, chosen: np.ndarray) -> np.ndarray:
        """Actions `[B, A]`: random in the seed phase, the agent's afterwards."""
        steps, seed = self._collector.steps, self._settings.online.seed
        action = np.zeros((len(steps), self._spec.action_dim), np.float32)
        if self._device_steps < self._seed_steps:
            for lane in np.flatnonzero(chosen):
                stream = derived_seed(seed, RANDOM_ACTIONS, self._numbers[lane])
                random = np.random.default_rng((stream, int(steps[lane])))
                action[lane] = random.uniform(-1.0, 1.0, action.shape[1])
            return action
        numbers = np.array(self._numbers, np.uint32)
        shape = (len(self.learner.devices), -1)
        action, mean = self._explore(
            self.learner.state.params,
            *(
                array.reshape(*shape, *array.shape[1:])
                for array in (
                    self._collector.observation,
                    self._mean,
                    self._collector.first,
                    numbers,
                    steps.astype(np.uint32),
                    chosen,
                )
            ),
            jax.numpy.stack([self._acting_key] * len(self.learner.devices)),
        )
        self._mean = np.asarray(mean).reshape(self._mean.shape)
        return np.asarray(action).reshape(len(steps), -1)

    def _store_episodes(self) -> None:
        for lane, episode in self._collector.take_episodes():
            self.learner.replays[lane // self._settings.online.num_envs].add(episode)
            self._rewards.append((float(episode.reward.sum()), len(episode.reward)))

    def _do_what_is_due(self, progress: Progress, *, last: bool) -> None:
        """Logs; evaluates and saves where a multiple of the frequency was passed."""
        if self._parallel.lockstep or last:
            self._collector.settle()
            self._store_episodes()
        self._log(progress)
        before, self._boundary = self._boundary, self.environment_steps
        online = self._settings.online

        def due(frequency: int) -> bool:
            return frequency > 0 and (last or self._boundary // frequency > before // frequency)

        if due(online.eval_freq):
            self._evaluate(progress)
        if last or due(online.checkpoint_freq):
            self._save()

    def _log(self, progress: Progress) -> None:
        """Writes a row on the episodes of all processes and the updates since the last one."""
        rewards, self._rewards = self._rewards, []
        ended = [tuple(row) for part in processes.gather(rewards) for row in part]
        now = time.monotonic()
        rate = (self.environment_steps - self._boundary) / max(now - self._boundary_time, 1e-9)
        self._boundary_time = now
        row: dict[str, Any] = {}
        if ended:
            reward, length = np.mean(ended, axis=0)
            row = {"episode_reward": float(reward), "episode_length": float(length)}
            progress.advance(0, reward=row["episode_reward"])
        row |= {
            "episodes": len(ended),
            "updates": self.learner.updates_done,
            "steps_per_second": rate,
        }
        try:
            row |= self.learner.take_metrics()
        except DivergenceError as error:
            raise self._diverged(error) from None
        self.writers["train"].write(self.environment_steps, row)

    def _diverged(self, error: DivergenceError) -> DivergenceError:
        """Leaves a note of the divergence in the directory and says what is still good."""
        step, state = self.environment_steps, self._directory.newest_state()
        if processes.is_first():
            note = {"step": step, "reason": str(error), "last_good_state": state}
            files.write_json(self._directory.divergence, note)
        return DivergenceError(
            f"training diverged by environment step {step}: {error}; the last good state is "
            f"{state or 'the start'}"
        )

    def _evaluate(self, progress: Progress) -> None:
        """Runs noise-free episodes over all devices."""
        settings, online = self._settings, self._settings.online
        agent = Agent(self.learner.params, settings.model, settings.planner)
        lanes = -(-online.eval_episodes // self._world_size)
        first = self.position.agent_steps * online.eval_episodes
        seeds = [
            derived_seed(online.seed, EVALUATION_EPISODES, first + i)
            for i in range(online.eval_episodes)
        ]
        rollouts = run_sharded(
            agent.controller(use_planner=online.use_planner),
            lambda: EnvironmentBatch([self._make() for _ in range(lanes)]),
            lanes,
            seeds,
            jax.random.fold_in(self._evaluation_key, self.position.agent_steps),
            self.learner.devices,
        )
        reward = float(np.mean([episode.episode_return for episode in rollouts.episodes]))
        row = {"episode_reward": reward, "seed": online.seed}
        self.writers["eval"].write(self.environment_steps, row)
        progress.write(f"step {self.environment_steps}: evaluation return {reward:.1f}")
        best = self.position.best_reward
        if best is None or reward > best:
            self.position = self.position._replace(best_reward=reward)
            if processes.is_first():
                self._directory.save_best(
                    self.learner.params, settings.model, self.position.agent_steps, reward
                )

    def _save(self) -> None:
        """Saves everything needed to go on; killed at any moment, one state remains whole."""
        self.learner.check_replicas()
        num_envs, steps = self._settings.online.num_envs, self.position.agent_steps
        records = self._collector.records
        own = range(
            self.learner.first_device, self.learner.first_device + len(self.learner.devices)
        )
        for number, device in enumerate(own):
            lanes = records[number * num_envs : (number + 1) * num_envs]
            self._shards.save(device, self.learner.replays[number], lanes, steps)
        processes.barrier()
        if processes.is_first():
            state = data_parallel.replica(self.learner.state)
            record = {"world_size": self._world_size, "device_steps": self._device_steps}
            self._directory.commit(state, record, self.position)
            self._directory.save_last(state.params, self._settings.model, self.position)
        processes.barrier()
        self._shards.prune(own, self.learner.replays, steps)

    def _restore(self) -> list[LaneRecord]:
        """Takes the newest state from process 0, and the replay from where it lies."""
        first, learner = processes.is_first(), self.learner
        record = processes.from_first(self._directory.newest_record() if first else None)
        self.position = Position(**record["position"])
        self._device_steps = record["device_steps"]
        state = self._directory.read_state(learner.template) if first else learner.template
        raw = dataclasses.replace(state, key=jax.random.key_data(state.key))
        raw = processes.tree_from_first(raw)
        key = jax.random.wrap_key_data(jax.numpy.asarray(raw.key))
        learner.restore(raw.replace(key=key))
        lanes: list[LaneRecord] = []
        for number, replay in enumerate(learner.replays):
            lanes += self._shards.restore(
                learner.first_device + number,
                replay,
                self.position.agent_steps,
                record["world_size"],
            )
        return lanes


def _start(
    directory: RunDirectory, settings: dict[str, Any], record: dict[str, Any], resume: bool
) -> bool:
    """Process 0 claims the directory; all get to know whether there is a state to go on from."""
    resuming = directory.start(settings, record, resume) if processes.is_first() else False
    return processes.from_first(resuming)


def _compile_explore(settings: Settings, devices: list[jax.Device]) -> Callable[..., Any]:
    """Exploring actions in the lanes of every device of this process."""
    explore = functools.partial(
        explore_lanes,
        settings.model,
        settings.planner,
        use_planner=settings.online.use_planner,
    )

    def act(params, observation, mean, first, numbers, steps, need, key):  # type: ignore[no-untyped-def]
        fold = jax.random.fold_in
        keys = jax.vmap(lambda lane, step: fold(fold(key, lane), step))(numbers, steps)
        return explore(params, observation, mean, first, keys, need)

    return data_parallel.over_devices(act, devices)
