"""Ahead-of-time compilation and the cache of compiled programs, counted rather than timed."""

import contextlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from models import tiny_agent
from specmpc_jax.controller import Controller

ROOT = Path(__file__).parents[1]
WORK = ("jaxpr_trace_duration", "jaxpr_to_mlir_module_duration", "backend_compile_duration")

# Prints how many compiled programs came from the cache, were asked of it, and its directory.
SCRIPT = """
import sys
from collections import Counter

import jax

import specmpc_jax as sm

events = Counter()
jax.monitoring.register_event_listener(lambda event, **_: events.update([event.split("/")[-1]]))
jax.numpy.zeros(3).sum()  # compiled before, and so not kept
directory = sm.enable_compilation_cache(*sys.argv[1:])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: jax.numpy.sort(x) + 1)(jax.numpy.arange(5.0)).block_until_ready()
print(events["cache_hits"], events["cache_misses"], directory)
"""


@contextlib.contextmanager
def counted() -> Iterator[Counter]:
    """Counts traces, lowerings and compilations of the process while the block runs."""
    counts: Counter = Counter()
    running = True

    def listen(event: str, duration: float, **_: object) -> None:
        name = event.split("/")[-1]
        if running and name in WORK:
            counts[name] += 1

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield counts
    running = False  # listeners cannot be taken back


def first_steps(controller, batch_size, key):
    observation = np.full((4,) if batch_size is None else (batch_size, 4), 0.2, np.float32)
    state = controller.initial_state(key, batch_size)
    for _ in range(4):
        action, state, info = controller.act(observation, state)
    return np.asarray(action)


@pytest.mark.parametrize(
    ("batch_size", "options"), [(None, {"exec_horizon": 2}), (2, {"use_planner": False})]
)
def test_nothing_compiles_after_compile(batch_size, options):
    # A planner of a size that no other test uses, so that nothing is compiled already.
    controller = tiny_agent().with_planner(horizon=1, num_samples=17).controller(**options)
    key = jax.random.key(3)
    with counted() as before:
        assert controller.compile(batch_size) is controller
    assert all(before[name] > 0 for name in WORK)  # or counting counts nothing
    with counted() as after:
        first_steps(controller, batch_size, key)
    assert not after


def test_parameters_tied_to_a_device_compile_in_advance_too():
    """States that steps return are tied to it as well, the first is not: two programs."""
    controller = tiny_agent().with_planner(num_samples=18).controller(use_planner=False)
    arrays = jax.device_put(controller.arrays, jax.devices()[-1])
    tied = Controller(controller.program, arrays).compile()
    with counted() as after:
        first_steps(tied, None, jax.random.key(3))
    assert not after


def test_agents_compile_for_all_their_tasks():
    agent = tiny_agent(task_dim=8, tasks=("a", "b"), action_dims=(2, 1))
    agent = agent.with_planner(horizon=1)
    key, observation = jax.random.key(0), np.zeros(4, np.float32)
    assert agent.compile() is agent
    with counted() as after:
        for task in ("a", "b"):
            state = agent.initial_state(key)
            for _ in range(2):
                _, state, _ = agent.act(observation, state, task=task)
    assert not after


def start(*arguments: str, home: Path) -> tuple[int, int, str]:
    kept = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    environment = {**kept, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(home)}
    command = [sys.executable, "-c", SCRIPT, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    hits, misses, directory = result.stdout.split(maxsplit=2)
    return int(hits), int(misses), directory.strip()


def test_a_second_start_finds_the_programs_of_the_first(tmp_path):
    hits, misses, directory = start(home=tmp_path)
    assert hits == 0 and misses > 0
    assert Path(directory).parent == tmp_path / "specmpc_jax"
    again = start(home=tmp_path)
    assert again == (misses, 0, directory)
    elsewhere = start(str(tmp_path / "mine"), home=tmp_path)
    assert elsewhere == (0, misses, str(tmp_path / "mine"))


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / "specmpc_jax").write_text("a file where the directory should be")
    assert start(home=tmp_path)[2] == "None"
