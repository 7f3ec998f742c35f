"""A model read from either side, described, compared and written to the other."""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import torch

from converters import conversion, loading, torch_reader
from converters.verify import Parity
from specmpc_jax import checkpointing, files
from specmpc_jax.config import ModelConfig
from specmpc_jax.types import Params


@dataclasses.dataclass(frozen=True)
class Source:
    """A model as it was read.

    `state_dict` holds torch tensors, in the file's layout if a torch file was
    read and in the current one otherwise. `metadata` says where it came from.
    """

    params: Params
    config: ModelConfig
    state_dict: Mapping[str, Any]
    metadata: dict[str, Any]


def read_torch(path: files.PathLike, **known: Any) -> Source:
    """Reads an official file; `known` are the keyword arguments of `load_torch`."""
    checkpoint = torch_reader.read(path)
    params, config = loading.convert(checkpoint, **known)
    metadata = {
        "source": checkpoint.path.name,
        "sha256": checkpoint.sha256,
        "layout": checkpoint.layout.value,
    }
    return Source(params, config, checkpoint.state_dict, metadata)


def read_flax(path: files.PathLike) -> Source:
    """Reads a directory that `write_flax` or a training run made."""
    saved = checkpointing.load_model(path)
    state_dict = conversion.to_torch(saved.params, saved.config)
    return Source(saved.params, saved.config, state_dict, saved.metadata)


def in_current_layout(source: Source) -> Source:
    """The same model with its torch side in the current official layout."""
    return dataclasses.replace(source, state_dict=conversion.to_torch(source.params, source.config))


def with_parity(source: Source, report: Sequence[Parity]) -> Source:
    """The same model, whose metadata say how equal torch and Flax were found."""
    parity = {row.module: row.difference for row in report}
    return dataclasses.replace(source, metadata=source.metadata | {"parity": parity})


def write_flax(path: files.PathLike, source: Source, *, overwrite: bool = False) -> None:
    """Writes the Flax side with its configuration and metadata, atomically."""
    checkpointing.save_model(
        path, source.params, source.config, source.metadata, overwrite=overwrite
    )


def write_torch(path: files.PathLike, source: Source) -> None:
    """Writes the torch side as the official code saves it, atomically."""
    # Given a name, torch would write it into the archive; and a full disk it does not tell as one.
    archive = io.BytesIO()
    torch.save({"model": source.state_dict}, archive)
    with files.atomic_path(path) as temporary:
        temporary.write_bytes(archive.getbuffer())


def describe(source: Source) -> str:
    """What the weights and their origin show, one fact a line."""
    config = source.config
    trained = {name: part for name, part in source.params.items() if name != "target_q"}
    count = sum(leaf.size for leaf in jax.tree.leaves(trained))
    first, *more = config.tasks
    lengths = sorted(set(config.episode_lengths)) or ["unknown, 500 is assumed"]
    shape = " x ".join(map(str, config.observation_shape))
    facts = {
        "file": source.metadata.get("source", "-"),
        "SHA-256": source.metadata.get("sha256", "-"),
        "layout": source.metadata.get("layout", "-"),
        "model size": f"{config.model_size}M" if config.model_size else "none of the table",
        "parameters": f"{count:,} (and the target ensemble)",
        "tasks": f"{len(more) + 1}: {first}, …" if more else first or "unknown",
        "observation": f"{config.observation}, {shape}" + ", symlog" * config.symlog_observations,
        "action dim": config.action_dim,
        "task dim": config.task_dim,
        "episodic": "yes" if config.episodic else "no",
        "episode length": ", ".join(map(str, lengths)),
        "fingerprint": checkpointing.fingerprint(source.params),
    }
    return "\n".join(f"{name:<15} {value}" for name, value in facts.items())
