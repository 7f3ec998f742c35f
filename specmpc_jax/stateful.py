"""Controllers as callables that remember where they are, for scripts and notebooks."""

import abc
from typing import Any, Generic, TypeVar

import jax
import numpy as np
from jax.typing import ArrayLike

from specmpc_jax.types import Array

State = TypeVar("State")
Info = TypeVar("Info")


class StatefulCalls(abc.ABC, Generic[State, Info]):
    """Adds `action, info = controller(observation)` to a controller of explicit states.

    The state between two calls is kept on the object, one episode at a time. Several
    environments, threads, or states to go back to are what `initial_state` and `act` are
    for; those never touch what is kept here.
    """

    _kept: State | None = None
    _seed = 0

    def reset(self, seed: int | None = None) -> None:
        """Forgets the episode; the next call begins another, with nothing to start a plan from.

        Args:
          seed: of the random numbers of that episode; one more than that of the last
            if None. The first episode has seed 0 and needs no reset.
        """
        if seed is not None:
            self._seed = seed
        elif self._kept is not None:
            self._seed += 1
        self._kept = None

    def __call__(self, observation: ArrayLike) -> tuple[Array, Info]:
        """Chooses the action for the next observation of the episode.

        Args:
          observation: as for `act`; that of an episode's first step decides whether there
            is a batch axis.

        Returns:
          The action and the info of `act`.

        Raises:
          UserError: as `act`; the episode can go on with a better observation.
        """
        if self._kept is None:
            key = jax.random.key(self._seed)
            self._kept = self._first_state(key, np.shape(observation))
        action, self._kept, info = self.act(observation, self._kept)
        return action, info

    def _first_state(self, key: Array, shape: tuple[int, ...]) -> State:
        """State before an episode whose observations have this shape."""
        return self.initial_state(key)

    @abc.abstractmethod
    def initial_state(self, key: Array) -> State:
        """State before an episode's first step."""

    @abc.abstractmethod
    def act(self, observation: ArrayLike, state: State) -> tuple[Array, State, Any]:
        """Chooses the action for an observation."""
