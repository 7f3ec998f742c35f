"""Official TD-MPC2 checkpoints in, Flax parameters out, and back; the only part that needs torch.

`load_torch` is the whole way in one call; `python -m converters.convert` is
the binary on top of it.
"""

from typing import Any

from experiments.support import interrupts

__all__ = ["load_torch"]

interrupts.leave_at_once()


def __getattr__(name: str) -> Any:
    # Torch is optional and slow to import: binaries check their flags before it is loaded.
    if name == "load_torch":
        from converters.loading import load_torch

        return load_torch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
