"""Episodes shared out over devices and processes.

Episodes are run in groups of as many as there are lanes. Which device runs a group changes
nothing in it: its seeds, its random numbers and its program are the same on each.
"""

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import numpy as np

from specmpc_jax import processes
from specmpc_jax.controller import Controller
from specmpc_jax.envs.batch import EnvironmentBatch
from specmpc_jax.evaluation.episodes import Episode, Rollouts
from specmpc_jax.evaluation.offsets import OffsetRecorder
from specmpc_jax.evaluation.rollout import run_episodes
from specmpc_jax.types import Array

Item = TypeVar("Item")
Result = TypeVar("Result")
# What one device works with: a context manager around (controller, lanes).
Bench = tuple[Controller, EnvironmentBatch]


def over_benches(
    run: Callable[[Bench, Item], Result],
    items: Sequence[Item],
    controller: Controller,
    make_lanes: Callable[[], EnvironmentBatch],
    devices: Sequence[jax.Device],
) -> list[Result]:
    """Runs every item on one of this process's devices, each in a thread with own lanes.

    Args:
      run: does one item with a controller on its device, and with lanes.
      items: what to do; the n-th goes to device n modulo their number.
      controller: copied to each device.
      make_lanes: makes the lanes of one device, which are closed at the end.
      devices: of this process.

    Returns:
      Results in the order of the items.
    """
    devices = devices[: len(items)]
    failed = threading.Event()

    def work(number: int, device: jax.Device) -> list[Result]:
        done = []
        try:
            with jax.default_device(device), make_lanes() as lanes:
                bench = (controller.on(device), lanes)
                for item in items[number :: len(devices)]:
                    if failed.is_set():
                        break
                    done.append(run(bench, item))
        except BaseException:
            failed.set()
            raise
        return done

    if not devices:
        return []
    with ThreadPoolExecutor(len(devices)) as threads:
        futures = [threads.submit(work, *each) for each in enumerate(devices)]
        results = [future.result() for future in futures]
    return [results[n % len(devices)][n // len(devices)] for n in range(len(items))]


def run_sharded(
    controller: Controller,
    make_lanes: Callable[[], EnvironmentBatch],
    num_lanes: int,
    env_seeds: Sequence[int],
    key: Array,
    devices: Sequence[jax.Device],
    advance: Callable[[int], None] | None = None,
    recorder: OffsetRecorder | None = None,
) -> Rollouts:
    """Runs one episode for each environment seed, over the devices of all processes.

    Args:
      controller: what acts.
      make_lanes: makes `num_lanes` lanes.
      num_lanes: B, of one device.
      env_seeds: environment seeds.
      key: not consumed, see `run_episodes`.
      devices: of this process.
      advance: called with the number of agent steps just done in this process.
      recorder: gets what happened at each offset, in every process.

    Returns:
      All episodes in the order of the seeds, in every process; and the latencies of this
      process's own episodes, measured while its devices were all at work.
    """
    groups = in_groups(env_seeds, num_lanes)
    own = groups[jax.process_index() :: jax.process_count()]

    def run(bench: Bench, seeds: Sequence[int]) -> tuple[Rollouts, OffsetRecorder]:
        own = OffsetRecorder()
        observe = None if recorder is None else own.observe
        return run_episodes(*bench, seeds, key, observe, one_at_a_time(advance)), own

    done = over_benches(run, own, controller, make_lanes, devices)
    told = processes.gather(
        [([vars(e) for e in part.episodes], seen.steps.tolist()) for part, seen in done]
    )
    result = Rollouts([], [])
    for number in range(len(groups)):
        rows, steps = told[number % len(told)][number // len(told)]
        result.episodes += [Episode(**row) for row in rows]
        if recorder is not None:
            recorder.take(np.asarray(steps))
    for part, _ in done:
        result.latencies += part.latencies
    result.first_latency = done[0][0].first_latency if done else math.nan
    return result


def in_groups(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Successive groups of `size` items, the last one perhaps smaller."""
    return [items[start : start + size] for start in range(0, len(items), size)]


_advancing = threading.Lock()


def one_at_a_time(advance: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """Progress that threads may report without getting in each other's way."""
    if advance is None:
        return None

    def guarded(*arguments: Any) -> None:
        with _advancing:
            advance(*arguments)

    return guarded
