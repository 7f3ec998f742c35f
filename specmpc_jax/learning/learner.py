"""Train state, replay and the compiled update, kept in step with the environment."""

from typing import Any

import jax
import numpy as np

from specmpc_jax.config import ModelConfig
from specmpc_jax.errors import UserError
from specmpc_jax.learning import train_state
from specmpc_jax.learning.batch import Batch
from specmpc_jax.learning.config import TrainConfig
from specmpc_jax.learning.losses import Metrics
from specmpc_jax.learning.offline_data import OfflineData
from specmpc_jax.learning.replay_buffer import ReplayBuffer
from specmpc_jax.learning.update import compile_updates
from specmpc_jax.types import Array, Params
from specmpc_jax.world_model import WorldModel


class DivergenceError(UserError):
    """Training has produced numbers that are not finite."""


class Learner:
    """Owns what learning changes; the state is handed to each compiled call and replaced."""

    def __init__(
        self,
        model: ModelConfig,
        config: TrainConfig,
        key: Array,
        *,
        seed: int = 0,
        fused_updates: int = 1,
        params: Params | None = None,
        data: OfflineData | None = None,
    ) -> None:
        """Draws fresh parameters and allocates the replay buffer.

        Args:
          model: architecture.
          config: hyper-parameters.
          key: consumed.
          seed: start of the replay sampler's stream.
          fused_updates: updates in one compiled call.
          params: parameters to go on from, instead of fresh ones; copied.
          data: recorded episodes, instead of a replay buffer.
        """
        self._config = config
        self._fused = fused_updates
        self._metrics: list[Metrics] = []
        self._update = compile_updates(WorldModel(model), config)
        init = jax.jit(train_state.init, static_argnums=(0, 1))
        self.state = init(WorldModel(model), config, key, params)
        # Any: the buffer alone can be added to, and offline training, which gives data, never does.
        self.replay: Any = data or ReplayBuffer(
            config.buffer_size,
            model.observation_shape,
            model.action_dim,
            horizon=config.horizon,
            observation_dtype=np.uint8 if model.observation == "rgb" else np.float32,
            seed=seed,
        )
        self.updates_done = 0

    @property
    def params(self) -> Params:
        """The present parameters; only valid until the next update."""
        return self.state.params

    def restore(self, state: train_state.TrainState) -> None:
        """Goes on from a stored state; the replay buffer is restored by itself."""
        self.state = state
        self.updates_done = int(state.updates)

    def updates_due(self, agent_steps: int) -> int:
        """Updates missing after so many agent steps past the seed phase."""
        if not self.replay.num_slices:
            return 0
        return int(self._config.updates_per_step * agent_steps) - self.updates_done

    def catch_up(self, agent_steps: int) -> None:
        """Makes the updates that are due, as far as they fill whole compiled calls."""
        self.catch_up_to(self.updates_done + max(self.updates_due(agent_steps), 0))

    def catch_up_to(self, updates: int) -> None:
        """Makes updates until there are `updates`, as far as they fill whole compiled calls."""
        while updates - self.updates_done >= self._fused:
            batches = self._sample()
            # At most one call is in flight: its batch is the only one kept alive, and the
            # next one is drawn while it runs.
            jax.block_until_ready(self._metrics[-1:])
            self.state, metrics = self._update(self.state, batches)
            self._metrics.append(metrics)
            self.updates_done += self._fused

    def take_metrics(self) -> dict[str, float]:
        """Means over the updates since the last call; empty if there were none.

        Raises:
          DivergenceError: if any of them is not finite; the metrics are gone then.
        """
        if not self._metrics:
            return {}
        metrics = jax.device_get([self._own(each) for each in self._metrics])
        self._metrics = []
        joined = {name: np.concatenate([m[name] for m in metrics]) for name in metrics[0]}
        finite = np.all([np.isfinite(values) for values in joined.values()], axis=0)
        if not finite.all():
            first = int(np.argmin(finite))
            wrong = [name for name, values in joined.items() if not np.isfinite(values[first])]
            number = self.updates_done - len(finite) + first + 1
            raise DivergenceError(f"update {number} has no finite {', '.join(wrong)}")
        return {name: float(values.mean()) for name, values in joined.items()}

    def _sample(self) -> Batch:
        """Batches of one compiled call."""
        return self.replay.sample(self._config.batch_size, self._fused)

    def _own(self, metrics: Metrics) -> Metrics:
        """Metrics `[U]` of one compiled call."""
        return metrics
