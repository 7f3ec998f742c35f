"""One task on the device: reset and step as pure functions, for `jit`, `vmap` and `scan`."""

import importlib
from collections.abc import Callable, Mapping

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from mujoco import mjx

from specmpc_jax.envs.dm_control import (
    DMControlEnvironment,
    canonical_name,
    find_task,
)
from specmpc_jax.envs.mjx.domain import Domain, Start
from specmpc_jax.envs.mjx.physics import Physics, advance, place, take
from specmpc_jax.envs.protocol import EnvironmentSpec
from specmpc_jax.errors import UserError, nearest_names
from specmpc_jax.types import Array

# To add a domain: a module beside this one with `TASKS`, from the suite's name of a task to
# what makes its `Domain` of a `Physics`.
_DOMAINS = (
    "acrobot",
    "ball_in_cup",
    "cartpole",
    "cheetah",
    "finger",
    "hopper",
    "humanoid",
    "pendulum",
    "reacher",
    "walker",
)


@flax.struct.dataclass
class MjxState:
    """Everything that one environment carries from step to step."""

    data: mjx.Data  # prepared, see `physics`
    goal: Array  # [G]
    observation: Array  # [D]


class MjxEnvironment:
    """A task of the suite, with the suite's own model, on MJX.

    The model is an argument of every function, so that one with other masses, or a
    batch of them (`perturbation`), can take its place. Two instances of equal task and
    action repeat are equal, and share what was compiled for either.
    """

    def __init__(self, task: str, action_repeat: int = 2) -> None:
        """Loads the task; names are those of `dm_control.find_task`.

        Raises:
          UserError: if there is no such task on MJX, or `action_repeat` is below 1.
        """
        domain, name = find_task(task)
        maker = _tasks(domain).get(name) if domain in _DOMAINS else None
        if maker is None:
            nearest = nearest_names(task, task_names())
            raise UserError(f"task {task!r} does not run on MJX; nearest names that do: {nearest}")
        host = DMControlEnvironment(task, action_repeat)
        host.reset(0)
        self.spec: EnvironmentSpec = host.spec
        self.physics: Physics = take(host.suite_environment)
        host.close()
        self.domain: Domain = maker(self.physics)
        self.model: mjx.Model = mjx.put_model(self.physics.host)
        low, high = self.physics.host.actuator_ctrlrange.T
        self._low, self._half_range = np.float32(low), np.float32((high - low) / 2.0)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MjxEnvironment) and self.spec == other.spec

    def __hash__(self) -> int:
        return hash(self.spec)

    def reset(self, model: mjx.Model, key: Array) -> MjxState:
        """Starts an episode from the suite's distribution; consumes `key`."""
        return self.begin(model, self.domain.draw(model, key))

    def begin(self, model: mjx.Model, start: Start) -> MjxState:
        """Starts an episode from a given start."""
        control = jnp.zeros(self.physics.host.nu)
        data = place(self.physics, model, start.qpos, start.qvel, control)
        if self.domain.settling_steps:

            def settle(_: int, data: mjx.Data) -> mjx.Data:
                return advance(self.physics, model, data, control)

            data = jax.lax.fori_loop(0, self.domain.settling_steps, settle, data)
        return self._state(data, start.goal)

    def resume(self, model: mjx.Model, start: Start, control: Array | None = None) -> MjxState:
        """The state of a given position and velocity, as it is.

        Args:
          model: the model.
          start: position, velocity and goal.
          control: `[U]` in the actuators' units, seen by touch sensors; zero if None.
        """
        control = jnp.zeros(self.physics.host.nu) if control is None else control
        return self._state(place(self.physics, model, start.qpos, start.qvel, control), start.goal)

    def step(self, model: mjx.Model, state: MjxState, action: Array) -> tuple[MjxState, Array]:
        """Executes one action for `spec.action_repeat` environment steps.

        Args:
          model: the model.
          state: the last state.
          action: `[A]`, clipped to [-1, 1].

        Returns:
          The next state, and the reward `[]`, summed over the repeats.
        """
        control = self._low + self._half_range * (jnp.clip(action, -1.0, 1.0) + 1.0)

        def repeat(_: int, carry: tuple[mjx.Data, Array]) -> tuple[mjx.Data, Array]:
            data = advance(self.physics, model, carry[0], control)
            return data, carry[1] + self.domain.reward(data, state.goal)

        data, reward = jax.lax.fori_loop(
            0, self.spec.action_repeat, repeat, (state.data, jnp.zeros(()))
        )
        return self._state(data, state.goal), reward

    def start_of_seed(self, seed: int) -> Start:
        """How the suite's episode of a seed begins, after any settling: for `resume`."""
        suite = DMControlEnvironment(self.spec.task)
        suite.reset(seed)
        physics = suite.suite_environment.physics
        start = Start(
            jnp.asarray(physics.data.qpos, jnp.float32),
            jnp.asarray(physics.data.qvel, jnp.float32),
            jnp.asarray(self.domain.goal_of(physics), jnp.float32),
        )
        suite.close()
        return start

    def _state(self, data: mjx.Data, goal: Array) -> MjxState:
        return MjxState(data, goal, self.domain.observe(data, goal))


def task_names() -> tuple[str, ...]:
    """Canonical names of all tasks that run on MJX."""
    return tuple(canonical_name(domain, name) for domain in _DOMAINS for name in _tasks(domain))


def _tasks(domain: str) -> Mapping[str, Callable[[Physics], Domain]]:
    return importlib.import_module(f"specmpc_jax.envs.mjx.{domain}").TASKS
