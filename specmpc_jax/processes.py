"""What the processes of one job tell each other; with a single process, nothing.

All functions that hand values on, and `barrier`, are collective: every process has to call
them, in the same order. Values travel by the devices' own network.
"""

import io
import json
from collections.abc import Mapping
from typing import Any, cast

import jax
import numpy as np
from jax.experimental import multihost_utils

from specmpc_jax.errors import UserError


def gather(value: Any) -> list[Any]:
    """Every process's JSON value, by process."""
    if jax.process_count() == 1:
        return [value]
    return [json.loads(text) for text in _gather_bytes(json.dumps(value).encode())]


def gather_arrays(arrays: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Every process's named arrays, of any shapes, by process."""
    if jax.process_count() == 1:
        return [dict(arrays)]
    file = io.BytesIO()
    np.savez(file, **cast(dict[str, Any], arrays))
    files = (
        np.load(io.BytesIO(each), allow_pickle=False) for each in _gather_bytes(file.getvalue())
    )
    return [dict(file) for file in files]


def from_first(value: Any) -> Any:
    """Process 0's JSON value; what the others pass is not looked at."""
    return value if jax.process_count() == 1 else gather(value if is_first() else None)[0]


def tree_from_first(tree: Any) -> Any:
    """Process 0's arrays; the others pass arrays of the same shapes and dtypes."""
    if jax.process_count() == 1:
        return tree
    return multihost_utils.broadcast_one_to_all(jax.device_get(tree))


def barrier() -> None:
    """Waits until every process is here."""
    gather(None)


def is_first() -> bool:
    """Whether this is process 0, which writes what is written once."""
    return jax.process_index() == 0


def devices_in_use(world_size: int | None) -> list[jax.Device]:
    """As many devices of each process, ordered by process.

    Args:
      world_size: of all processes together; None takes all.

    Raises:
      UserError: if processes cannot share equally, or one has too few.
    """
    processes = jax.process_count()
    found = [
        sorted((d for d in jax.devices() if d.process_index == p), key=lambda d: d.id)
        for p in range(processes)
    ]
    if world_size is None:
        world_size = processes * min(map(len, found))
    if world_size < 1 or world_size % processes:
        raise UserError(
            f"world_size is {world_size}; it must be a multiple of the number of processes, "
            f"{processes}"
        )
    share = world_size // processes
    for process, devices in enumerate(found):
        if len(devices) < share:
            raise UserError(
                f"world_size {world_size} needs {share} devices in each process; process "
                f"{process} has {len(devices)} ({devices[0].device_kind})"
            )
    return [device for devices in found for device in devices[:share]]


def _gather_bytes(text: bytes) -> list[bytes]:
    """Every process's bytes, by process."""
    own = np.frombuffer(text, np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.array([own.size], np.int32)))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: own.size] = own
    texts = np.asarray(multihost_utils.process_allgather(padded)).reshape(sizes.size, -1)
    return [row[:size].tobytes() for row, size in zip(texts, sizes.reshape(-1), strict=True)]
