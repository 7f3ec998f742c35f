"""Frozen, hashable configuration: the static choices of models, planning and correctors.

Configurations are passed to jitted functions as static arguments, so they hold
only Python scalars, strings and tuples. Training has its own in `learning.config`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from specmpc_jax.errors import UserError

# TD-MPC2 (Hansen et al., arXiv 2310.16828), table of model sizes, in millions of parameters.
MODEL_SIZES: Mapping[int, Mapping[str, int]] = {
    1: dict(enc_dim=256, mlp_dim=384, latent_dim=128, num_enc_layers=2, num_q=2),
    5: dict(enc_dim=256, mlp_dim=512, latent_dim=512, num_enc_layers=2, num_q=5),
    19: dict(enc_dim=1024, mlp_dim=1024, latent_dim=768, num_enc_layers=3, num_q=5),
    48: dict(enc_dim=1792, mlp_dim=1792, latent_dim=768, num_enc_layers=4, num_q=5),
    317: dict(enc_dim=4096, mlp_dim=4096, latent_dim=1376, num_enc_layers=5, num_q=8),
}

# From this many action dimensions on, the planner runs two more iterations.
LARGE_ACTION_DIM = 20


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Architecture of a world model and the tasks it was trained on.

    `tasks`, `action_dims` and `episode_lengths` have one entry a task, in the
    order of the task embedding's rows; single-task models have one entry (an
    empty task name if unknown). `episode_lengths` are in agent steps.
    """

    action_dim: int
    observation: str = "state"
    observation_shape: tuple[int, ...] = ()
    model_size: int | None = None
    enc_dim: int = 256
    mlp_dim: int = 512
    latent_dim: int = 512
    num_enc_layers: int = 2
    num_q: int = 5
    num_channels: int = 32
    task_dim: int = 0
    simnorm_dim: int = 8
    num_bins: int = 101
    vmin: float = -10.0
    vmax: float = 10.0
    dropout: float = 0.01
    log_std_min: float = -10.0
    log_std_max: float = 2.0
    episodic: bool = False
    symlog_observations: bool = False
    tasks: tuple[str, ...] = ("",)
    action_dims: tuple[int, ...] = ()
    observation_dims: tuple[int, ...] = ()
    episode_lengths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.observation not in ("state", "rgb"):
            raise UserError(f"observation is {self.observation!r}; it can be 'state' or 'rgb'")
        if self.latent_dim % self.simnorm_dim:
            raise UserError(
                f"latent_dim {self.latent_dim} is no multiple of simnorm_dim {self.simnorm_dim}"
            )
        if self.multitask and len(self.action_dims) != len(self.tasks):
            raise UserError(
                f"a model of {len(self.tasks)} tasks needs as many action_dims, "
                f"got {len(self.action_dims)}"
            )
        if self.episodic and self.multitask:
            raise UserError("a multi-task model cannot be episodic")

    @property
    def multitask(self) -> bool:
        """Whether the model conditions on a task embedding."""
        return self.task_dim > 0

    @property
    def num_tasks(self) -> int:
        """Number of rows of the task embedding, 1 for single-task models."""
        return len(self.tasks)

    @property
    def discounts(self) -> tuple[float, ...]:
        """Discount factor of each task (spec section 6)."""
        lengths = self.episode_lengths or (500,) * self.num_tasks
        return tuple(discount_for_episode_length(n) for n in lengths)


def model_config(model_size: int, **fields: Any) -> ModelConfig:
    """Builds the configuration of one of the published sizes.

    Args:
      model_size: 1, 5, 19, 48 or 317 (millions of parameters).
      **fields: further `ModelConfig` fields; they win over the size table.

    Raises:
      UserError: if the size is not in the table.
    """
    if model_size not in MODEL_SIZES:
        sizes = ", ".join(map(str, MODEL_SIZES))
        raise UserError(f"model size {model_size} is unknown; sizes are {sizes} (million)")
    return ModelConfig(**{**MODEL_SIZES[model_size], "model_size": model_size, **fields})


