"""Several processes as one job: flags, start, and an end in one line when one of them is gone.

A job's processes are named by --coordinator_address, --num_processes and --process_id, or
by SLURM (`srun`). Each runs below a small supervisor: when JAX learns that another process
has died it aborts from native code with a stack trace, which no Python code can prevent; the
supervisor turns that into one line and exit status 1.
"""

import collections
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import NamedTuple, NoReturn

from absl import flags

from experiments.support import launch
from specmpc_jax.errors import UserError

COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "HOST:PORT of process 0, for a job of several processes."
)
NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "Processes of the job (default: SLURM's, else 1).", lower_bound=1
)
PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "This process's number, from 0 (default: SLURM's).", lower_bound=0
)
HEARTBEAT = flags.DEFINE_integer(
    "heartbeat_timeout",
    30,
    "Seconds of silence after which a process counts as dead.",
    lower_bound=5,
)
CONNECT = flags.DEFINE_integer(
    "connect_timeout", 300, "Seconds to wait for all processes at the start.", lower_bound=5
)

NATIVE_OUTPUT = flags.DEFINE_boolean(
    "native_output", False, "Show what native libraries say (Gloo, NCCL, XLA) as they say it."
)

# Set in a supervised process: file descriptors of its leash and of the real stderr.
_SUPERVISED = "SPECMPC_SUPERVISED"
_KEPT_LINES = 200
# What a child says to its supervisor on the way of native output.
_JOINED = "specmpc: joined the job"
# What JAX says before it aborts over another process.
_JAX_ABORTS = "distributed service"
_LOST = (
    "lost contact with another process of this job; look at its own output for the cause, then "
    "start all processes again with --resume"
)
# How JAX's collectives say that a peer has gone.
_PEER_IS_GONE = ("gloo", "nccl", "coordination service", "heartbeat")


class Job(NamedTuple):
    """This process's place; `coordinator` None where JAX asks SLURM itself."""

    coordinator: str | None
    num_processes: int
    process_id: int


def job(environment: Mapping[str, str] = os.environ) -> Job:
    """This process's place in its job, from the flags or from SLURM.

    Raises:
      UserError: if flags are missing or contradict each other.
    """
    address, count, number = COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value
    if address is None and count is None and number is None:
        tasks = int(environment.get("SLURM_NTASKS", "1"))
        # A batch script itself has these variables too, but no step of its own.
        if tasks > 1 and "SLURM_STEP_NODELIST" in environment and "SLURM_PROCID" in environment:
            return Job(None, tasks, int(environment["SLURM_PROCID"]))
        return Job(None, 1, 0)
    if count == 1 and not number:
        return Job(None, 1, 0)
    if address is None or count is None or number is None:
        raise UserError(
            "a job of several processes needs --coordinator_address, --num_processes and "
            "--process_id, all three"
        )
    if number >= count:
        raise UserError(
            f"process_id is {number}; with {count} processes it can be 0 to {count - 1}"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"coordinator_address is {address!r}; it must be HOST:PORT")
    return Job(address, count, number)


def run(main: Callable[[], None], world_size: Callable[[], int | None]) -> NoReturn:
    """`launch.run` for binaries that may be one process of a job.

    Args:
      main: the binary's work.
      world_size: reads off the flags how many devices are wanted in all processes together;
        None for as many as there are. A CPU is split into its share of them.
    """

    def before_devices() -> None:
        place = job()
        if place.num_processes > 1 and _SUPERVISED not in os.environ:
            _supervise()
        wanted = world_size()
        if wanted is not None:
            launch.use_virtual_cpu_devices(max(1, wanted // place.num_processes))
        if place.num_processes > 1:
            _hold_leash()
            _join(place)

    launch.run(lambda: _guarded(main) if job().num_processes > 1 else main(), before_devices)


def _join(place: Job) -> None:
    import jax

    if place.process_id:
        flags.FLAGS[launch.QUIET.name].value = True  # one process talks
    given = {
        "coordinator_address": place.coordinator,
        "num_processes": place.num_processes,
        "process_id": place.process_id,
    }
    try:
        jax.distributed.initialize(
            **(given if place.coordinator else {}),
            initialization_timeout=CONNECT.value,
            heartbeat_timeout_seconds=HEARTBEAT.value,
        )
    except (RuntimeError, ValueError) as error:
        _end(
            f"process {place.process_id} of {place.num_processes} could not join the job at "
            f"{place.coordinator or 'the address that SLURM gives'}: {error}"
        )
    os.write(2, f"{_JOINED}\n".encode())


def _guarded(main: Callable[[], None]) -> None:
    """Runs `main` so that its failure ends this process at once, without waiting for others."""
    try:
        main()
    except (UserError, OSError) as error:
        _end(str(error))
    except KeyboardInterrupt:
        _end("interrupted")
    except Exception as error:
        text = str(error).lower()
        from_jax = isinstance(error, (RuntimeError, ValueError))
        if from_jax and any(word in text for word in _PEER_IS_GONE):
            _end(_LOST)
        traceback.print_exc()
        _end("a bug, see above")


def _end(message: str) -> NoReturn:
    """Ends the process without JAX's farewell, which waits for the others."""
    sys.stdout.flush()
    print("error: " + " ".join(message.split()), file=sys.stderr, flush=True)
    os._exit(1)


def _supervise() -> NoReturn:
    """Runs this very command as a child, and ends as it ends."""
    leash, held = os.pipe()
    said, says = os.pipe()
    stderr = os.dup(sys.stderr.fileno())
    child = subprocess.Popen(
        [sys.executable, *sys.orig_argv[1:]],
        env=os.environ | {_SUPERVISED: f"{leash},{stderr}"},
        pass_fds=(leash, stderr),
        stderr=None if NATIVE_OUTPUT.value else says,
        start_new_session=True,  # Ctrl-C comes through the supervisor alone
    )
    for descriptor in (leash, says):
        os.close(descriptor)
    lines: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)
    reader = threading.Thread(target=_keep_lines, args=(said, lines), daemon=True)
    reader.start()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: child.send_signal(received))
    status = child.wait()
    reader.join(1.0)  # other processes may still hold the pipe
    os.close(held)
    if status == -signal.SIGABRT and (
        NATIVE_OUTPUT.value or any(_JAX_ABORTS in line for line in lines)
    ):
        if NATIVE_OUTPUT.value or any(_JOINED in line for line in lines):
            _end(_LOST)
        _end(
            f"not all {job().num_processes} processes came together at "
            f"{job().coordinator or 'the address that SLURM gives'} within {CONNECT.value} s; is "
            "process 0 there, and its port open?"
        )
    if status not in (0, 1):
        sys.stderr.writelines(lines)
    sys.stdout.flush()
    os._exit(status if status >= 0 else 128 - status)


def _keep_lines(descriptor: int, lines: collections.deque[str]) -> None:
    with os.fdopen(descriptor, errors="replace") as stream:
        for line in stream:
            # The one line that is never dropped for newer ones.
            joined = next((old for old in lines if _JOINED in old), None)
            lines.append(line)
            if joined and joined not in lines:
                lines[0] = joined


def _hold_leash() -> None:
    """Ends this process with its supervisor, and leaves native code a stderr of its own."""
    leash, stderr = map(int, os.environ[_SUPERVISED].split(","))
    sys.stderr = os.fdopen(stderr, "w", buffering=1)

    def watch() -> None:
        os.read(leash, 1)  # returns when the supervisor is gone
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
