"""What the planning benchmark varies: settings, and sweeps over them."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from specmpc_jax.config import MODEL_SIZES, ModelConfig, PlannerConfig
from specmpc_jax.errors import UserError

PRECISIONS = ("float32", "bfloat16")

_PUBLISHED = PlannerConfig()


@dataclasses.dataclass(frozen=True)
class Setting:
    """One plan to be timed; the defaults are the published planner on a 5M model.

    `iterations` None stands for the published number for the action size.
    `model_size` is in millions of parameters, None for a size that is not published.
    Values that no plan can have raise a `UserError`.
    """

    model_size: int | None = 5
    batch_size: int = 1
    num_samples: int = _PUBLISHED.num_samples
    iterations: int | None = None
    horizon: int = _PUBLISHED.horizon
    action_dim: int = 6
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.model_size is not None and self.model_size not in MODEL_SIZES:
            sizes = ", ".join(map(str, MODEL_SIZES))
            raise UserError(f"model size {self.model_size} is unknown; sizes are {sizes} (million)")
        if self.precision not in PRECISIONS:
            known = " or ".join(PRECISIONS)
            raise UserError(f"precision {self.precision!r} is unknown; it can be {known}")
        least = dict(batch_size=1, num_samples=2, horizon=1, action_dim=1, iterations=1)
        for name, minimum in least.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise UserError(f"{name} is {value}; it must be at least {minimum}")

    @property
    def planner(self) -> PlannerConfig:
        """Planner settings; elites and prior sequences are at most half of the samples."""
        half = max(self.num_samples // 2, 1)
        planner = dataclasses.replace(
            _PUBLISHED,
            num_samples=self.num_samples,
            horizon=self.horizon,
            num_elites=min(_PUBLISHED.num_elites, half),
            num_pi_trajs=min(_PUBLISHED.num_pi_trajs, half),
        )
        if self.iterations is None:
            return planner.for_action_dim(self.action_dim)
        return dataclasses.replace(planner, iterations=self.iterations)

    def columns(self) -> dict[str, Any]:
        """The setting as columns of a table, with everything that was left to defaults."""
        planner = self.planner
        chosen = dataclasses.asdict(self) | {"iterations": planner.iterations}
        return chosen | {
            "num_elites": planner.num_elites,
            "num_pi_trajs": planner.num_pi_trajs,
        }

    @property
    def name(self) -> str:
        """A name for files."""
        return "-".join(str(value) for value in self.columns().values())

    def __str__(self) -> str:
        size = "custom" if self.model_size is None else f"{self.model_size}M"
        planner = self.planner
        return (
            f"{size} {self.precision}, batch {self.batch_size}, {planner.num_samples} samples, "
            f"{planner.iterations} iterations, horizon {planner.horizon}, {self.action_dim} actions"
        )


AXES = tuple(field.name for field in dataclasses.fields(Setting))


def sweep(values: Mapping[str, Sequence[Any]], cross: bool = False) -> list[Setting]:
    """Settings of a benchmark.

    Args:
      values: what each axis of `AXES` takes; axes that are missing keep their default.
      cross: take every combination. Otherwise one axis varies at a time around the
        default row, whose value on each axis is the published one if that is among
        the axis's values, else the first.

    Returns:
      Distinct settings in the order of the values, the last axis changing fastest.

    Raises:
      UserError: if a value is one that no plan can have.
    """
    base = default_row(values)
    lists = [tuple(dict.fromkeys(values.get(axis) or (base[axis],))) for axis in AXES]
    combinations = [
        dict(zip(AXES, combination, strict=True)) for combination in itertools.product(*lists)
    ]
    if not cross:
        combinations = [
            chosen
            for chosen in combinations
            if sum(chosen[axis] != base[axis] for axis in AXES) <= 1
        ]
    return [Setting(**combination) for combination in combinations]


def default_row(values: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """The row around which a sweep varies, see `sweep`."""
    base = dataclasses.asdict(Setting())
    for axis, chosen in values.items():
        if chosen and axis != "iterations" and base[axis] not in chosen:
            base[axis] = chosen[0]
    # The published number of iterations follows from the action dimension.
    if iterations := values.get("iterations"):
        published = Setting(**base).planner.iterations
        base["iterations"] = published if published in iterations else iterations[0]
    return base


def check_model(model: ModelConfig, values: Mapping[str, Sequence[Any]]) -> None:
    """Refuses sweeps over what a loaded model decides.

    Raises:
      UserError: naming the flag.
    """
    for axis, own in (("model_size", model.model_size), ("action_dim", model.action_dim)):
        if any(value != own for value in values.get(axis) or ()):
            name = {"model_size": "sizes", "action_dim": "action_dims"}[axis]
            raise UserError(f"--{name} cannot be varied: the checkpoint decides it ({own})")
