"""Hopper: stand and hop on one leg in the plane."""

import jax.numpy as jnp
from mujoco import mjx

from specmpc_jax.envs.mjx.domain import Domain, Start, random_joints
from specmpc_jax.envs.mjx.physics import Physics
from specmpc_jax.envs.mjx.rewards import at_least, small_control, tolerance
from specmpc_jax.types import Array

_STANDING = 0.6  # m, of the torso over the foot
_SPEED = 2.0  # m/s


class Hopper(Domain):
    """A planar one-legged body."""

    def __init__(self, physics: Physics, hop: bool) -> None:
        """Binds one of the two tasks."""
        super().__init__(physics)
        self._hop = hop
        self._torso, self._foot = physics.body("torso"), physics.body("foot")
        self._velocity = physics.sensor("torso_subtreelinvel")
        self._soles = physics.sensor("touch_toe"), physics.sensor("touch_heel")

    def draw(self, model: mjx.Model, key: Array) -> Start:
        """Any joints, dropped to the floor."""
        return self.start(model, random_joints(self.physics, key))

    def observe(self, data: mjx.Data, goal: Array) -> Array:
        """Positions without the horizontal one, velocities, touch of toe and heel."""
        touch = jnp.log1p(jnp.concatenate([data.sensordata[sole] for sole in self._soles]))
        return jnp.concatenate([data.qpos[1:], data.qvel, touch])

    def reward(self, data: mjx.Data, goal: Array) -> Array:
        """At standing height, with speed or with little control."""
        height = data.xipos[self._torso, 2] - data.xipos[self._foot, 2]
        standing = tolerance(height, _STANDING, 2.0)
        if not self._hop:
            return standing * small_control(data.ctrl)
        velocity = data.sensordata[self._velocity][0]
        return standing * at_least(velocity, _SPEED, _SPEED / 2.0, "linear", at_margin=0.5)


TASKS = {
    "stand": lambda physics: Hopper(physics, hop=False),
    "hop": lambda physics: Hopper(physics, hop=True),
}
