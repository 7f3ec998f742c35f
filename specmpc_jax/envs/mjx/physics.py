"""The suite's models on MJX, advanced in the suite's order of computation.

The suite keeps a state whose positions and velocities are worked out, and finishes the
step from there when a control arrives:

    prepare    positions, contacts, velocities, and what sensors say of them
    finish     forces and accelerations, under the control
    integrate  the next positions and velocities

One substep is finish, integrate, prepare. Observations after it therefore see new
positions and velocities, but touch sensors as they were before the last integration.
"""

import copy
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
from mujoco import mjx

from specmpc_jax.types import Array


@dataclasses.dataclass(frozen=True, eq=False)
class Physics:
    """A model of the suite and where its parts lie in MuJoCo's arrays."""

    host: mujoco.MjModel
    substeps: int  # of one environment step

    @property
    def touch(self) -> bool:
        """Whether there are touch sensors: the only ones of accelerations that tasks show."""
        return int(mujoco.mjtSensor.mjSENS_TOUCH) in self.host.sensor_type

    def body(self, name: str) -> int:
        """Index of a body."""
        return self._index(mujoco.mjtObj.mjOBJ_BODY, name)

    def geom(self, name: str) -> int:
        """Index of a geom."""
        return self._index(mujoco.mjtObj.mjOBJ_GEOM, name)

    def site(self, name: str) -> int:
        """Index of a site."""
        return self._index(mujoco.mjtObj.mjOBJ_SITE, name)

    def joint(self, name: str) -> int:
        """Index of a joint."""
        return self._index(mujoco.mjtObj.mjOBJ_JOINT, name)

    def sensor(self, name: str) -> slice:
        """Where a sensor's values lie in `sensordata`."""
        index = self._index(mujoco.mjtObj.mjOBJ_SENSOR, name)
        start = int(self.host.sensor_adr[index])
        return slice(start, start + int(self.host.sensor_dim[index]))

    def _index(self, kind: mujoco.mjtObj, name: str) -> int:
        index = mujoco.mj_name2id(self.host, kind, name)
        if index < 0:
            raise KeyError(f"the model has no {kind.name} {name!r}")
        return index


def take(environment: Any) -> Physics:
    """Copies the model of a suite's environment whose episode has begun: tasks change it then."""
    host = copy.copy(environment.physics.model.ptr)
    # The suite has energies computed in some domains, which nothing uses and MJX does not know.
    host.opt.enableflags &= ~int(mujoco.mjtEnableBit.mjENBL_ENERGY)
    substeps = round(environment.control_timestep() / environment.physics.timestep())
    return Physics(host, substeps)


def place(physics: Physics, model: mjx.Model, qpos: Array, qvel: Array, control: Array) -> mjx.Data:
    """Data of a state `[nq]`, `[nv]` with all that can be observed of it under a control `[U]`."""
    data = mjx.make_data(physics.host).replace(qpos=qpos, qvel=qvel, ctrl=control)
    data = prepare(model, data)
    # Accelerations are for the next step to work out; touch sensors are observed.
    return finish(physics, model, data) if physics.touch else data


def prepare(model: mjx.Model, data: mjx.Data) -> mjx.Data:
    """Works out all that follows from positions and velocities."""
    data = mjx.sensor_pos(model, mjx.fwd_position(model, data))
    return mjx.sensor_vel(model, mjx.fwd_velocity(model, data))


def finish(physics: Physics, model: mjx.Model, data: mjx.Data) -> mjx.Data:
    """Works out accelerations of prepared data under their control."""
    data = mjx.fwd_acceleration(model, mjx.fwd_actuation(model, data))
    if data._impl.efc_J.size == 0:  # nothing to constrain: known while tracing
        return data.replace(qacc=data.qacc_smooth)
    data = mjx.solve(model, data)
    return mjx.sensor_acc(model, data) if physics.touch else data


def advance(physics: Physics, model: mjx.Model, data: mjx.Data, control: Array) -> mjx.Data:
    """One environment step.

    Args:
      physics: the model's facts.
      model: the model, perhaps with other masses than the host's.
      data: prepared.
      control: `[U]` in the actuators' units.

    Returns:
      Prepared data.
    """
    data = data.replace(ctrl=control)

    def runge_kutta(_: int, data: mjx.Data) -> mjx.Data:
        return mjx.step(model, data)

    def euler(_: int, data: mjx.Data) -> mjx.Data:
        return prepare(model, mjx.euler(model, finish(physics, model, data)))

    if physics.host.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4:
        # Intermediate stages of Runge-Kutta prepare for themselves.
        return prepare(model, jax.lax.fori_loop(0, physics.substeps, runge_kutta, data))
    return jax.lax.fori_loop(0, physics.substeps, euler, data)


def touching(data: mjx.Data) -> Array:
    """Whether any two geoms penetrate each other in prepared data, `[]` bool."""
    contact = data._impl.contact
    if not contact.dist.size:
        return jnp.zeros((), bool)
    return (contact.dist < contact.includemargin).any()
