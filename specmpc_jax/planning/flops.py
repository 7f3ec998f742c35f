"""The matrix products that one plan needs, and what they cost.

Counted is what the algorithm asks for, not what a program happens to do: the
layers' products, 2 m k n FLOPs each. Activations, normalisation, the decoding of
101 bins and the refit of mean and std are not counted; nor is the encoder, since
a plan starts from a latent.
"""

import collections
import dataclasses
from collections.abc import Iterator

from specmpc_jax.config import ModelConfig, PlannerConfig

# How many members of the Q ensemble value a sequence (spec section 5).
_MEMBERS = 2


@dataclasses.dataclass(frozen=True)
class Product:
    """`count` products of `[rows, inner]` with weights `[inner, columns]`."""

    rows: int
    inner: int
    columns: int
    count: int

    @property
    def flops(self) -> int:
        """FLOPs of all `count` products."""
        return 2 * self.rows * self.inner * self.columns * self.count


def planning_products(
    model: ModelConfig, planner: PlannerConfig, batch_size: int = 1
) -> tuple[Product, ...]:
    """Lists the products of one plan for each of `batch_size` environments.

    - The start latent of a plan meets the first layer of reward and dynamics once,
      as all sequences begin there; their first actions are multiplied apart.
    - Reward and dynamics read the same input, so their first layers count as one product.
    - Policy-prior sequences are rolled out once, explored ones in every iteration.
    - Each iteration asks the policy and two Q members about every last latent.
    - A task's embedding is part of a bias: it costs nothing.

    Args:
      model: the architecture.
      planner: numbers of sequences, iterations and steps.
      batch_size: environments planned for in one call; their rows are joined,
        although each environment draws Q members of its own.

    Returns:
      Products of distinct shapes, in the order of their first occurrence.
    """
    counts: collections.Counter[tuple[int, int, int]] = collections.Counter()
    for rows, inner, columns, count in _products(model, planner):
        if rows:
            counts[batch_size * rows, inner, columns] += count
    return tuple(Product(*shape, count) for shape, count in counts.items() if count)


def planning_flops(model: ModelConfig, planner: PlannerConfig, batch_size: int = 1) -> int:
    """FLOPs of `planning_products`."""
    return sum(product.flops for product in planning_products(model, planner, batch_size))


def _products(model: ModelConfig, planner: PlannerConfig) -> Iterator[tuple[int, int, int, int]]:
    """(rows, inner, columns, count) of the products of one environment's plan."""
    prior, iterations, horizon = planner.num_pi_trajs, planner.iterations, planner.horizon
    explored = planner.num_samples - prior
    latent, hidden, action = model.latent_dim, model.mlp_dim, model.action_dim

    def steps(rows: int, times: int) -> Iterator[tuple[int, int, int, int]]:
        """Reward and dynamics along `rows` sequences, without their common start."""
        yield rows, action, 2 * hidden, times
        yield rows, latent + action, 2 * hidden, times * (horizon - 1)
        yield rows, hidden, hidden, 2 * times * horizon
        yield rows, hidden, latent, times * horizon
        yield rows, hidden, model.num_bins, times * horizon
        if model.episodic:
            yield from network(rows, latent, 1, times * horizon)

    def network(rows: int, inner: int, out: int, times: int) -> Iterator[tuple[int, int, int, int]]:
        yield rows, inner, hidden, times
        yield rows, hidden, hidden, times
        yield rows, hidden, out, times

    yield 1, latent, 2 * hidden, 1
    if prior:
        yield from network(1, latent, 2 * action, 1)  # all first prior actions share a latent
        yield from network(prior, latent, 2 * action, horizon - 1)
        yield from steps(prior, 1)
    yield from steps(explored, iterations)
    yield from network(planner.num_samples, latent, 2 * action, iterations)
    members = _MEMBERS * iterations
    yield from network(planner.num_samples, latent + action, model.num_bins, members)
