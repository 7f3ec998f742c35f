"""Frozen, hashable configuration of training: the update, and the runs that make it.

As in `specmpc_jax.config`, values are Python scalars and strings, so that jitted
functions take them as static arguments.
"""

import dataclasses

from specmpc_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Hyper-parameters of TD-MPC2 training (spec sections 8 and 9).

    `horizon` is in agent steps; a sample is a slice of horizon + 1
    observations. `enc_lr_scale` multiplies the encoder's learning rate, `tau`
    is the step of the target ensemble and of the Q scale alike.
    `leak_embedding_gradient` adds the policy loss's gradient of the task
    embedding to the next model update, as the official multi-task code does by
    accident. `seed_steps` counts agent steps with random actions; None stands
    for max(1000, 5 episodes). `buffer_size` is in agent steps and
    `updates_per_step` is the number of updates for each agent step.
    """

    batch_size: int = 256
    horizon: int = 3
    reward_coef: float = 0.1
    value_coef: float = 0.1
    termination_coef: float = 1.0
    consistency_coef: float = 20.0
    rho: float = 0.5
    lr: float = 3e-4
    enc_lr_scale: float = 0.3
    grad_clip_norm: float = 20.0
    tau: float = 0.01
    entropy_coef: float = 1e-4
    adam_epsilon: float = 1e-8
    policy_adam_epsilon: float = 1e-5
    leak_embedding_gradient: bool = False
    seed_steps: int | None = None
    buffer_size: int = 1_000_000
    updates_per_step: float = 1.0

    def __post_init__(self) -> None:
        for name in ("batch_size", "horizon", "buffer_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("lr", "grad_clip_norm"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} is {getattr(self, name)}; it must be above 0")
        if not 0 < self.tau <= 1 or not 0 < self.rho <= 1:
            raise UserError(f"tau {self.tau} and rho {self.rho} must lie in (0, 1]")
        if self.updates_per_step < 0:
            raise UserError(f"updates_per_step is {self.updates_per_step}; it cannot be negative")

    def seed_steps_for(self, episode_length: int) -> int:
        """Agent steps with random actions for episodes of `episode_length` agent steps."""
        return max(1000, 5 * episode_length) if self.seed_steps is None else self.seed_steps


@dataclasses.dataclass(frozen=True)
class OnlineConfig:
    """How an online training run is carried out; none of it changes an update.

    `steps`, `eval_freq`, `checkpoint_freq` and `video_freq` count environment
    steps, as published curves do; 0 switches the last three off. What is due
    happens when an episode ends. `use_planner` False acts with the policy
    prior. `fused_updates` is the number of updates in one compiled call. `backend` is
    that of `envs.registry.make_batch`.
    """

    task: str
    seed: int = 0
    steps: int = 1_000_000
    num_envs: int = 1
    use_planner: bool = True
    fused_updates: int = 1
    eval_freq: int = 100_000
    eval_episodes: int = 10
    checkpoint_freq: int = 20_000
    video_freq: int = 0
    backend: str = "mujoco"

    def __post_init__(self) -> None:
        for name in ("steps", "num_envs", "fused_updates", "eval_episodes"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("seed", "eval_freq", "checkpoint_freq", "video_freq"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}; it cannot be negative")


@dataclasses.dataclass(frozen=True)
class OfflineConfig:
    """How training on recorded episodes is carried out; none of it changes an update.

    `steps` and the frequencies count updates; what is due happens between compiled calls
    of `fused_updates` of them. 0 switches evaluations off, and checkpoints but the last.
    """

    task_set: str
    seed: int = 0
    steps: int = 10_000_000
    fused_updates: int = 1
    log_freq: int = 100
    eval_freq: int = 0
    eval_episodes: int = 1
    checkpoint_freq: int = 10_000

    def __post_init__(self) -> None:
        for name in ("steps", "fused_updates", "log_freq", "eval_episodes"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("seed", "eval_freq", "checkpoint_freq"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}; it cannot be negative")
        if self.steps % self.fused_updates:
            raise UserError(f"steps {self.steps} is no multiple of {self.fused_updates} updates")


@dataclasses.dataclass(frozen=True)
class ParallelConfig:
    """How a training run is spread over devices.

    `world_size` devices in all processes together; `sync_freq` gradients that a device adds
    up for one update. With `lockstep` all environments wait for the slowest one, and a run
    that is killed and resumed takes the course that it would have taken; without, each goes
    its own pace. `check_freq` is the number of updates between comparisons of all replicas, 0
    for comparisons at checkpoints only.
    """

    world_size: int = 1
    sync_freq: int = 1
    lockstep: bool = False
    check_freq: int = 1000

    def __post_init__(self) -> None:
        for name in ("world_size", "sync_freq"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.check_freq < 0:
            raise UserError(f"check_freq is {self.check_freq}; it cannot be negative")
