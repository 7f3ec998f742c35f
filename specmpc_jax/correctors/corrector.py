"""A trained corrector with everything that is needed to use it again."""

import dataclasses
import os
from typing import Any

import jax
import numpy as np

from specmpc_jax import bundled, checkpointing
from specmpc_jax.config import (
    CorrectorConfig,
    ModelConfig,
    SpeculationConfig,
    from_json,
    to_json,
)
from specmpc_jax.correctors import registry, unlearned
from specmpc_jax.correctors.unlearned import UnlearnedConfig
from specmpc_jax.errors import UserError
from specmpc_jax.speculation import calibration
from specmpc_jax.types import Params

KIND = "corrector"


@dataclasses.dataclass(frozen=True)
class Corrector:
    """Weights, architecture, the teacher they belong to and calibrated quantiles.

    `quantiles` holds, for each offset, the 0..100% quantiles of the relative
    mismatch in the training data. `record` says how it was trained.
    """

    config: CorrectorConfig
    params: Params
    teacher: str
    quantiles: dict[int, list[float]]
    record: dict[str, Any] = dataclasses.field(default_factory=dict)

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Writes the corrector as an Orbax directory, atomically."""
        metadata = {
            "kind": KIND,
            "config": to_json(self.config),
            "teacher": self.teacher,
            "quantiles": {str(k): v for k, v in self.quantiles.items()},
            "record": self.record,
        }
        checkpointing.save_tree(path, self.params, metadata, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Corrector":
        """Reads a corrector, strictly: every parameter is filled, every key is used.

        Args:
          path: a directory, or `bundled:NAME` for one that ships with the package.

        Raises:
          UserError: if the path holds no corrector.
        """
        path = bundled.resolve(path, bundled.CORRECTORS)
        metadata = checkpointing.load_metadata(path)
        if metadata.get("kind") != KIND:
            raise UserError(f"{path} holds a {metadata.get('kind', 'file')}, not a corrector")
        config = from_json(CorrectorConfig, metadata["config"])
        params = checkpointing.load_tree(path, registry.parameter_shapes(config))
        quantiles = {int(k): v for k, v in metadata["quantiles"].items()}
        return cls(config, params, metadata["teacher"], quantiles, metadata["record"])

    def check_teacher(self, fingerprint: str, model: ModelConfig) -> None:
        """Refuses to correct the plans of another teacher.

        Raises:
          UserError: naming both teachers, or the sizes that do not fit.
        """
        if self.teacher != fingerprint:
            raise UserError(
                f"this corrector was made for teacher {self.teacher[:12]}, "
                f"not for teacher {fingerprint[:12] or '(unnamed)'}"
            )
        mine = (self.config.latent_dim, self.config.action_dim)
        if mine != (model.latent_dim, model.action_dim):
            raise UserError(
                f"this corrector expects latent and action sizes {mine}, the teacher has "
                f"{(model.latent_dim, model.action_dim)}"
            )

    def thresholds_at(self, level: float, speculation: SpeculationConfig) -> np.ndarray:
        """Thresholds `[X]` at a quantile of the mismatch seen in the training data.

        Raises:
          UserError: if the mismatch is not the relative one that was calibrated.
        """
        if speculation.mismatch != "relative":
            raise UserError("quantiles are calibrated for the relative mismatch only")
        return calibration.thresholds_at(self.quantiles, level, speculation.exec_horizon)

    @property
    def fingerprint(self) -> str:
        """Hash of the weights."""
        return checkpointing.fingerprint(self.params)

    @property
    def num_parameters(self) -> int:
        """Number of scalars in the weights."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))


def by_name(name: str) -> Corrector | UnlearnedConfig:
    """A corrector that learned nothing, such as "refine", or the one in a directory.

    Args:
      name: what `unlearned.CONFIGS` calls it, a directory, or `bundled:NAME`.

    Raises:
      UserError: if it is none of these.
    """
    return unlearned.CONFIGS.get(name) or Corrector.load(name)
