"""Environments that are pure functions on the device, and B of them side by side."""

from typing import Any, Protocol

import flax.struct
import jax

from specmpc_jax.envs.protocol import EnvironmentSpec
from specmpc_jax.types import Array


class DeviceEnvironment(Protocol):
    """A task whose reset and step are pure functions, for `jit`, `vmap` and `scan`.

    Instances are static arguments of programs: equal ones share what was compiled. A
    state is a pytree with an entry `observation` `[D]`; the model of the world is an
    argument, so that lanes may differ in it.
    """

    model: Any
    spec: EnvironmentSpec

    def reset(self, model: Any, key: Array) -> Any:
        """Starts an episode; consumes `key`."""
        ...

    def resume(self, model: Any, start: Any) -> Any:
        """The state that a start describes."""
        ...

    def step(self, model: Any, state: Any, action: Array) -> tuple[Any, Array]:
        """Executes one action `[A]`; returns the next state and the reward `[]`."""
        ...


@flax.struct.dataclass
class Models:
    """The model of every lane: one for all, or each with values of its own.

    `own` says of each leaf of `model`, in order, whether it has a leading axis B;
    None where all lanes share one model.
    """

    model: Any
    own: tuple[bool, ...] | None = flax.struct.field(pytree_node=False, default=None)

    @property
    def axes(self) -> Any:
        """The model's `in_axes` for `vmap`."""
        if self.own is None:
            return None
        tree = jax.tree.structure(self.model)
        return jax.tree.unflatten(tree, [0 if own else None for own in self.own])

    def of_lane(self, lane: Array | int) -> Any:
        """One lane's model."""
        if self.own is None:
            return self.model
        leaves, tree = jax.tree.flatten(self.model)
        pairs = zip(leaves, self.own, strict=True)
        return jax.tree.unflatten(tree, [leaf[lane] if own else leaf for leaf, own in pairs])


def reset_lanes(environment: DeviceEnvironment, models: Models, keys: Array) -> Any:
    """`reset` of B lanes; consumes `keys` `[B]`."""
    return jax.vmap(environment.reset, (models.axes, 0))(models.model, keys)


def resume_lanes(environment: DeviceEnvironment, models: Models, starts: Any) -> Any:
    """`resume` of B lanes; starts with a leading axis B."""
    return jax.vmap(environment.resume, (models.axes, 0))(models.model, starts)


def step_lanes(
    environment: DeviceEnvironment, models: Models, state: Any, action: Array
) -> tuple[Any, Array]:
    """`step` of B lanes; actions `[B, A]`, rewards `[B]`."""
    return jax.vmap(environment.step, (models.axes, 0, 0))(models.model, state, action)
