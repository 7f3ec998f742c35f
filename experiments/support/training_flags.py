"""Flags of the binaries that train: one a hyper-parameter, with its configuration's default."""

import dataclasses

from absl import flags

# What each hyper-parameter is, by field of `TrainConfig` and `PlannerConfig`.
UPDATE = {
    "batch_size": "Slices in one update.",
    "horizon": "Planning horizon and length of a slice, in agent steps.",
    "reward_coef": "Weight of the reward loss.",
    "value_coef": "Weight of the value loss.",
    "termination_coef": "Weight of the termination loss.",
    "consistency_coef": "Weight of the consistency loss.",
    "rho": "Weight of a step relative to the step before it.",
    "lr": "Learning rate.",
    "enc_lr_scale": "Learning rate of the encoder relative to the others.",
    "grad_clip_norm": "Largest gradient norm, of model and policy each.",
    "tau": "Step of the target ensemble towards the online one.",
    "entropy_coef": "Weight of the policy's entropy.",
    "adam_epsilon": "Adam's epsilon for the model.",
    "policy_adam_epsilon": "Adam's epsilon for the policy.",
}
PLANNER = {
    "iterations": "MPPI iterations (default: 6, or 8 from 20 action dimensions on).",
    "num_samples": "Action sequences scored in each iteration.",
    "num_elites": "Elite sequences.",
    "num_pi_trajs": "Sequences from the policy prior.",
    "min_std": "Smallest std of the planner.",
    "max_std": "Largest std of the planner.",
    "temperature": "Sharpness of the elites' weights.",
}


def define(config: type, descriptions: dict[str, str]) -> None:
    """Defines a flag for each described field, with the field's own default and type."""
    fields = {field.name: field for field in dataclasses.fields(config)}
    for name, description in descriptions.items():
        is_float = fields[name].type is float
        make = flags.DEFINE_float if is_float else flags.DEFINE_integer
        default = None if name == "iterations" else fields[name].default
        make(name, default, description)
