"""Episodes of a controller in environments stepped from Python."""

import itertools
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from specmpc_jax.controller import Controller
from specmpc_jax.envs.batch import EnvironmentBatch
from specmpc_jax.evaluation.episodes import Ledger, Rollouts, Step
from specmpc_jax.types import Array


def run_episodes(
    controller: Controller,
    environments: EnvironmentBatch,
    env_seeds: Sequence[int],
    key: Array,
    observe: Callable[[Step], None] | None = None,
    advance: Callable[[int], None] | None = None,
    max_steps: int | None = None,
) -> Rollouts:
    """Runs one episode for each environment seed.

    Args:
      controller: what acts.
      environments: lanes that are stepped side by side; with a single lane the
        controller is called unbatched.
      env_seeds: environment seeds, run in order, as many at a time as there
        are lanes.
      key: not consumed; each episode folds its environment seed in, so its
        random numbers do not depend on the number of lanes.
      observe: called after each step.
      advance: called with the number of agent steps just done, over all lanes.
      max_steps: cut episodes off after so many agent steps; None runs them whole.

    Returns:
      Episodes in the order of the seeds.
    """
    lanes = len(environments)
    result = Rollouts([], [])
    for start in range(0, len(env_seeds), lanes):
        wanted = list(env_seeds[start : start + lanes])
        # A last, smaller group repeats its seeds: a smaller batch would compile anew.
        seeds = [wanted[i % len(wanted)] for i in range(lanes)]
        _run_group(
            controller, environments, seeds, len(wanted), key, result, observe, advance, max_steps
        )
    return result


def _run_group(
    controller: Controller,
    environments: EnvironmentBatch,
    seeds: list[int],
    wanted: int,
    key: Array,
    result: Rollouts,
    observe: Callable[[Step], None] | None,
    advance: Callable[[int], None] | None,
    max_steps: int | None,
) -> None:
    """Runs one episode a lane, and keeps the first `wanted` of them."""
    observation = environments.reset(seeds)
    single = len(environments) == 1
    keys = jax.vmap(lambda seed: jax.random.fold_in(key, seed))(np.asarray(seeds, np.uint32))
    state = controller.initial_state(keys[0] if single else keys)
    ledger = Ledger(seeds[:wanted], controller.program.use_planner)
    for count in itertools.count():
        active = environments.active
        if not active[:wanted].any() or count == max_steps:
            break
        begin = time.perf_counter()
        acted, state, info = controller.act(observation[0] if single else observation, state)
        action = np.asarray(acted)
        elapsed = time.perf_counter() - begin
        if np.isnan(result.first_latency):
            result.first_latency = elapsed
        else:
            result.latencies.append(elapsed)
        if single:
            action = action[None]
        transition = environments.step(action)
        ledger.take(
            active,
            action,
            transition.reward,
            transition.success,
            np.atleast_1d(info.outcome),
            np.atleast_1d(info.decision),
        )
        if observe is not None:
            lifted = jax.tree.map(lambda leaf: leaf[None], (info, state)) if single else None
            info, seen = lifted or (info, state)
            kept = active & (np.arange(len(seeds)) < wanted)
            observe(Step(kept, seeds, count, action, transition.reward, info, seen))
        if advance is not None:
            advance(int(active[:wanted].sum()))
        observation = transition.observation
    result.episodes.extend(ledger.finish())
