"""Pendulum: swing up and balance."""

import jax
import jax.numpy as jnp
import numpy as np
from mujoco import mjx

from specmpc_jax.envs.mjx.domain import Domain, Start
from specmpc_jax.envs.mjx.physics import Physics
from specmpc_jax.envs.mjx.rewards import tolerance
from specmpc_jax.types import Array

_UPRIGHT_COSINE = float(np.cos(np.deg2rad(8.0)))


class Pendulum(Domain):
    """One pole on a hinge that is too weak to lift it at once."""

    def __init__(self, physics: Physics) -> None:
        """Binds the task."""
        super().__init__(physics)
        self._pole = physics.body("pole")

    def draw(self, model: mjx.Model, key: Array) -> Start:
        """Any angle, at rest."""
        return self.start(model, jax.random.uniform(key, (1,), minval=-np.pi, maxval=np.pi))

    def observe(self, data: mjx.Data, goal: Array) -> Array:
        """Cosine and sine of the pole, velocity."""
        pole = data.xmat[self._pole]
        return jnp.concatenate([jnp.stack([pole[2, 2], pole[0, 2]]), data.qvel])

    def reward(self, data: mjx.Data, goal: Array) -> Array:
        """1 within eight degrees of upright."""
        return tolerance(data.xmat[self._pole, 2, 2], _UPRIGHT_COSINE, 1.0)


TASKS = {"swingup": Pendulum}
