"""Acrobot: swing two links up with a motor at the elbow."""

import jax
import jax.numpy as jnp
import numpy as np
from mujoco import mjx

from specmpc_jax.envs.mjx.domain import Domain, Start
from specmpc_jax.envs.mjx.physics import Physics
from specmpc_jax.envs.mjx.rewards import tolerance
from specmpc_jax.types import Array


class Acrobot(Domain):
    """Two links, of which only the joint between them is driven."""

    def __init__(self, physics: Physics, sparse: bool) -> None:
        """Binds one of the two tasks."""
        super().__init__(physics)
        self._arms = np.array([physics.body("upper_arm"), physics.body("lower_arm")])
        self._tip, self._target = physics.site("tip"), physics.site("target")
        self._radius = float(physics.host.site_size[self._target, 0])
        self._margin = 0.0 if sparse else 1.0

    def draw(self, model: mjx.Model, key: Array) -> Start:
        """Any angles, at rest."""
        return self.start(model, jax.random.uniform(key, (2,), minval=-np.pi, maxval=np.pi))

    def observe(self, data: mjx.Data, goal: Array) -> Array:
        """Sines of both arms, their cosines, velocities."""
        arms = data.xmat[self._arms]
        return jnp.concatenate([arms[:, 0, 2], arms[:, 2, 2], data.qvel])

    def reward(self, data: mjx.Data, goal: Array) -> Array:
        """1 with the tip in the target, less with its distance."""
        distance = jnp.linalg.norm(data.site_xpos[self._target] - data.site_xpos[self._tip])
        return tolerance(distance, 0.0, self._radius, self._margin)


TASKS = {
    "swingup": lambda physics: Acrobot(physics, sparse=False),
    "swingup_sparse": lambda physics: Acrobot(physics, sparse=True),
}
