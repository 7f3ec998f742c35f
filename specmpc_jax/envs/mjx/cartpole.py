"""Cartpole: balance and swing-up, with smooth or sparse rewards."""

import jax
import jax.numpy as jnp
import numpy as np
from mujoco import mjx

from specmpc_jax.envs.mjx.domain import Domain, Start
from specmpc_jax.envs.mjx.physics import Physics
from specmpc_jax.envs.mjx.rewards import tolerance
from specmpc_jax.types import Array

_FIRST_POLE = 2  # body; the world and the cart come before


class Cartpole(Domain):
    """Poles on a cart."""

    def __init__(self, physics: Physics, swing_up: bool, sparse: bool) -> None:
        """Binds one of the four tasks."""
        super().__init__(physics)
        self._swing_up, self._sparse = swing_up, sparse

    def draw(self, model: mjx.Model, key: Array) -> Start:
        """Cart in the middle and pole down, or both near the goal; small velocities."""
        place_key, velocity_key = jax.random.split(key)
        n = self.physics.host.nv
        if self._swing_up:
            scale = jnp.where(jnp.arange(n) < 2, 0.01, 0.1)
            down = jnp.where(jnp.arange(n) == 1, np.pi, 0.0)
            qpos = down + scale * jax.random.normal(place_key, (n,))
        else:
            limit = jnp.where(jnp.arange(n) == 0, 0.1, 0.034)
            qpos = limit * jax.random.uniform(place_key, (n,), minval=-1.0)
        return Start(qpos, 0.01 * jax.random.normal(velocity_key, (n,)), jnp.zeros(0))

    def observe(self, data: mjx.Data, goal: Array) -> Array:
        """Cart, cosine and sine of each pole, velocities."""
        poles = data.xmat[_FIRST_POLE:]
        angles = jnp.stack([poles[:, 2, 2], poles[:, 0, 2]], axis=1).ravel()
        return jnp.concatenate([data.qpos[:1], angles, data.qvel])

    def reward(self, data: mjx.Data, goal: Array) -> Array:
        """Upright, in the middle, with little control and little speed; or both within bounds."""
        cart, cosines = data.qpos[0], data.xmat[_FIRST_POLE:, 2, 2]
        if self._sparse:
            return tolerance(cart, -0.25, 0.25) * tolerance(cosines, 0.995, 1.0).prod()
        upright = ((cosines + 1.0) / 2.0).mean()
        centred = (1.0 + tolerance(cart, margin=2.0)) / 2.0
        effort = tolerance(data.ctrl[0], margin=1.0, shape="quadratic", at_margin=0.0)
        still = (1.0 + tolerance(data.qvel[1:], margin=5.0).min()) / 2.0
        return upright * (4.0 + effort) / 5.0 * still * centred


TASKS = {
    "balance": lambda physics: Cartpole(physics, swing_up=False, sparse=False),
    "balance_sparse": lambda physics: Cartpole(physics, swing_up=False, sparse=True),
    "swingup": lambda physics: Cartpole(physics, swing_up=True, sparse=False),
    "swingup_sparse": lambda physics: Cartpole(physics, swing_up=True, sparse=True),
}
