"""Finger: spin a body on a hinge, or turn its tip to a target."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from mujoco import mjx

from specmpc_jax.envs.mjx.domain import Domain, Start, free_of_collisions, random_joints
from specmpc_jax.envs.mjx.physics import Physics
from specmpc_jax.types import Array

_SPIN_VELOCITY = 15.0  # rad/s


class Finger(Domain):
    """A finger of two links beside a body on a hinge."""

    def __init__(self, physics: Physics) -> None:
        """Binds a task."""
        super().__init__(physics)
        names = "proximal", "distal", "tip", "spinner", "touchtop", "touchbottom"
        velocities = "proximal_velocity", "distal_velocity", "hinge_velocity"
        self._sensors = {name: physics.sensor(name) for name in (*names, *velocities)}

    def draw(self, model: mjx.Model, key: Array) -> Start:
        """Any joints that do not collide."""

        def joints(key: Array) -> Array:
            return random_joints(self.physics, key)

        return self.start(model, free_of_collisions(self.physics, model, joints, key))

    def observe(self, data: mjx.Data, goal: Array) -> Array:
        """Joints, tip from hinge, velocities, touch of both sides."""
        joints = [self._read(data, name) for name in ("proximal", "distal")]
        velocities = [
            self._read(data, f"{name}_velocity") for name in ("proximal", "distal", "hinge")
        ]
        touch = [jnp.log1p(self._read(data, name)) for name in ("touchtop", "touchbottom")]
        return jnp.concatenate([*joints, self._tip(data), *velocities, *touch])

    def _read(self, data: mjx.Data, name: str) -> Array:
        return data.sensordata[self._sensors[name]]

    def _hinge(self, data: mjx.Data) -> Array:
        return self._read(data, "spinner")[::2]

    def _tip(self, data: mjx.Data) -> Array:
        """The tip's place from the hinge, x and z."""
        return self._read(data, "tip")[::2] - self._hinge(data)


class Spin(Finger):
    """Rewards a fast spin in one direction."""

    def reward(self, data: mjx.Data, goal: Array) -> Array:
        """1 while the body spins fast enough."""
        return (self._read(data, "hinge_velocity")[0] <= -_SPIN_VELOCITY).astype(jnp.float32)


class Turn(Finger):
    """Rewards the tip in a target; the goal `[2]` is the target's place, x and z."""

    goal_size = 2

    def __init__(self, physics: Physics) -> None:
        """Binds a task; the target's size is in the model."""
        super().__init__(physics)
        host = physics.host
        self._radius = float(host.site_size[physics.site("target"), 0])
        self._tip_radius = float(host.geom_size[physics.geom("cap1")].sum())
        self._spinner = np.asarray(host.body_pos[physics.body("spinner")])[::2]

    def draw(self, model: mjx.Model, key: Array) -> Start:
        """Any joints that do not collide, any target."""
        angle_key, joints_key = jax.random.split(key)
        angle = jax.random.uniform(angle_key, minval=-np.pi, maxval=np.pi)
        around = self._tip_radius * jnp.stack([jnp.sin(angle), jnp.cos(angle)])
        start = super().draw(model, joints_key)
        return dataclasses.replace(start, goal=jnp.asarray(self._spinner + around))

    def goal_of(self, physics: Any) -> np.ndarray:
        """The target's place."""
        return physics.named.model.site_pos["target", ["x", "z"]].copy()

    def show_goal(self, physics: Any, goal: np.ndarray) -> None:
        """Moves the target."""
        physics.named.model.site_pos["target", ["x", "z"]] = goal

    def observe(self, data: mjx.Data, goal: Array) -> Array:
        """As without a target; then its place from the hinge and the tip's distance to it."""
        seen = super().observe(data, goal)
        return jnp.concatenate([seen, goal - self._hinge(data), self._distance(data, goal)[None]])

    def reward(self, data: mjx.Data, goal: Array) -> Array:
        """1 with the tip in the target."""
        return (self._distance(data, goal) <= 0).astype(jnp.float32)

    def _distance(self, data: mjx.Data, goal: Array) -> Array:
        """From the tip to the target's surface, negative inside."""
        return jnp.linalg.norm(goal - self._hinge(data) - self._tip(data)) - self._radius


TASKS = {"spin": Spin, "turn_easy": Turn, "turn_hard": Turn}
