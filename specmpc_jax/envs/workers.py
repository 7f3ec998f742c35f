"""Environments that step in processes of their own.

The caller sends a command to one lane and goes on; it collects answers when they are there,
from all lanes or from those that happen to be done. One slow environment holds up nobody who
does not wait for it.
"""

import contextlib
import multiprocessing
from collections.abc import Callable
from multiprocessing import connection
from typing import Any, NamedTuple

import numpy as np

from specmpc_jax.envs.protocol import Environment, EnvironmentSpec, Transition
from specmpc_jax.errors import UserError

# How long a worker may take to end when it is told to, in seconds.
_END_SECONDS = 5.0


class Reply(NamedTuple):
    """A lane's answer: its first observation after a reset, or what a step led to."""

    lane: int
    observation: np.ndarray | None
    transition: Transition | None


class EnvironmentWorkers:
    """Lanes of one kind of environment, each in a process; closes them as a context manager.

    Workers end by themselves when the process that made them is gone.
    """

    def __init__(
        self, make: Callable[[], Environment], spec: EnvironmentSpec, num_lanes: int
    ) -> None:
        """Starts the processes; they build their environments meanwhile.

        Args:
          make: builds one environment; has to be picklable.
          spec: what it builds.
          num_lanes: B.

        Raises:
          UserError: if there is no lane.
        """
        if num_lanes < 1:
            raise UserError(f"num_envs is {num_lanes}; it must be at least 1")
        self.spec = spec
        # Forks of this process, whose JAX has threads, could deadlock; those of a small server
        # cannot. It imports no simulator, which may open a display that no fork survives.
        methods = multiprocessing.get_all_start_methods()
        context: Any = multiprocessing.get_context(
            "forkserver" if "forkserver" in methods else "spawn"
        )
        if context.get_start_method() == "forkserver":
            context.set_forkserver_preload(["__main__", __name__, "specmpc_jax.envs.registry"])
        self._pipes: list[Any] = []
        self._processes: list[Any] = []
        self._pending: set[int] = set()
        for lane in range(num_lanes):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(theirs, make), name=f"environment {lane}", daemon=True
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def __len__(self) -> int:
        return len(self._pipes)

    def __enter__(self) -> "EnvironmentWorkers":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def pending(self) -> frozenset[int]:
        """Lanes whose answer is still out."""
        return frozenset(self._pending)

    def reset(self, lane: int, seed: int | None) -> None:
        """Tells a lane to start an episode, as `Environment.reset`."""
        self._send(lane, ("reset", seed))

    def step(self, lane: int, action: np.ndarray) -> None:
        """Tells a lane to execute an action `[A]`, as `Environment.step`."""
        self._send(lane, ("step", np.asarray(action)))

    def receive(self, *, everyone: bool = False, wait: bool = True) -> list[Reply]:
        """Waits for answers.

        Args:
          everyone: wait for all pending lanes; else for one at least.
          wait: False only takes what is there already.

        Returns:
          Answers by ascending lane; none if nothing is pending.

        Raises:
          UserError: what an environment raised, or if a worker has died.
        """
        replies: list[Reply] = []
        while self._pending and (everyone or not replies):
            lanes = {self._pipes[lane]: lane for lane in self._pending}
            answering = connection.wait(list(lanes), None if wait else 0)
            replies += [self._reply(lanes[pipe]) for pipe in answering]
            if not wait and not answering:
                break
        return sorted(replies, key=lambda reply: reply.lane)

    def close(self) -> None:
        """Ends all workers; harmless when repeated."""
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.send(("close", None))
            pipe.close()
        for process in self._processes:
            process.join(_END_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()
        self._pipes, self._processes = [], []
        self._pending.clear()

    def _send(self, lane: int, command: tuple[str, Any]) -> None:
        if lane in self._pending:
            raise UserError(f"lane {lane} has not answered yet")
        try:
            self._pipes[lane].send(command)
        except OSError:
            raise self._dead(lane) from None
        self._pending.add(lane)

    def _reply(self, lane: int) -> Reply:
        try:
            kind, value = self._pipes[lane].recv()
        except (EOFError, OSError):
            raise self._dead(lane) from None
        self._pending.discard(lane)
        if kind == "mistake":
            raise UserError(f"environment {lane}: {value}")
        if kind == "error":
            raise RuntimeError(f"environment {lane}: {value}")
        return Reply(lane, *((value, None) if kind == "reset" else (None, value)))

    def _dead(self, lane: int) -> UserError:
        process = self._processes[lane]
        process.join(_END_SECONDS)
        return UserError(
            f"the process of environment {lane} of {self.spec.task} has ended "
            f"(exit code {process.exitcode}); out of memory, perhaps"
        )


def _serve(pipe: connection.Connection, make: Callable[[], Environment]) -> None:
    """A worker's life: commands in, answers out, until the pipe closes."""
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        environment = None
        answer: tuple[str, Any]
        while True:
            command, value = pipe.recv()
            if command == "close":
                break
            try:
                environment = make() if environment is None else environment
                if command == "reset":
                    answer = (command, environment.reset(value))
                else:
                    # Infos may hold anything; nobody here reads them.
                    answer = (command, environment.step(value)._replace(info={}))
            except UserError as error:
                answer = ("mistake", str(error))
            except Exception as error:  # whatever a simulator raises has to be told
                answer = ("error", f"{type(error).__name__}: {error}")
            pipe.send(answer)
        if environment is not None:
            environment.close()
