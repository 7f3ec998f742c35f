"""Cheetah: run in the plane."""

import jax
import jax.numpy as jnp
import numpy as np
from mujoco import mjx

from specmpc_jax.envs.mjx.domain import Domain, Start
from specmpc_jax.envs.mjx.physics import Physics
from specmpc_jax.envs.mjx.rewards import at_least
from specmpc_jax.types import Array

_SPEED = 10.0  # m/s


class Cheetah(Domain):
    """A planar four-legged runner."""

    settling_steps = 200

    def __init__(self, physics: Physics) -> None:
        """Binds the task."""
        super().__init__(physics)
        self._velocity = physics.sensor("torso_subtreelinvel")

    def draw(self, model: mjx.Model, key: Array) -> Start:
        """Limited joints anywhere within their limits."""
        host = self.physics.host
        limited = np.flatnonzero(host.jnt_limited)
        low, high = host.jnt_range[limited].T
        drawn = jax.random.uniform(key, (len(limited),), minval=low, maxval=high)
        return self.start(model, jnp.asarray(host.qpos0).at[limited].set(drawn))

    def observe(self, data: mjx.Data, goal: Array) -> Array:
        """Positions without the horizontal one, velocities."""
        return jnp.concatenate([data.qpos[1:], data.qvel])

    def reward(self, data: mjx.Data, goal: Array) -> Array:
        """In proportion to the speed, up to 10 m/s."""
        return at_least(data.sensordata[self._velocity][0], _SPEED, _SPEED, "linear", at_margin=0.0)


TASKS = {"run": Cheetah}
