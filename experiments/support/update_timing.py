"""Times updates of several implementations in turns, and whole training steps."""

import functools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from specmpc_jax.config import ModelConfig, PlannerConfig
from specmpc_jax.envs.batch import EnvironmentBatch
from specmpc_jax.envs.protocol import EnvironmentSpec
from specmpc_jax.learning import train_state
from specmpc_jax.learning.acting import explore
from specmpc_jax.learning.batch import Batch, draw_noise
from specmpc_jax.learning.collector import Collector
from specmpc_jax.learning.config import TrainConfig
from specmpc_jax.learning.flops import update_flops
from specmpc_jax.learning.learner import Learner
from specmpc_jax.learning.replay_buffer import Episode, ReplayBuffer
from specmpc_jax.learning.update import compile_updates
from specmpc_jax.types import Array
from specmpc_jax.world_model import WorldModel

PEAK_WIDTH = 2048
COLUMNS = (
    "implementation",
    "model_size",
    "batch_size",
    "update_ms",
    "p95_ms",
    "needed_gflop",
    "peak_gflops",
    "peak_share",
    "updates_per_s",
    "environment_steps_per_s",
    "hours_per_million_steps",
)

Timed = Callable[[], Any]  # what it returns is waited for
Maker = Callable[[ModelConfig, TrainConfig, Batch, Array], Timed]  # consumes the key
Row = dict[str, Any]


def time_updates(
    model: ModelConfig, config: TrainConfig, makers: Mapping[str, Maker], repeats: int, key: Array
) -> list[Row]:
    """Times one update of each implementation, in turns; consumes `key`.

    Returns:
      One row an implementation. `peak_gflops` is the median rate of a float32 product of
      2048 x 2048 matrices over the same rounds, and `peak_share` the share of it that the
      update's needed operations reach.
    """
    operand = jax.random.normal(key, (PEAK_WIDTH, PEAK_WIDTH))
    multiply = jax.jit(jnp.matmul)
    batch = _random_batch(model, config)
    timed: dict[str, Timed] = {"peak": lambda: multiply(operand, operand)}
    timed |= {name: make(model, config, batch, key) for name, make in makers.items()}
    for function in timed.values():
        for _ in range(2):  # compilation, and the first use of what was allocated
            jax.block_until_ready(function())
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(repeats):
        for name, function in timed.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            seconds[name].append(time.perf_counter() - start)

    peak = 2 * PEAK_WIDTH**3 / float(np.median(seconds.pop("peak")))
    needed = update_flops(model, config).total
    rows = []
    for name, durations in seconds.items():
        median = float(np.median(durations))
        rows.append(
            {
                "implementation": name,
                "model_size": model.model_size,
                "batch_size": config.batch_size,
                "update_ms": 1e3 * median,
                "p95_ms": 1e3 * float(np.percentile(durations, 95)),
                "needed_gflop": needed / 1e9,
                "peak_gflops": peak / 1e9,
                "peak_share": needed / median / peak,
                "updates_per_s": 1 / median,
                "environment_steps_per_s": math.nan,
                "hours_per_million_steps": math.nan,
            }
        )
    return rows


def steps_per_second(
    model: ModelConfig, config: TrainConfig, lanes: EnvironmentBatch, repeats: int, key: Array
) -> float:
    """Environment steps a second of training: plan, step the environment, update.

    Uses the parts that `experiments.train` runs on, one lane, one update an agent step.
    Consumes `key`.
    """
    planner = PlannerConfig(horizon=config.horizon).for_action_dim(model.action_dim)
    spec = lanes.spec
    # Room for the episode below and a few that the timed steps may end.
    config = TrainConfig(batch_size=config.batch_size, buffer_size=20 * (spec.episode_length + 1))
    init_key, acting_key = jax.random.split(key)
    learner = Learner(model, config, init_key)
    learner.replay.add(_random_episode(spec))
    collector = Collector(lanes, seed=0)
    mean = jnp.zeros((1, planner.horizon, model.action_dim))
    start = 0.0
    warm_up = 3
    for step in range(warm_up + repeats):
        if step == warm_up:
            jax.block_until_ready(learner.state)
            start = time.perf_counter()
        observation, first = collector.observation, collector.first
        step_key = jax.random.fold_in(acting_key, step)
        action, mean = explore(model, planner, learner.params, observation, mean, first, step_key)
        for episode in collector.step(np.asarray(action)):
            learner.replay.add(episode)
        learner.catch_up(step + 1)
    jax.block_until_ready(learner.state)
    return repeats * spec.action_repeat / (time.perf_counter() - start)


def make_jax(model: ModelConfig, config: TrainConfig, batch: Batch, key: Array) -> Timed:
    """The compiled update as training calls it: batches from the host, the state donated."""
    run = compile_updates(WorldModel(model), config)
    batches = jax.tree.map(lambda leaf: leaf[None], batch)
    init = jax.jit(train_state.init, static_argnums=(0, 1))
    state = init(WorldModel(model), config, key)

    def update() -> Any:
        nonlocal state
        state, metrics = run(state, batches)
        return state.updates, metrics

    return update


def make_torch_eager(model: ModelConfig, config: TrainConfig, batch: Batch, key: Array) -> Timed:
    """The eager PyTorch update; its random numbers, dropout apart, are drawn beforehand."""
    from experiments.support.torch_update import TorchLearner

    learner = TorchLearner(model, config, jax.jit(WorldModel(model).init)(key))
    return functools.partial(learner.update, batch, draw_noise(key, batch, model))


MAKERS: dict[str, Maker] = {"jax": make_jax, "torch_eager": make_torch_eager}


def _random_batch(model: ModelConfig, config: TrainConfig) -> Batch:
    spec = EnvironmentSpec("", "state", model.observation_shape, model.action_dim, 500, 1)
    replay = ReplayBuffer(
        spec.episode_length + 1, model.observation_shape, model.action_dim, horizon=config.horizon
    )
    replay.add(_random_episode(spec))
    return replay.sample(config.batch_size)


def _random_episode(spec: EnvironmentSpec) -> Episode:
    rng, steps = np.random.default_rng(0), spec.episode_length
    return Episode(
        observation=rng.normal(size=(steps + 1, *spec.observation_shape)).astype(np.float32),
        action=rng.uniform(-1, 1, (steps, spec.action_dim)).astype(np.float32),
        reward=rng.uniform(0, 2, steps).astype(np.float32),
        terminated=np.zeros(steps, np.float32),
    )
