"""Reacher: bring the finger to a target in the plane."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from mujoco import mjx

from specmpc_jax.envs.mjx.domain import Domain, Start, random_joints
from specmpc_jax.envs.mjx.physics import Physics
from specmpc_jax.envs.mjx.rewards import tolerance
from specmpc_jax.types import Array


class Reacher(Domain):
    """Two links in the plane; the goal `[2]` is the target's place."""

    goal_size = 2

    def __init__(self, physics: Physics) -> None:
        """Binds a task; the target's size is in the model."""
        super().__init__(physics)
        self._finger, target = physics.geom("finger"), physics.geom("target")
        sizes = physics.host.geom_size
        self._reach = float(sizes[target, 0] + sizes[self._finger, 0])

    def draw(self, model: mjx.Model, key: Array) -> Start:
        """Any joints, and a target at 0.05 to 0.2 m from the base."""
        joints_key, angle_key, radius_key = jax.random.split(key, 3)
        angle = jax.random.uniform(angle_key, maxval=2.0 * np.pi)
        radius = jax.random.uniform(radius_key, minval=0.05, maxval=0.2)
        goal = radius * jnp.stack([jnp.sin(angle), jnp.cos(angle)])
        return self.start(model, random_joints(self.physics, joints_key), goal)

    def goal_of(self, physics: Any) -> np.ndarray:
        """The target's place."""
        return physics.named.model.geom_pos["target", :2].copy()

    def show_goal(self, physics: Any, goal: np.ndarray) -> None:
        """Moves the target."""
        physics.named.model.geom_pos["target", :2] = goal

    def observe(self, data: mjx.Data, goal: Array) -> Array:
        """Joints, the way to the target, velocities."""
        return jnp.concatenate([data.qpos, goal - data.geom_xpos[self._finger, :2], data.qvel])

    def reward(self, data: mjx.Data, goal: Array) -> Array:
        """1 where finger and target overlap."""
        distance = jnp.linalg.norm(goal - data.geom_xpos[self._finger, :2])
        return tolerance(distance, 0.0, self._reach)


TASKS = {"easy": Reacher, "hard": Reacher}
