"""Reads a model's configuration off the shapes of its weights."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from specmpc_jax import tasks
from specmpc_jax.config import MODEL_SIZES, ModelConfig
from specmpc_jax.errors import UserError

Path = tuple[str, ...]
Shapes = Mapping[Path, tuple[int, ...]]

# The released mt30 model of 19M parameters has a narrower latent than its size says (section 1).
_MT30_19M_LATENT_DIM = 512
_MT30_TASKS = 30
_IMAGE_SIZE = 64
# The pixel encoder ends in 4 x 4 positions of each channel.
_LATENTS_PER_CHANNEL = 16


@dataclasses.dataclass(frozen=True)
class TaskFacts:
    """What the user knows of a checkpoint's tasks beyond its weights.

    `task` is a single-task model's task, a set (`mt30`) or the names of all
    tasks joined by commas. `action_dims` and `episode_lengths` (agent steps)
    have one entry a task, or a single one for all.
    """

    task: str = ""
    action_dims: tuple[int, ...] = ()
    episode_lengths: tuple[int, ...] = ()


def infer(
    shapes: Shapes,
    *,
    masks: np.ndarray | None,
    log_std: tuple[float, float],
    symlog_observations: bool,
    facts: TaskFacts,
) -> ModelConfig:
    """Builds the configuration that a set of weights belongs to.

    Args:
      shapes: shape of each array of the params tree, by path.
      masks: action masks `[num_tasks, A]` if the file holds any.
      log_std: smallest and largest log std of the policy prior.
      symlog_observations: whether the encoder expects symlog inputs.
      facts: what is known of the tasks.

    Raises:
      UserError: if the shapes contradict each other or the facts.
    """
    num_tasks, task_dim = shapes.get(("task_embedding",), (1, 0))
    num_q, _, num_bins = shapes["q", "head", "kernel"]
    _, policy_out = shapes["policy", "head", "kernel"]
    if policy_out % 2:
        raise UserError(
            f"the policy has {policy_out} outputs; mean and log std need an even number"
        )
    fields = dict(
        action_dim=policy_out // 2,
        mlp_dim=shapes["dynamics", "layer_0", "kernel"][1],
        latent_dim=shapes["dynamics", "layer_2", "kernel"][1],
        num_q=num_q,
        num_bins=num_bins,
        task_dim=task_dim,
        log_std_min=log_std[0],
        log_std_max=log_std[1],
        episodic=("termination", "head", "kernel") in shapes,
        symlog_observations=symlog_observations,
    )
    fields |= _encoder_fields(shapes, fields["latent_dim"], task_dim)
    fields |= _task_fields(facts, num_tasks, task_dim > 0, masks, fields)
    return ModelConfig(**fields, model_size=_model_size(fields, num_tasks))


def check_model_size(config: ModelConfig, model_size: int) -> None:
    """Compares the size that a user expects with the one the weights have.

    Raises:
      UserError: if they differ; names the size that the weights show.
    """
    if config.model_size == model_size:
        return
    shown = (
        f"size {config.model_size}"
        if config.model_size
        else f"no size of the table (mlp_dim {config.mlp_dim}, latent_dim {config.latent_dim}, "
        f"num_q {config.num_q})"
    )
    raise UserError(f"model size {model_size} was asked for, but the weights show {shown}")


def _encoder_fields(shapes: Shapes, latent_dim: int, task_dim: int) -> dict:
    first_convolution = shapes.get(("encoder", "conv_0_kernel"))
    if first_convolution:
        _, _, image_channels, channels = first_convolution
        if channels * _LATENTS_PER_CHANNEL != latent_dim:
            raise UserError(
                f"a pixel encoder of {channels} channels gives latents of "
                f"{channels * _LATENTS_PER_CHANNEL}, but the dynamics have {latent_dim}"
            )
        shape = (image_channels, _IMAGE_SIZE, _IMAGE_SIZE)
        return dict(observation="rgb", observation_shape=shape, num_channels=channels)
    inputs, enc_dim = shapes["encoder", "layer_0", "kernel"]
    if inputs <= task_dim:
        raise UserError(f"the encoder has {inputs} inputs, no more than the task embedding's size")
    layers = sum(path[0] == "encoder" and path[-1] == "kernel" for path in shapes)
    return dict(
        observation="state",
        observation_shape=(inputs - task_dim,),
        enc_dim=enc_dim,
        num_enc_layers=layers,
    )


def _model_size(fields: Mapping, num_tasks: int) -> int | None:
    """Size in the table whose widths these are; None if there is none."""
    for size, row in MODEL_SIZES.items():
        row = {name: value for name, value in row.items() if name in fields}
        if size == 19 and num_tasks == _MT30_TASKS:
            row["latent_dim"] = _MT30_19M_LATENT_DIM
        if all(fields[name] == value for name, value in row.items()):
            return size
    return None


def _task_fields(
    facts: TaskFacts,
    num_tasks: int,
    multitask: bool,
    masks: np.ndarray | None,
    fields: Mapping,
) -> dict:
    """Names, action dims, observation dims and episode lengths of the tasks."""
    if not multitask:
        if facts.task in tasks.TASK_SETS or "," in facts.task:
            raise UserError(f"these weights are of a single task, not of {facts.task}")
        if facts.action_dims not in ((), (fields["action_dim"],)):
            raise UserError(
                f"these weights are of a single task of action dim {fields['action_dim']}"
            )
        known = _known_task(facts.task)
        lengths = facts.episode_lengths or ((known.episode_length,) if known else ())
        return dict(
            tasks=(facts.task,),
            episode_lengths=_one_each(lengths, 1, "episode lengths"),
        )
    action_dims = _one_each(facts.action_dims, num_tasks, "action dims")
    if masks is not None:
        shown = _mask_lengths(masks, num_tasks, fields["action_dim"])
        if action_dims and action_dims != shown:
            raise UserError(f"the checkpoint's masks show action dims {list(shown)}")
        action_dims = shown
    known_set = _find_set(facts.task, num_tasks, action_dims, fields)
    lengths = _one_each(facts.episode_lengths, num_tasks, "episode lengths")
    if known_set:
        return dict(
            tasks=known_set.names,
            action_dims=known_set.action_dims,
            observation_dims=known_set.observation_dims,
            episode_lengths=lengths or known_set.episode_lengths,
        )
    if not action_dims:
        raise UserError(
            f"a model of {num_tasks} tasks without action masks, and no known set fits; "
            "give --action_dims, one a task"
        )
    if max(action_dims) > fields["action_dim"] or min(action_dims) < 1:
        raise UserError(f"action dims must lie in 1..{fields['action_dim']}, got {action_dims}")
    names = tuple(facts.task.split(",")) if facts.task else ()
    if names and len(names) != num_tasks:
        raise UserError(f"--task names {len(names)} tasks; the checkpoint has {num_tasks}")
    names = names or tuple(f"task-{i}" for i in range(num_tasks))
    return dict(tasks=names, action_dims=action_dims, episode_lengths=lengths)


def _known_task(name: str) -> tasks.Task | None:
    every = (task for known in tasks.TASK_SETS.values() for task in known.tasks)
    return next((task for task in every if task.name == name), None)


def _find_set(
    name: str, num_tasks: int, action_dims: tuple[int, ...], fields: Mapping
) -> tasks.TaskSet | None:
    """The known set that fits, unless the tasks are named otherwise; None if there is none."""
    observation_dim = fields["observation_shape"][0]
    for known in tasks.TASK_SETS.values():
        fits = (
            len(known) == num_tasks
            and max(known.observation_dims) == observation_dim
            and max(known.action_dims) == fields["action_dim"]
            and action_dims in ((), known.action_dims)
        )
        if name == known.name and not fits:
            raise UserError(
                f"these weights are not of {name}: they have {num_tasks} tasks, observation dim "
                f"{observation_dim} and action dim {fields['action_dim']}"
            )
        if fits and "," not in name:
            if name not in ("", known.name):
                known.index(name)  # a single task of the set is fine; any other name is refused
            return known
    return None


def _mask_lengths(masks: np.ndarray, num_tasks: int, action_dim: int) -> tuple[int, ...]:
    """Action dim of each task from its mask; a mask has to be ones, then zeros."""
    if masks.shape == (num_tasks, action_dim):
        lengths = masks.sum(-1).astype(int)
        if np.array_equal(masks, np.arange(action_dim) < lengths[:, None]):
            return tuple(lengths.tolist())
    raise UserError(
        f"_action_masks must be {num_tasks} rows of ones, then zeros, {action_dim} in all"
    )


def _one_each(values: Sequence[int], count: int, what: str) -> tuple[int, ...]:
    """Spreads a single value over all tasks; no value stays none."""
    if len(values) == 1:
        return tuple(values) * count
    if values and len(values) != count:
        raise UserError(f"{len(values)} {what} given for {count} tasks")
    return tuple(values)
