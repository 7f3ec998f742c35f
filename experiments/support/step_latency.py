"""Latency of one control step by what the step does: accept, correct, refine or replan."""

import time
from typing import Any

import jax
import numpy as np

from experiments.support import timing
from specmpc_jax.agent import Agent
from specmpc_jax.config import CorrectorConfig
from specmpc_jax.controller import Controller
from specmpc_jax.correctors import registry
from specmpc_jax.correctors.corrector import Corrector
from specmpc_jax.speculation.decisions import Outcome
from specmpc_jax.types import Array

EXEC_HORIZON = 3
STEPS = ("accept", "correct", "refine", "replan")
COLUMNS = (
    "model_size", "step", "calls", "p50_ms", "p95_ms", "p99_ms", "mean_ms", "first_call_s"
)  # fmt: skip


def measure(
    agent: Agent, task: str | None, key: Array, rounds: int, time_budget_s: float
) -> list[dict[str, Any]]:
    """Steps three controllers side by side through random observations.

    Controllers execute blocks of `EXEC_HORIZON` steps: one accepts what its plan says, one
    has a two-tower corrector with random weights, one refines by a short replan. "replan"
    are the steps at which the first of them makes its plans.

    Args:
      agent: the teacher, with its planner.
      task: multi-task teachers only.
      key: consumed; draws the corrector, the observations and the planners' noise.
      rounds: most steps of each controller.
      time_budget_s: seconds after which no further step is begun; two blocks are run anyway.

    Returns:
      One row a kind of step, in milliseconds from the observation to the action.
    """
    observation_key, state_key, corrector_key = jax.random.split(key, 3)
    observations = _observations(agent, observation_key, rounds + 1)
    controllers = {
        "accept": agent.controller(EXEC_HORIZON, tau_accept=np.inf, task=task),
        "correct": agent.controller(
            EXEC_HORIZON, _random_corrector(agent, corrector_key), task=task
        ),
        "refine": agent.controller(EXEC_HORIZON, "refine", task=task),
    }
    runs = {
        name: _Run(controller, jax.random.fold_in(state_key, i))
        for i, (name, controller) in enumerate(controllers.items())
    }
    for run in runs.values():
        run.step(observations[0])
    begin = time.perf_counter()
    for i, observation in enumerate(observations[1:]):
        if i >= 2 * EXEC_HORIZON and time.perf_counter() - begin > time_budget_s:
            break
        for run in runs.values():
            run.step(observation)
    outcomes = dict(accept=Outcome.ACCEPT, correct=Outcome.CORRECT, refine=Outcome.CORRECT)
    rows = []
    for step in STEPS:
        run = runs.get(step, runs["accept"])
        latencies = run.latencies[outcomes.get(step, Outcome.REPLAN)]
        rows.append(
            {
                "model_size": agent.config.model_size,
                "step": step,
                **timing.summary(np.array(latencies)),
                "first_call_s": run.first_call,
            }
        )
    return rows


class _Run:
    """A controller, its state, and the seconds that its steps took, by outcome."""

    def __init__(self, controller: Controller, key: Array):
        self._controller = controller
        self._state = controller.initial_state(key)
        self.first_call: float | None = None  # compilation included
        self.latencies: dict[int, list[float]] = {outcome: [] for outcome in Outcome}

    def step(self, observation: np.ndarray) -> None:
        """Acts once, and times it."""
        start = time.perf_counter()
        action, self._state, info = self._controller.act(observation, self._state)
        np.asarray(action)
        elapsed = time.perf_counter() - start
        if self.first_call is None:
            self.first_call = elapsed
        else:
            self.latencies[int(info.outcome)].append(elapsed)


def _observations(agent: Agent, key: Array, count: int) -> np.ndarray:
    shape = (count, *agent.config.observation_shape)
    if agent.config.observation == "rgb":
        return np.asarray(jax.random.randint(key, shape, 0, 256)).astype(np.uint8)
    return np.asarray(jax.random.normal(key, shape))


def _random_corrector(agent: Agent, key: Array) -> Corrector:
    model = agent.config
    config = CorrectorConfig(latent_dim=model.latent_dim, action_dim=model.action_dim)
    params = jax.jit(registry.init, static_argnums=0)(config, key)
    return Corrector(config, params, agent.fingerprint, quantiles={})
