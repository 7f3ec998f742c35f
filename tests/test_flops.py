"""The count of needed operations, by hand and against what is really computed."""

import math
import re
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import pytest

from models import tiny_config
from specmpc_jax.config import ModelConfig, model_config
from specmpc_jax.learning import train_state
from specmpc_jax.learning.batch import Batch, draw_noise
from specmpc_jax.learning.config import TrainConfig
from specmpc_jax.learning.flops import update_flops
from specmpc_jax.learning.update import update
from specmpc_jax.world_model import WorldModel


def test_small_case_by_hand():
    model = ModelConfig(
        action_dim=1,
        observation_shape=(3,),
        enc_dim=4,
        mlp_dim=5,
        latent_dim=8,
        num_q=3,
        num_bins=7,
    )
    flops = update_flops(model, TrainConfig(batch_size=1, horizon=1))
    encoder = 3 * 4 + 4 * 8
    dynamics = 9 * 5 + 5 * 5 + 5 * 8
    bins = 9 * 5 + 5 * 5 + 5 * 7
    policy = 8 * 5 + 5 * 5 + 5 * 2
    assert flops.targets == 2 * (encoder + policy + 2 * bins)
    assert flops.model_forward == 2 * (encoder + dynamics + bins + 3 * bins)
    # Inputs: not the observation (3 x 4), and not the action (1 x 5).
    inputs = (encoder - 3 * 4) + (dynamics - 5) + 4 * (bins - 5)
    assert flops.model_backward == flops.model_forward + 2 * inputs
    assert flops.policy_forward == 2 * 2 * (policy + 2 * bins)
    # Of the two Q members only hidden layers and the action's column.
    inputs = (policy - 8 * 5) + 2 * (bins - 8 * 5)
    assert flops.policy_backward == 2 * 2 * (policy + inputs)


@pytest.mark.parametrize("size, gflop", [(1, 8.5), (5, 29.0)])
def test_published_sizes(size, gflop):
    model = model_config(size, action_dim=6, observation_shape=(24,))
    assert abs(update_flops(model, TrainConfig()).total / 1e9 - gflop) < 0.1


def test_pixels_and_termination_add():
    state = update_flops(tiny_config(), TrainConfig())
    episodic = update_flops(tiny_config(episodic=True), TrainConfig())
    assert episodic.model_backward > state.model_backward and episodic.targets == state.targets
    pixels = tiny_config(observation="rgb", observation_shape=(9, 64, 64), num_channels=1)
    first = 2 * 29**2 * 7**2 * 9
    later = 2 * (13**2 * 5**2 + 6**2 * 3**2 + 4**2 * 3**2)
    difference = update_flops(pixels, TrainConfig()).targets - state.targets
    assert difference == 3 * 256 * (first + later - 2 * (4 * 16 + 16 * 16))


def test_the_compiled_update_computes_no_more():
    """XLA forms no gradient of a weight or latent that the policy loss does not train."""
    model = WorldModel(tiny_config(enc_dim=24, mlp_dim=32, num_bins=21))
    config = TrainConfig(batch_size=8)
    steps = (config.horizon, config.batch_size)
    batch = Batch(
        observation=jnp.zeros((steps[0] + 1, steps[1], 4)),
        action=jnp.zeros((*steps, 2)),
        reward=jnp.zeros(steps),
        terminated=jnp.zeros(steps),
    )
    noise = draw_noise(jax.random.key(0), batch, model.config)
    state = jax.eval_shape(lambda key: train_state.init(model, config, key), jax.random.key(0))
    lowered = jax.jit(lambda s, b, n: update(s, b, n, model=model, config=config)).lower(
        state, batch, noise
    )
    # Restored by the fixture of conftest.py: dead products only go where XLA optimises.
    jax.config.update("jax_disable_most_optimizations", False)
    compiled = lowered.compile().as_text()
    assert sum(product_flops(compiled)) == update_flops(model.config, config).total


def product_flops(hlo: str) -> Iterator[int]:
    """Operations of each product of two matrices in a compiled program."""
    shapes = {}
    for name, shape in re.findall(r"%?([\w.\-]+) = \w+\[([\d,]*)\]", hlo):
        shapes[name] = [int(size) for size in shape.split(",") if size]
    product = re.compile(
        r"%?([\w.\-]+) = \S+ dot\(%?([\w.\-]+), %?[\w.\-]+\).*lhs_contracting_dims=\{(\d+)\}"
    )
    for line in hlo.splitlines():
        if found := product.search(line):
            result, left, dimension = found.groups()
            if len(shapes[result]) > 1 and min(shapes[result]) > 1:
                yield 2 * math.prod(shapes[result]) * shapes[left][int(dimension)]
