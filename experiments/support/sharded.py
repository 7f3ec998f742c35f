"""The flag of binaries whose episodes may be shared out over devices and processes."""

from collections.abc import Callable
from typing import NoReturn

import jax
from absl import flags

from experiments.support import multihost
from specmpc_jax import processes

DEVICES = flags.DEFINE_integer(
    "devices",
    None,
    "Devices that share the episodes, in all processes together (default: one a process). A "
    "CPU is split into as many.",
    lower_bound=1,
)


def devices() -> list[jax.Device]:
    """This process's share of the devices.

    Raises:
      UserError: as `processes.devices_in_use`.
    """
    wanted = DEVICES.value or jax.process_count()
    own = jax.process_index()
    return [d for d in processes.devices_in_use(wanted) if d.process_index == own]


def run(main: Callable[[], None]) -> NoReturn:
    """`launch.run` for such a binary."""
    multihost.run(main, lambda: DEVICES.value)
