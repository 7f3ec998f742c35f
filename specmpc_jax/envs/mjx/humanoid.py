"""Humanoid: stand, walk and run in three dimensions."""

import jax.numpy as jnp
import numpy as np
from mujoco import mjx

from specmpc_jax.envs.mjx.domain import Domain, Start, free_of_collisions, random_joints
from specmpc_jax.envs.mjx.physics import Physics
from specmpc_jax.envs.mjx.rewards import at_least, small_control, tolerance
from specmpc_jax.types import Array

_STANDING = 1.4  # m, of the head
_LIMBS = ("left_hand", "left_foot", "right_hand", "right_foot")
_FREE_JOINT = 7  # positions of the root


class Humanoid(Domain):
    """A humanoid that is to move at a speed in m/s, or to stand (speed 0)."""

    def __init__(self, physics: Physics, speed: float, pure_state: bool = False) -> None:
        """Binds one of the four tasks."""
        super().__init__(physics)
        self._speed, self._pure_state = speed, pure_state
        self._torso, self._head = physics.body("torso"), physics.body("head")
        self._limbs = np.array([physics.body(limb) for limb in _LIMBS])
        self._velocity = physics.sensor("torso_subtreelinvel")

    def draw(self, model: mjx.Model, key: Array) -> Start:
        """Any joints that do not collide."""

        def joints(key: Array) -> Array:
            return random_joints(self.physics, key)

        return self.start(model, free_of_collisions(self.physics, model, joints, key))

    def observe(self, data: mjx.Data, goal: Array) -> Array:
        """Joints, head, limbs seen from the torso, uprightness, velocities; or the state."""
        if self._pure_state:
            return jnp.concatenate([data.qpos, data.qvel])
        frame = data.xmat[self._torso]
        limbs = (data.xpos[self._limbs] - data.xpos[self._torso]) @ frame
        return jnp.concatenate(
            [
                data.qpos[_FREE_JOINT:],
                data.xpos[self._head, 2:],
                limbs.ravel(),
                frame[2],
                data.sensordata[self._velocity],
                data.qvel,
            ]
        )

    def reward(self, data: mjx.Data, goal: Array) -> Array:
        """Upright with the head high and little control; at the speed, or without any."""
        standing = at_least(data.xpos[self._head, 2], _STANDING, margin=_STANDING / 4.0)
        upright = at_least(data.xmat[self._torso, 2, 2], 0.9, 1.9, "linear", at_margin=0.0)
        velocity = data.sensordata[self._velocity][:2]
        if self._speed == 0:
            move = tolerance(velocity, margin=2.0).mean()
        else:
            speed = jnp.linalg.norm(velocity)
            move = at_least(speed, self._speed, self._speed, "linear", at_margin=0.0)
            move = (5.0 * move + 1.0) / 6.0
        return small_control(data.ctrl) * standing * upright * move


TASKS = {
    "stand": lambda physics: Humanoid(physics, speed=0.0),
    "walk": lambda physics: Humanoid(physics, speed=1.0),
    "run": lambda physics: Humanoid(physics, speed=10.0),
    "run_pure_state": lambda physics: Humanoid(physics, speed=10.0, pure_state=True),
}
