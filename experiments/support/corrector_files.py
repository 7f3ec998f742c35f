"""Where corrector data and correctors lie, by model size."""

from collections.abc import Sequence
from pathlib import Path

from specmpc_jax import bundled
from specmpc_jax.agent import Agent
from specmpc_jax.correctors import registry
from specmpc_jax.correctors.corrector import Corrector
from specmpc_jax.errors import UserError
from specmpc_jax.evaluation.variants import Variant

DATA_DIR = "data"
CORRECTOR_DIR = "correctors"


def size_name(model_size: int | None) -> str:
    """How file names call a size: `5m`, or `custom` for unpublished ones."""
    return f"{model_size}m" if model_size else "custom"


def data_path(output: str | None, model_size: int | None) -> Path:
    """File of the data for one size.

    Args:
      output: a file ending in `.npz`, or a directory that gets
        `corrector_data_<size>.npz`; None means the directory `data`.
      model_size: in millions.
    """
    path = Path(output or DATA_DIR)
    return path if path.suffix == ".npz" else path / f"corrector_data_{size_name(model_size)}.npz"


def corrector_path(directory: str, model_size: int | None, kind: str) -> Path:
    """Directory of one corrector: `corrector_<size>_<kind>`."""
    return Path(directory) / f"corrector_{size_name(model_size)}_{kind}"


def load_for(directory: str, agent: Agent, variants: Sequence[Variant]) -> dict[str, Corrector]:
    """Loads the correctors that some variants of a teacher need, by kind.

    Args:
      directory: as `--corrector_dir`; `bundled:TEACHER` for those that ship with the package.
      agent: the teacher.
      variants: what will be run.

    Raises:
      UserError: if one is missing, or is another teacher's.
    """
    kinds = {variant.corrector for variant in variants} & set(registry.MODULES)
    found = {}
    for kind in sorted(kinds):
        if directory.startswith(bundled.PREFIX):
            found[kind] = Corrector.load(f"{directory}-{kind}")
        else:
            found[kind] = Corrector.load(corrector_path(directory, agent.config.model_size, kind))
        found[kind].check_teacher(agent.fingerprint, agent.config)
    return found


def data_files(directory: str) -> list[Path]:
    """All corrector data in a directory.

    Raises:
      UserError: if there are none.
    """
    # Names with a second dot are of data still being collected.
    every = Path(directory).glob("corrector_data_*.npz")
    found = sorted(path for path in every if "." not in path.stem)
    if not found:
        raise UserError(f"{directory} holds no corrector_data_<size>.npz; collect some first")
    return found
