"""Replicas of a train state with a replay buffer for each device."""

from collections.abc import Sequence

import jax
import numpy as np

from specmpc_jax.config import ModelConfig
from specmpc_jax.learning import data_parallel, train_state
from specmpc_jax.learning.batch import Batch
from specmpc_jax.learning.collector import REPLAY, derived_seed
from specmpc_jax.learning.config import ParallelConfig, TrainConfig
from specmpc_jax.learning.learner import Learner
from specmpc_jax.learning.losses import Metrics
from specmpc_jax.learning.replay_buffer import ReplayBuffer
from specmpc_jax.types import Array, Params
from specmpc_jax.world_model import WorldModel


class ParallelLearner(Learner):
    """`Learner` over devices: `state` is replicated, and every device draws for itself.

    An update is `sync_freq` gradients of every device, so that each device makes
    `updates_per_step` gradients for an agent step of its own.
    """

    def __init__(
        self,
        model: ModelConfig,
        config: TrainConfig,
        parallel: ParallelConfig,
        key: Array,
        devices: Sequence[jax.Device],
        *,
        seed: int = 0,
        fused_updates: int = 1,
    ) -> None:
        """Draws fresh parameters, the same in all processes, and allocates the buffers.

        Args:
          model: architecture.
          config: hyper-parameters; `batch_size` and `buffer_size` are those of one device.
          parallel: how devices share the work.
          key: consumed.
          devices: of all processes.
          seed: the run's seed, from which each device's sampler follows.
          fused_updates: updates in one compiled call.
        """
        self._config, self._fused, self._sync_freq = config, fused_updates, parallel.sync_freq
        self._metrics: list[Metrics] = []
        world_model = WorldModel(model)
        self._update = data_parallel.compile_parallel_updates(
            world_model, config, devices, parallel.sync_freq
        )
        self._digest = data_parallel.compile_digest(devices)
        self._check_freq, self._checked = parallel.check_freq, 0
        self.devices = [d for d in devices if d.process_index == jax.process_index()]
        self.first_device = list(devices).index(self.devices[0])
        self.template = jax.jit(train_state.init, static_argnums=(0, 1))(world_model, config, key)
        self.state = data_parallel.replicate(self.template, self.devices)
        self.replays = [
            ReplayBuffer(
                config.buffer_size,
                model.observation_shape,
                model.action_dim,
                horizon=config.horizon,
                observation_dtype=np.uint8 if model.observation == "rgb" else np.float32,
                seed=derived_seed(seed, REPLAY, self.first_device + number),
            )
            for number in range(len(self.devices))
        ]
        self.updates_done = 0

    @property
    def params(self) -> Params:
        """The present parameters on the first device; only valid until the next update."""
        return data_parallel.replica(self.state.params)

    def restore(self, state: train_state.TrainState) -> None:
        """Goes on from a stored state; the replay buffers are restored by themselves."""
        self.updates_done = self._checked = int(state.updates)
        self.state = data_parallel.replicate(state, self.devices)

    def can_learn(self) -> bool:
        """Whether every device of this process has something to learn from."""
        return all(replay.num_slices for replay in self.replays)

    def updates_due(self, agent_steps: int) -> int:
        """Updates missing after so many agent steps of each device past the seed phase."""
        gradients = int(self._config.updates_per_step * agent_steps)
        return gradients // self._sync_freq - self.updates_done

    def catch_up(self, agent_steps: int) -> None:
        """Makes the updates that are due, and compares replicas now and then.

        Raises:
          ReplicaError: if they are no longer the same.
        """
        super().catch_up(agent_steps)
        if self._check_freq and self.updates_done - self._checked >= self._check_freq:
            self.check_replicas()

    def check_replicas(self) -> None:
        """Compares all replicas, in all processes; every process has to call it.

        Raises:
          ReplicaError: if they are no longer the same.
        """
        self._checked = self.updates_done
        data_parallel.check_replicas(self.state, self._digest)

    def _sample(self) -> Batch:
        """What the devices draw, `[N, U K, ...]`."""
        count = self._fused * self._sync_freq
        drawn = [replay.sample(self._config.batch_size, count) for replay in self.replays]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *drawn)

    def _own(self, metrics: Metrics) -> Metrics:
        """Metrics `[U]`, the same on all devices."""
        return data_parallel.replica(metrics)
