"""The heads of the world model as Linen modules (spec section 2)."""

from specmpc_jax.config import ModelConfig
from specmpc_jax.networks.layers import MLP


def _hidden(config: ModelConfig) -> tuple[int, int]:
    return (config.mlp_dim, config.mlp_dim)


def dynamics(config: ModelConfig) -> MLP:
    """`[..., L + T + A] -> [..., L]`, the next latent."""
    return MLP(_hidden(config), config.latent_dim, simnorm_group=config.simnorm_dim)


def reward(config: ModelConfig) -> MLP:
    """`[..., L + T + A] -> [..., num_bins]`, logits of the reward."""
    return MLP(_hidden(config), config.num_bins, zero_head=True)


def q_member(config: ModelConfig) -> MLP:
    """`[..., L + T + A] -> [..., num_bins]`, logits of one Q function."""
    return MLP(_hidden(config), config.num_bins, dropout=config.dropout, zero_head=True)


def policy(config: ModelConfig) -> MLP:
    """`[..., L + T] -> [..., 2A]`, mean and raw log std of the policy prior."""
    return MLP(_hidden(config), 2 * config.action_dim)


def termination(config: ModelConfig) -> MLP:
    """`[..., L + T] -> [..., 1]`, logit of the episode having ended."""
    return MLP(_hidden(config), 1)
