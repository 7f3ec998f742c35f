"""Writing a controller as StableHLO programs that run without this library.

Parameters are arguments of the programs and lie beside them in one file, so
programs stay small and arrays are read without unpickling anything.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

from specmpc_jax import files
from specmpc_jax.checkpointing import file_sha256, fingerprint, named_leaves
from specmpc_jax.config import CorrectorConfig, to_json
from specmpc_jax.controller import (
    Controller,
    control_step,
    initial_state,
    plan_from_latent,
)
from specmpc_jax.correctors import unlearned
from specmpc_jax.errors import UserError
from specmpc_jax.exported import ARRAYS, FORMAT, KIND, MANIFEST, NamedArrays
from specmpc_jax.types import Array
from specmpc_jax.world_model import WorldModel

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


@dataclasses.dataclass(frozen=True)
class _Program:
    """A function of arrays and dicts of named arrays, with examples of its arguments."""

    function: Callable[..., Any]
    arguments: Mapping[str, Any]  # by name, in order; leaves have shape and dtype
    results: tuple[str, ...]


def export_controller(
    controller: Controller,
    path: files.PathLike,
    batch_size: int | None = None,
    platforms: Sequence[str] = ("cpu", "cuda"),
    record: Mapping[str, Any] | None = None,
    *,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes a controller's programs, arrays and manifest into a directory, whole or not at all.

    The programs, each a file `<name>.stablehlo` for `jax.export.deserialize`:

        initial_state(key) -> state
        step(arrays, state, observation) -> action, state, info
        plan(arrays, observation, warm_start, key) -> plan

    where `arrays`, `state`, `info` and `plan` are dicts of arrays, and keys
    are typed. `plan` is left out where the policy prior acts. No argument is
    donated.

    Args:
      controller: what to export, with its thresholds and task.
      path: directory to make.
      batch_size: lanes of the programs; None for no batch axis.
      platforms: what the programs shall run on, of "cpu", "cuda", "rocm" and
        "tpu"; none has to be present.
      record: further JSON values for the manifest.
      overwrite: replace what is at `path`.

    Returns:
      The manifest.

    Raises:
      UserError: if the path is taken and `overwrite` is not set, or a platform
        or the batch size is impossible.
    """
    path = Path(path).absolute()
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists already; choose another path or ask to overwrite it")
    unknown = sorted(set(platforms) - set(PLATFORMS))
    if unknown or not platforms:
        raise UserError(f"platforms are {', '.join(PLATFORMS)}; got {', '.join(unknown) or 'none'}")
    if batch_size is not None and batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; it must be at least 1")
    arrays = _used_arrays(controller, batch_size)
    programs = _programs(controller, arrays, batch_size)
    with files.atomic_directory(path) as new:
        new.mkdir()
        described = {name: _export(new, name, p, platforms) for name, p in programs.items()}
        np.savez(new / ARRAYS, **cast(dict[str, Any], jax.tree.map(np.asarray, arrays)))
        manifest = files.to_plain(
            {
                "kind": KIND,
                "format": FORMAT,
                **_describe(controller),
                "batch_size": batch_size,
                "platforms": list(platforms),
                "jax_version": jax.__version__,
                "programs": described,
                "arrays": _shapes(arrays),
                "checksums": {file.name: file_sha256(file) for file in sorted(new.iterdir())},
                "record": dict(record or {}),
            }
        )
        files.write_json(new / MANIFEST, manifest)
    return manifest