def discount_for_episode_length(
    episode_length: float,
    denominator: float = 5.0,
    minimum: float = 0.95,
    maximum: float = 0.995,
) -> float:
    """Discount factor suited to an episode length in agent steps (spec section 6)."""
    fraction = episode_length / denominator
    return min(max((fraction - 1) / fraction, minimum), maximum)


@dataclasses.dataclass(frozen=True)
class PlannerConfig:
    """MPPI settings (spec section 7).

    `num_samples` counts all sequences scored in an iteration, the
    `num_pi_trajs` policy-prior sequences included. `horizon` is in agent steps.
    """

    horizon: int = 3
    iterations: int = 6
    num_samples: int = 512
    num_elites: int = 64
    num_pi_trajs: int = 24
    min_std: float = 0.05
    max_std: float = 2.0
    temperature: float = 0.5

    def __post_init__(self) -> None:
        if self.horizon < 1 or self.iterations < 1:
            raise UserError("the planner needs a horizon and iterations of at least 1")
        if not 0 < self.num_elites <= self.num_samples:
            raise UserError(
                f"num_elites {self.num_elites} must lie in 1..num_samples ({self.num_samples})"
            )
        if not 0 <= self.num_pi_trajs < self.num_samples:
            raise UserError(
                f"num_pi_trajs {self.num_pi_trajs} must lie in 0..num_samples-1 "
                f"({self.num_samples - 1})"
            )

    def for_action_dim(self, action_dim: int) -> "PlannerConfig":
        """Adds the two iterations that large action spaces get by default."""
        extra = 2 if action_dim >= LARGE_ACTION_DIM else 0
        return dataclasses.replace(self, iterations=self.iterations + extra)


@dataclasses.dataclass(frozen=True)
class SpeculationConfig:
    """How a plan is executed for several steps (see `speculation.executor`).

    `exec_horizon` is the longest block in agent steps. `follow` chooses what a
    block executes: the sampled elite sequence (as the official planner does
    for its first action) or the planner's mean. `history_len` is the window of
    steps that correctors see.

    `replan_rate` above 0 adapts the tolerance while acting, until this share of
    the steps that are compared with a prediction drops its plan;
    `adaptation_gain` is how fast. `value_tolerance`, if not None, decides by
    value: see `speculation.valued`.
    """

    exec_horizon: int = 1
    mismatch: str = "relative"
    follow: str = "elite"
    history_len: int = 4
    replan_rate: float = 0.0
    adaptation_gain: float = 0.2
    value_tolerance: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.replan_rate < 1.0:
            raise UserError(f"replan_rate is {self.replan_rate}; it must lie in [0, 1)")
        if self.adaptation_gain <= 0:
            raise UserError(f"adaptation_gain is {self.adaptation_gain}; it must be above 0")
        if self.value_tolerance is not None and self.value_tolerance < 0:
            raise UserError(f"value_tolerance is {self.value_tolerance}; it cannot be negative")
        if self.exec_horizon < 1:
            raise UserError(f"exec_horizon is {self.exec_horizon}; it must be at least 1")
        if self.mismatch not in ("relative", "l2"):
            raise UserError(f"mismatch is {self.mismatch!r}; it can be 'relative' or 'l2'")
        if self.follow not in ("elite", "mean"):
            raise UserError(f"follow is {self.follow!r}; it can be 'elite' or 'mean'")
        if self.history_len < 1:
            raise UserError(f"history_len is {self.history_len}; it must be at least 1")


@dataclasses.dataclass(frozen=True)
class Perturbation:
    """How far a simulated world may be from the one that a teacher knows.

    Every lane's world has its own factors, exp(strength * u) with u uniform in [-1, 1]: at
    strength 0.2 at most 22% more or 18% less. `mass` scales the mass and inertia of every
    body, `friction` the sliding friction of every geom and the friction loss of every
    joint, `gain` the force of every actuator.
    """

    mass: float = 0.0
    friction: float = 0.0
    gain: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not 0.0 <= value <= 5.0:
                raise UserError(f"a perturbation's {field.name} is {value}; it must be in 0..5")


