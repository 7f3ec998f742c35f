"""What one update consumes: a batch of slices and the update's random numbers."""

import flax.struct
import jax

from specmpc_jax.config import ModelConfig
from specmpc_jax.networks.encoders import SHIFT_PAD
from specmpc_jax.ops.dropout import Rows
from specmpc_jax.types import Array


@flax.struct.dataclass
class Batch:
    """B slices of H steps, time-major; numpy arrays until they enter an update."""

    observation: Array  # [H+1, B, D], or pixels [H+1, B, C, 64, 64]
    action: Array  # [H, B, A]
    reward: Array  # [H, B]
    terminated: Array  # [H, B] 1 where the step ended the episode for good
    task: Array | None = None  # [B] int, multi-task only


@flax.struct.dataclass
class UpdateNoise:
    """Every random number of one update, so that an update is a pure function of it."""

    target: Array  # [H, B, A] normal, actions of the TD targets
    target_members: Array  # [2] int, the two target Q members
    policy: Array  # [H+1, B, A] normal, actions of the policy loss
    policy_members: Array  # [2] int, the two Q members of the policy loss
    dropout: Array | None  # [2] keys: model loss, policy loss; None switches dropout off
    shift: Array | None  # [H+1, B, 2] int in 0..6, pixel shifts (columns, rows); None for states
    rows: Rows | None = None  # which rows of a larger batch these are; None if they are all


def draw_noise(key: Array, batch: Batch, config: ModelConfig) -> UpdateNoise:
    """Draws every random number of one update of `batch`; consumes `key`."""
    steps, size = batch.action.shape[:2]
    return draw_noise_for(key, steps, size, config)


def draw_noise_for(key: Array, steps: int, size: int, config: ModelConfig) -> UpdateNoise:
    """`draw_noise` for a batch of `size` slices of `steps` steps."""
    target, target_members, policy, policy_members, dropout, shift = jax.random.split(key, 6)
    action_dim = config.action_dim
    pixels = config.observation == "rgb"
    return UpdateNoise(
        target=jax.random.normal(target, (steps, size, action_dim)),
        target_members=jax.random.permutation(target_members, config.num_q)[:2],
        policy=jax.random.normal(policy, (steps + 1, size, action_dim)),
        policy_members=jax.random.permutation(policy_members, config.num_q)[:2],
        dropout=jax.random.split(dropout) if config.dropout > 0 else None,
        shift=jax.random.randint(shift, (steps + 1, size, 2), 0, 2 * SHIFT_PAD + 1)
        if pixels
        else None,
    )
