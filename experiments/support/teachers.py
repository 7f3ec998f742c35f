"""Finds and loads teachers, whether converted directories or official files."""

import re
from pathlib import Path
from typing import NamedTuple

from absl import flags

import specmpc_jax as sm
from specmpc_jax import checkpointing, tasks
from specmpc_jax.agent import Agent
from specmpc_jax.config import MODEL_SIZES, ModelConfig, PlannerConfig, from_json
from specmpc_jax.errors import UserError, nearest_names

TASK = flags.DEFINE_string(
    "task",
    "walker-walk",
    "Task, by its official name; mt30 or mt80 for all of a multi-task teacher's.",
)
CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "Teacher: a converted directory, an official .pt file, bundled:NAME or official:NAME. "
    "If empty, it is looked for in --model_dir.",
)
MODEL_DIR = flags.DEFINE_string(
    "model_dir", "tdmpc2_pretrained", "Directory in which teachers are looked for."
)
MODEL_SIZE = flags.DEFINE_integer(
    "model_size", None, "Size of the teacher, in millions of parameters (1, 5, 19, 48, 317)."
)
OBSERVATION = flags.DEFINE_enum(
    "obs", None, ["state", "rgb"], "What the teacher must see; whatever it does if empty."
)

# tdmpc2_5m, mt30-5M, walker-walk-1: the last number of a single-task name is its seed.
_GENERIC = re.compile(r"tdmpc2_(?P<size>\d+)m", re.IGNORECASE)
_TASK_SET = re.compile(r"(?P<set>mt\d+)-(?P<size>\d+)M", re.IGNORECASE)
_SINGLE = re.compile(r"(?P<task>[a-z][a-z0-9-]*?)(-(?P<seed>\d))?")
_RELEASED_SINGLE_TASK_SIZE = 5


class Teacher(NamedTuple):
    """A teacher on disk, as far as its name or its configuration tell."""

    path: Path
    rank: int  # how specific it is to the task; less is better
    model_size: int | None


def load_teacher(planner: PlannerConfig | None = None) -> Agent:
    """Loads the teacher that the flags ask for.

    Raises:
      UserError: if there is none, or its size is not the one asked for.
    """
    path = CHECKPOINT.value or find(MODEL_DIR.value, TASK.value, MODEL_SIZE.value).path
    agent = load(str(path), TASK.value, MODEL_SIZE.value, planner)
    if OBSERVATION.value not in (None, agent.config.observation):
        raise UserError(
            f"{path} is asked for with --obs={OBSERVATION.value}, but it sees "
            f"{agent.config.observation}"
        )
    return agent


def load(
    path: str, task: str, model_size: int | None = None, planner: PlannerConfig | None = None
) -> Agent:
    """Loads a teacher for a task from a directory, an official file, or by name as `sm.load`.

    Args:
      path: what to load.
      task: the task it has to know.
      model_size: the size it has to have, if any, in millions.
      planner: planner settings; the published ones if None.
    """
    if Path(path).suffix == ".pt" and not path.startswith(("bundled:", "official:")):
        from converters import load_torch  # needs torch, which only official files do

        name = Path(path).stem
        params, config = load_torch(path, task="" if _names_tasks(name) else task)
        agent = Agent(params, config, planner, {"source": path}, checkpointing.fingerprint(params))
    else:
        agent = sm.load(path, planner)
    _check(path, agent.config, task, model_size)
    return agent


def tasks_named(task: str) -> tuple[str, ...]:
    """The tasks that `--task` stands for: all of a set, or the one."""
    return tasks.TASK_SETS[task].names if task in tasks.TASK_SETS else (task,)


def find(directory: str, task: str, model_size: int | None = None) -> Teacher:
    """Looks for a teacher: a single-task one for the task first, else a multi-task one.

    Raises:
      UserError: if there is none; lists what the directory holds.
    """
    candidates = [t for t in _teachers(directory, task) if model_size in (None, t.model_size)]
    if not candidates:
        held = sorted(p.name for p in Path(directory).glob("*")) if Path(directory).is_dir() else []
        size = f"{model_size}M " if model_size else ""
        raise UserError(
            f"{directory} holds no {size}teacher for {task}; it holds "
            f"{', '.join(held) or 'nothing'} (name one with --checkpoint)"
        )
    return min(candidates, key=lambda t: (t.rank, t.model_size or 0, t.path.name))


def sizes_available(directory: str, task: str) -> list[int]:
    """Sizes of the teachers for a task that a directory holds, in millions, ascending."""
    return sorted({t.model_size for t in _teachers(directory, task) if t.model_size})


def _teachers(directory: str, task: str) -> list[Teacher]:
    if not Path(directory).is_dir():
        return []
    found = (_teacher(path, task) for path in sorted(Path(directory).iterdir()))
    return [teacher for teacher in found if teacher is not None]


def _teacher(path: Path, task: str) -> Teacher | None:
    """What a file or directory promises for a task; None if nothing."""
    if path.is_dir():
        if not (path / "checksums.json").is_file():
            return None
        record = checkpointing.load_metadata(path)
        if record.get("kind") != checkpointing.WORLD_MODEL:
            return None
        config = from_json(ModelConfig, record["config"])
        if not _knows(config, task) and config.tasks != ("",):
            return None
        return Teacher(path, 1 if config.multitask else 0, config.model_size)
    if path.suffix != ".pt":
        return None
    if match := _GENERIC.fullmatch(path.stem):
        return Teacher(path, 2, int(match["size"]))
    if match := _TASK_SET.fullmatch(path.stem):
        known = tasks.TASK_SETS.get(match["set"].lower())
        fits = known is not None and task in (known.name, *known.names)
        return Teacher(path, 1, int(match["size"])) if fits else None
    match = _SINGLE.fullmatch(path.stem)
    if match and match["task"] == task:
        return Teacher(path, 0, _RELEASED_SINGLE_TASK_SIZE)
    return None


def _knows(config: ModelConfig, task: str) -> bool:
    """Whether a model was trained on a task, or on exactly the tasks of a set."""
    known = tasks.TASK_SETS.get(task)
    return config.tasks == known.names if known else task in config.tasks


def _names_tasks(stem: str) -> bool:
    """Whether a file's name already tells its task or task set."""
    return bool(_TASK_SET.fullmatch(stem) or re.fullmatch(r"[a-z][a-z0-9-]*-[123]", stem))


def _check(path: str, config: ModelConfig, task: str, model_size: int | None) -> None:
    if model_size is not None and model_size not in MODEL_SIZES:
        raise UserError(f"model size {model_size} is unknown; sizes are 1, 5, 19, 48, 317")
    if model_size is not None and model_size != config.model_size:
        raise UserError(
            f"{path} is asked for at {model_size}M, but its weights are those of size "
            f"{config.model_size or 'unpublished'}"
        )
    if task in tasks.TASK_SETS and not _knows(config, task):
        raise UserError(
            f"{path} was trained on {len(config.tasks)} task"
            f"{'s' if len(config.tasks) > 1 else ''} ({config.tasks[0] or 'unknown'}"
            f"{', …' if len(config.tasks) > 1 else ''}), not on the set {task}"
        )
    if config.tasks != ("",) and not _knows(config, task):
        raise UserError(
            f"{path} was trained on {nearest_names(task, config.tasks)}"
            f"{' and more' if len(config.tasks) > 3 else ''}, not on {task}"
        )
