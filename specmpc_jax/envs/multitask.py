"""Environments in the shapes that a model expects: padded for multi-task ones, or pixels."""

import dataclasses

import numpy as np

from specmpc_jax.config import ModelConfig
from specmpc_jax.envs import registry
from specmpc_jax.envs.batch import EnvironmentBatch
from specmpc_jax.envs.protocol import Environment, EnvironmentSpec, Transition
from specmpc_jax.errors import UserError


class PaddedEnvironment:
    """A task among wider ones; see `protocol.Environment`.

    Observations get zeros at their end, and of an action `[A]` only the dimensions
    that the task has are looked at (spec section 2).
    """

    def __init__(self, environment: Environment, observation_dim: int, action_dim: int) -> None:
        """Takes ownership of a state environment.

        Raises:
          UserError: if it is wider than it is to be.
        """
        own = environment.spec
        (self._observation_dim,) = own.observation_shape
        if self._observation_dim > observation_dim or own.action_dim > action_dim:
            raise UserError(
                f"{own.task} has {self._observation_dim} observation and {own.action_dim} action "
                f"dimensions; the model has {observation_dim} and {action_dim}"
            )
        self._environment = environment
        self._spec = dataclasses.replace(
            own, observation_shape=(observation_dim,), action_dim=action_dim
        )

    @property
    def spec(self) -> EnvironmentSpec:
        """Fixed facts of the environment."""
        return self._spec

    def reset(self, seed: int | None = None) -> np.ndarray:
        """Starts an episode and returns its padded observation."""
        return self._pad(self._environment.reset(seed))

    def step(self, action: np.ndarray) -> Transition:
        """Executes the task's part of an action `[A]`."""
        if np.shape(action) != (self._spec.action_dim,):
            raise UserError(
                f"action has shape {np.shape(action)}; this model's have {(self._spec.action_dim,)}"
            )
        used = np.asarray(action)[: self._environment.spec.action_dim]
        transition = self._environment.step(used)
        return transition._replace(observation=self._pad(transition.observation))

    def render(self, height: int = 384, width: int = 384) -> np.ndarray:
        """Returns a picture of the scene, `[height, width, 3]` uint8."""
        return self._environment.render(height, width)

    def close(self) -> None:
        """Closes the environment underneath."""
        self._environment.close()

    def _pad(self, observation: np.ndarray) -> np.ndarray:
        missing = self._spec.observation_shape[0] - self._observation_dim
        return np.pad(observation, (0, missing))


def make_for(model: ModelConfig, task: str) -> Environment:
    """Makes the environment of a task as a model sees it.

    Args:
      model: states or pixels; a multi-task model gets padded states.
      task: see `registry.make`.

    Raises:
      UserError: as `registry.make`; if the model's shapes are not the task's.
    """
    environment = registry.make(task, model.observation)
    if model.multitask:
        return PaddedEnvironment(environment, model.observation_shape[0], model.action_dim)
    spec = environment.spec
    made = (spec.observation_shape, spec.action_dim)
    if made != (model.observation_shape, model.action_dim):
        environment.close()
        raise UserError(
            f"{task} has observations {made[0]} and actions {made[1:]}; the model was trained on "
            f"observations {model.observation_shape} and actions {(model.action_dim,)}"
        )
    return environment


def make_batch_for(
    model: ModelConfig, task: str, num_envs: int, backend: str = "mujoco"
) -> EnvironmentBatch:
    """Makes several environments of one task as a model sees it.

    Args:
      model: as for `make_for`.
      task: as for `make_for`.
      num_envs: B.
      backend: as for `registry.make_batch`. On MJX an episode of a seed begins as the
        suite's of that seed does.

    Raises:
      UserError: as `make_for`; if the model is multi-task and the backend MJX.
    """
    if backend == "mujoco":
        return EnvironmentBatch([make_for(model, task) for _ in range(num_envs)])
    check_backend(model, task, backend)
    return registry.make_batch(task, num_envs, model.observation, backend, suite_starts=True)


def check_backend(model: ModelConfig, task: str, backend: str) -> None:
    """Says early what cannot be made.

    Raises:
      UserError: as `make_batch_for`.
    """
    spec_for(model, task)
    if backend == "mujoco":
        return
    if model.multitask:
        raise UserError("the backend mjx takes single-task teachers only")
    registry.make_batch(task, 1, model.observation, backend).close()


def spec_for(model: ModelConfig, task: str) -> EnvironmentSpec:
    """Facts of a task as a model sees it; says early what cannot be made."""
    environment = make_for(model, task)
    try:
        return environment.spec
    finally:
        environment.close()
