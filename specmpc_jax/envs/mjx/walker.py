"""Walker: stand, walk and run with two legs in the plane."""

import jax.numpy as jnp
from mujoco import mjx

from specmpc_jax.envs.mjx.domain import Domain, Start, random_joints
from specmpc_jax.envs.mjx.physics import Physics
from specmpc_jax.envs.mjx.rewards import at_least
from specmpc_jax.types import Array

_STANDING = 1.2  # m, of the torso


class Walker(Domain):
    """A planar biped that is to move at a speed in m/s, or to stand (speed 0)."""

    def __init__(self, physics: Physics, speed: float) -> None:
        """Binds one of the three tasks."""
        super().__init__(physics)
        self._speed = speed
        self._torso = physics.body("torso")
        self._velocity = physics.sensor("torso_subtreelinvel")

    def draw(self, model: mjx.Model, key: Array) -> Start:
        """Any joints, dropped to the floor."""
        return self.start(model, random_joints(self.physics, key))

    def observe(self, data: mjx.Data, goal: Array) -> Array:
        """Orientation of each body, height, velocities."""
        bodies = data.xmat[1:]
        angles = jnp.stack([bodies[:, 0, 0], bodies[:, 0, 2]], axis=1).ravel()
        return jnp.concatenate([angles, data.xpos[self._torso, 2:], data.qvel])

    def reward(self, data: mjx.Data, goal: Array) -> Array:
        """Upright at standing height, and the faster the better up to the speed."""
        height = at_least(data.xpos[self._torso, 2], _STANDING, margin=_STANDING / 2.0)
        upright = (1.0 + data.xmat[self._torso, 2, 2]) / 2.0
        stand = (3.0 * height + upright) / 4.0
        if self._speed == 0:
            return stand
        velocity = data.sensordata[self._velocity][0]
        move = at_least(velocity, self._speed, self._speed / 2.0, "linear", at_margin=0.5)
        return stand * (5.0 * move + 1.0) / 6.0


TASKS = {
    "stand": lambda physics: Walker(physics, speed=0.0),
    "walk": lambda physics: Walker(physics, speed=1.0),
    "run": lambda physics: Walker(physics, speed=8.0),
}
