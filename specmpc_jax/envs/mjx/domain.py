"""What a domain of the suite is on the device: how episodes start, what is seen and rewarded."""

import abc
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from mujoco import mjx

from specmpc_jax.envs.mjx.physics import Physics, prepare, touching
from specmpc_jax.types import Array


@flax.struct.dataclass
class Start:
    """How an episode starts."""

    qpos: Array  # [nq]
    qvel: Array  # [nv]
    goal: Array  # [G] what an episode aims at, such as a target's place; G may be 0


class Domain(abc.ABC):
    """One task of the suite as pure functions of prepared data."""

    goal_size = 0  # G
    settling_steps = 0  # environment steps without control before an episode

    def __init__(self, physics: Physics) -> None:
        """Binds the task to its model."""
        self.physics = physics

    @abc.abstractmethod
    def draw(self, model: mjx.Model, key: Array) -> Start:
        """Draws an episode's start from the suite's distribution; consumes `key`."""

    @abc.abstractmethod
    def observe(self, data: mjx.Data, goal: Array) -> Array:
        """The observation `[D]`, in the suite's order."""

    @abc.abstractmethod
    def reward(self, data: mjx.Data, goal: Array) -> Array:
        """The reward `[]` of the environment step that led to some data."""

    def goal_of(self, physics: Any) -> np.ndarray:
        """Reads the goal `[G]` from the suite's own physics."""
        return np.zeros(self.goal_size)

    def show_goal(self, physics: Any, goal: np.ndarray) -> None:
        """Puts a goal `[G]` into the suite's own physics, for pictures."""
        del physics, goal  # most tasks aim at nothing that moves

    def start(self, model: mjx.Model, qpos: Array, goal: Array | None = None) -> Start:
        """A start at rest."""
        goal = jnp.zeros(0) if goal is None else goal
        return Start(qpos, jnp.zeros(self.physics.host.nv), goal)


def random_joints(physics: Physics, key: Array) -> Array:
    """Positions `[nq]` with limited joints within their limits and hinges and balls anywhere.

    As in the suite, a free joint's quaternion has non-negative entries, and its place and
    unlimited slides are left where the model has them. Consumes `key`.
    """
    host = physics.host
    qpos = jnp.asarray(host.qpos0)
    for joint, joint_key in enumerate(jax.random.split(key, host.njnt)):
        # MuJoCo's enumerations compare with int, but not with what NumPy arrays hold.
        kind, limited = int(host.jnt_type[joint]), bool(host.jnt_limited[joint])
        start, (low, high) = int(host.jnt_qposadr[joint]), host.jnt_range[joint]
        if kind in (mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE) and limited:
            qpos = qpos.at[start].set(jax.random.uniform(joint_key, minval=low, maxval=high))
        elif kind == mujoco.mjtJoint.mjJNT_HINGE:
            qpos = qpos.at[start].set(jax.random.uniform(joint_key, minval=-np.pi, maxval=np.pi))
        elif kind == mujoco.mjtJoint.mjJNT_FREE:
            quaternion = jax.random.uniform(joint_key, (4,))
            quaternion /= jnp.linalg.norm(quaternion)
            qpos = qpos.at[start + 3 : start + 7].set(quaternion)
        elif kind == mujoco.mjtJoint.mjJNT_BALL:
            raise NotImplementedError("no domain here has ball joints")
    return qpos


def free_of_collisions(physics: Physics, model: mjx.Model, draw: Any, key: Array) -> Array:
    """Draws positions until nothing penetrates.

    Args:
      physics: the model's facts.
      model: the model.
      draw: from a key to positions `[nq]`.
      key: consumed.

    Returns:
      `[nq]`. Under `vmap`, all lanes are drawn until the last one is free.
    """
    data = mjx.make_data(physics.host)

    def again(carry: tuple[Array, Array]) -> Array:
        return touching(prepare(model, data.replace(qpos=carry[1])))

    def redraw(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        key, use = jax.random.split(carry[0])
        return key, draw(use)

    return jax.lax.while_loop(again, redraw, redraw((key, model.qpos0)))[1]