def _programs(
    controller: Controller, arrays: NamedArrays, batch_size: int | None
) -> dict[str, _Program]:
    """The programs by name; `arrays` may lack those of the controller that nothing reads."""
    program, model = controller.program, controller.program.model
    own = dict(named_leaves(controller.arrays))
    arrays_of = jax.tree.structure(controller.arrays)

    def start(key: Array) -> Any:
        return initial_state(
            program, key if batch_size is None else jax.random.split(key, batch_size)
        )

    def bind(arrays: NamedArrays) -> Any:
        leaves = [arrays.get(name, leaf) for name, leaf in own.items()]
        return jax.tree.unflatten(arrays_of, leaves)

    key = jax.eval_shape(lambda: jax.random.key(0))
    structured = jax.eval_shape(start, key)
    state = dict(named_leaves(structured))
    state_of = jax.tree.structure(structured)

    def step(
        arrays: NamedArrays, state: NamedArrays, observation: Array
    ) -> tuple[Array, NamedArrays, NamedArrays]:
        leaves = [state[name] for name, _ in named_leaves(structured)]
        before = jax.tree.unflatten(state_of, leaves)
        action, after, info = control_step(program, bind(arrays), before, observation)
        return action, dict(named_leaves(after)), dict(named_leaves(info))

    def plan(arrays: NamedArrays, observation: Array, warm_start: Array, key: Array) -> NamedArrays:
        bound = bind(arrays)
        z = WorldModel(model).encode(bound.params, observation, bound.task)
        result = plan_from_latent(
            model, program.planner, program.explore, bound.planning, z, key, warm_start, bound.task
        )
        return dict(named_leaves(result))

    lead = () if batch_size is None else (batch_size,)
    dtype = np.uint8 if model.observation == "rgb" else np.float32
    observation = jax.ShapeDtypeStruct((*lead, *model.observation_shape), dtype)
    warm_start = jax.ShapeDtypeStruct(
        (*lead, program.planner.horizon, model.action_dim), np.float32
    )
    programs = {
        "initial_state": _Program(
            lambda key: dict(named_leaves(start(key))), {"key": key}, ("state",)
        ),
        "step": _Program(
            step,
            {"arrays": arrays, "state": state, "observation": observation},
            ("action", "state", "info"),
        ),
    }
    if program.use_planner:
        programs["plan"] = _Program(
            plan,
            {"arrays": arrays, "observation": observation, "warm_start": warm_start, "key": key},
            ("plan",),
        )
    return programs


def _used_arrays(controller: Controller, batch_size: int | None) -> NamedArrays:
    """The arrays that a program reads; planning has its own layout of most of a model's."""
    own = dict(named_leaves(controller.arrays))
    used: set[str] = set()
    for program in _programs(controller, own, batch_size).values():
        if "arrays" not in program.arguments:
            continue
        jaxpr = jax.make_jaxpr(program.function)(*program.arguments.values()).jaxpr
        read = {id(variable) for equation in jaxpr.eqns for variable in equation.invars}
        # Dicts are flattened in the order of their keys, and `arrays` is the first argument.
        used |= {
            name
            for name, variable in zip(sorted(own), jaxpr.invars, strict=False)
            if id(variable) in read
        }
    return {name: leaf for name, leaf in own.items() if name in used}


def _export(
    directory: Path, name: str, program: _Program, platforms: Sequence[str]
) -> dict[str, Any]:
    """Writes one program and returns its entry in the manifest."""
    traced = jax.export.export(jax.jit(program.function), platforms=list(platforms))
    exported = traced(*program.arguments.values())
    file = directory / f"{name}.stablehlo"
    file.write_bytes(exported.serialize())
    results = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    if len(program.results) == 1:
        results = (results,)
    return {
        "file": file.name,
        "inputs": {
            argument: "see arrays" if argument == "arrays" else _shapes(value)
            for argument, value in program.arguments.items()
        },
        "outputs": dict(zip(program.results, map(_shapes, results), strict=True)),
    }


def _describe(controller: Controller) -> dict[str, Any]:
    """What the programs are, in the manifest."""
    program, arrays = controller.program, controller.arrays
    corrector: dict[str, Any] | None = None
    if program.corrector is not None:
        corrector = to_json(program.corrector)
        if isinstance(program.corrector, CorrectorConfig):
            corrector["fingerprint"] = fingerprint(arrays.corrector)
        else:
            corrector["kind"] = unlearned.kind(program.corrector)
    return {
        "task": program.model.tasks[int(arrays.task)],
        "teacher": fingerprint(arrays.params),
        "observation": program.model.observation,
        "observation_shape": program.model.observation_shape,
        "action_dim": program.model.action_dim,
        "use_planner": program.use_planner,
        "explore": program.explore,
        "planner": to_json(program.planner),
        "speculation": to_json(program.speculation),
        "thresholds": arrays.thresholds,
        "corrector": corrector,
    }


def _shapes(tree: Any) -> Any:
    """An array, or a dict of arrays, as shapes and dtypes."""
    if isinstance(tree, dict):
        return {name: _shapes(leaf) for name, leaf in tree.items()}
    return {"shape": list(tree.shape), "dtype": str(tree.dtype)}
