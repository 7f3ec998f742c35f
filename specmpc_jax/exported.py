"""Controllers that were exported as programs: loading and running them.

An exported controller is a directory of StableHLO programs, their arrays and a
manifest, written by `exporting.export_controller`. Its programs take and
return arrays and dicts of named arrays, so they run without this library, as
`docs/examples/control_exported.py` does; this module adds checks.
"""

import struct
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from specmpc_jax import files
from specmpc_jax.checkpointing import file_sha256
from specmpc_jax.errors import UserError
from specmpc_jax.stateful import StatefulCalls
from specmpc_jax.types import Array

KIND = "exported_controller"
FORMAT = 1
MANIFEST = "manifest.json"
ARRAYS = "arrays.npz"

# What JAX raises on programs in a format that it does not know.
_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, RuntimeError, struct.error)

NamedArrays = dict[str, Array]


class ExportedController(StatefulCalls[NamedArrays, NamedArrays]):
    """Acts like `Controller`, with states and infos as dicts of named arrays.

    `manifest` is what `manifest.json` holds: task, shapes, settings, teacher.
    """

    def __init__(
        self,
        manifest: dict[str, Any],
        programs: dict[str, jax.export.Exported],
        arrays: dict[str, np.ndarray],
    ):
        self.manifest = manifest
        self.arrays = jax.tree.map(jnp.asarray, arrays)
        self._programs = {name: jax.jit(program.call) for name, program in programs.items()}
        self._signatures = {name: program.in_avals for name, program in programs.items()}

    @property
    def batch_size(self) -> int | None:
        """Number of environments stepped side by side; None without a batch axis."""
        return self.manifest["batch_size"]

    def initial_state(self, key: Array) -> NamedArrays:
        """State before an episode's first step; `key` as in `Controller.initial_state`."""
        return self._programs["initial_state"](key)

    def act(
        self, observation: ArrayLike, state: NamedArrays
    ) -> tuple[Array, NamedArrays, NamedArrays]:
        """Chooses the action for an observation; see `Controller.act`.

        Unlike there, the last state stays usable.

        Returns:
          Action `[A]` or `[B, A]`, the next state, and the info with
          "outcome", "block_end", "mismatch" and "planned/...".

        Raises:
          UserError: if the observation's shape is not the one exported for.
        """
        return self._programs["step"](self.arrays, state, self._checked(observation))

    def plan(self, observation: ArrayLike, warm_start: ArrayLike, key: Array) -> NamedArrays:
        """Encodes an observation and plans from it, without an executor.

        Args:
          observation: as for `act`.
          warm_start: `[H, A]` or `[B, H, A]`; zeros at an episode's start.
          key: consumed; one key, split over a batch.

        Returns:
          The fields of a `Plan`.

        Raises:
          UserError: if the controller does not plan.
        """
        if "plan" not in self._programs:
            raise UserError("this controller acts with its policy prior and has no planner")
        return self._programs["plan"](self.arrays, self._checked(observation), warm_start, key)

    def _checked(self, observation: ArrayLike) -> Array | np.ndarray:
        expected = self._signatures["step"][-1]
        if np.shape(observation) != expected.shape:
            raise UserError(
                f"the observation has shape {np.shape(observation)}, but this controller was "
                f"exported for {expected.shape}"
            )
        if isinstance(observation, jax.Array):
            return observation.astype(expected.dtype)
        # A copy: callers may write into theirs while the program runs.
        return np.array(observation, expected.dtype)


def load_exported(path: files.PathLike) -> ExportedController:
    """Loads a controller that `export_controller` wrote; no code of a model runs.

    Raises:
      UserError: if the directory holds none, it is damaged, was exported for
        other platforms, or by a JAX whose programs this one does not read.
    """
    directory = files.existing_path(path)
    if not (directory / MANIFEST).is_file():
        raise UserError(f"{path} is no exported controller: it has no {MANIFEST}")
    manifest = files.read_json(directory / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        raise UserError(f"{path} is no exported controller: its {MANIFEST} is of another kind")
    if manifest.get("format") != FORMAT:
        raise UserError(
            f"{path} has format {manifest.get('format')}, this version reads {FORMAT}; export again"
        )
    try:
        names, checksums = manifest["programs"].keys(), manifest["checksums"]
        platforms, version = manifest["platforms"], manifest["jax_version"]
        programs = {name: manifest["programs"][name]["file"] for name in names}
        manifest["batch_size"]
    except (LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path} has a damaged {MANIFEST}: {error!r}") from error
    for name in (ARRAYS, *programs.values()):
        _check_file(directory, name, checksums.get(name))
    here = jax.export.default_export_platform()
    if here not in platforms:
        raise UserError(f"{path} was exported for {', '.join(platforms)}, but JAX runs on {here}")
    read = {name: _deserialize((directory / file).read_bytes()) for name, file in programs.items()}
    loaded = {name: program for name, program in read.items() if program is not None}
    if loaded.keys() != read.keys():
        raise UserError(
            f"{path} was exported with JAX {version}, which JAX {jax.__version__} does not read; "
            "export again"
        )
    with np.load(directory / ARRAYS, allow_pickle=False) as archive:
        arrays = dict(archive)
    return ExportedController(manifest, loaded, arrays)


def _deserialize(program: bytes) -> jax.export.Exported | None:
    """Reads a program; None if this JAX does not know its format."""
    try:
        exported = jax.export.deserialize(bytearray(program))
    except _UNREADABLE:
        return None
    first = jax.export.minimum_supported_calling_convention_version
    last = jax.export.maximum_supported_calling_convention_version
    return exported if first <= exported.calling_convention_version <= last else None


def _check_file(directory: Path, name: str, checksum: str | None) -> None:
    file = files.inside(directory, name)
    if not file.is_file():
        raise UserError(f"{directory} is incomplete: {name} is missing")
    if file_sha256(file) != checksum:
        raise UserError(f"{directory} is damaged: {name} is not as it was exported")