@dataclasses.dataclass(frozen=True)
class CorrectorConfig:
    """Architecture of a corrector; stored beside its weights.

    `kind` is a name in `correctors.registry`. `difference_scale` multiplies
    z_real - z_pred before its tower, since that difference is small.
    `use_offset` shows the corrector how old the plan is, up to `max_offset`.
    Of the gated corrector, `correction_bound` limits how far it moves a planned
    action, `trust_dim` is the width of the layer that weighs the plan, and
    `trust_bias` the logit of an untrained one's trust in the plan. `tanh_output`
    bounds the change that an imported corrector makes, see `correctors.published`.
    """

    kind: str = "two_tower"
    latent_dim: int = 0
    action_dim: int = 0
    hidden_dim: int = 256
    num_layers: int = 2
    history_len: int = 4
    token_dim: int = 128
    num_heads: int = 4
    feedforward_dim: int = 256
    num_blocks: int = 2
    use_offset: bool = True
    max_offset: int = 8
    difference_scale: float = 10.0
    dropout: float = 0.1
    correction_bound: float = 0.5
    trust_dim: int = 16
    trust_bias: float = -2.0
    tanh_output: bool = True

    def __post_init__(self) -> None:
        if self.correction_bound <= 0:
            raise UserError(f"correction_bound is {self.correction_bound}; it must be above 0")
        if not 0.0 <= self.dropout < 1.0:
            raise UserError(f"dropout is {self.dropout}; it must lie in [0, 1)")


@dataclasses.dataclass(frozen=True)
class CorrectorTrainConfig:
    """How a corrector is fitted.

    `loss` is "squared" or "huber", which grows linearly beyond an error of
    `huber_width` and so minds the teacher's own noise less. `plan_penalty`
    weighs the squared distance to the planned action against that to the
    teacher's. `held_out` is a share of the episodes. With `plan_rows` the kinds
    that can (bc, gated) also learn from steps at which a plan was just made.
    `referee_share` is the share of the training episodes that the trust of a
    gated corrector is fitted to, in the first half of the epochs, while its
    experts do not learn from them; 0 fits all to all.
    """

    epochs: int = 60
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    loss: str = "squared"
    huber_width: float = 0.3
    plan_penalty: float = 0.0
    held_out: float = 0.15
    plan_rows: bool = True
    referee_share: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        if self.loss not in ("squared", "huber"):
            raise UserError(f"loss is {self.loss!r}; it can be 'squared' or 'huber'")
        if self.huber_width <= 0:
            raise UserError(f"huber_width is {self.huber_width}; it must be above 0")
        if not 0.0 <= self.referee_share < 1.0:
            raise UserError(f"referee_share is {self.referee_share}; it must lie in [0, 1)")
        if self.epochs < 1 or self.batch_size < 1:
            raise UserError("training needs at least one epoch and a batch of at least one row")
        if not 0.0 < self.held_out < 1.0:
            raise UserError(f"held_out is {self.held_out}; it must lie between 0 and 1")


def to_json(config: Any) -> dict[str, Any]:
    """Turns a configuration into plain JSON types; `from_json` is its inverse."""
    return dataclasses.asdict(config)


def from_json(cls: type, fields: Mapping[str, Any]) -> Any:
    """Rebuilds a configuration of class `cls` from `to_json`'s output.

    Raises:
      UserError: if a field is unknown to this version of the class.
    """
    known = {field.name for field in dataclasses.fields(cls)}
    unknown = sorted(set(fields) - known)
    if unknown:
        raise UserError(f"{cls.__name__} has no field {', '.join(unknown)}")
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})
