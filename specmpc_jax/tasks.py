"""Tasks of the released TD-MPC2 checkpoints: sets, dimensions, masks, episode lengths.

Names and order are those of TD-MPC2 (Hansen et al., arXiv 2310.16828): the
n-th task of a set owns the n-th row of a multi-task model's task embedding.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from specmpc_jax.errors import UserError, nearest_names

# 1000 environment steps at action repeat 2; Meta-World's episodes are 200 steps.
DMCONTROL_EPISODE_LENGTH = 500
METAWORLD_EPISODE_LENGTH = 100


@dataclasses.dataclass(frozen=True)
class Task:
    """One task: its sizes before any padding, its episode length in agent steps."""

    name: str
    observation_dim: int
    action_dim: int
    episode_length: int


@dataclasses.dataclass(frozen=True)
class TaskSet:
    """An ordered set of tasks, as one multi-task model knows it."""

    name: str
    tasks: tuple[Task, ...]

    def __len__(self) -> int:
        return len(self.tasks)

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each task."""
        return tuple(task.name for task in self.tasks)

    @property
    def observation_dims(self) -> tuple[int, ...]:
        """Observation size of each task before padding to the widest."""
        return tuple(task.observation_dim for task in self.tasks)

    @property
    def action_dims(self) -> tuple[int, ...]:
        """Action size of each task before padding to the widest."""
        return tuple(task.action_dim for task in self.tasks)

    @property
    def episode_lengths(self) -> tuple[int, ...]:
        """Episode length of each task in agent steps."""
        return tuple(task.episode_length for task in self.tasks)

    def index(self, name: str) -> int:
        """Row of a task in the task embedding.

        Raises:
          UserError: if the set does not hold the task; names the nearest ones.
        """
        if name not in self.names:
            raise UserError(
                f"task {name!r} is not in {self.name}; "
                f"nearest there: {nearest_names(name, self.names)}"
            )
        return self.names.index(name)

    def action_masks(self) -> np.ndarray:
        """Masks over the padded action, `[len(self), A]` float32 of 0 and 1."""
        used = np.arange(max(self.action_dims)) < np.array(self.action_dims)[:, None]
        return used.astype(np.float32)


def task_set(name: str) -> TaskSet:
    """Looks up a task set by its name, `mt30` or `mt80`.

    Raises:
      UserError: if there is no such set.
    """
    if name not in TASK_SETS:
        raise UserError(f"task set {name!r} is unknown; sets are {', '.join(TASK_SETS)}")
    return TASK_SETS[name]


# (name, observation dim, action dim): tasks of the DeepMind Control Suite.
_SUITE_TASKS = (
    ("walker-stand", 24, 6),
    ("walker-walk", 24, 6),
    ("walker-run", 24, 6),
    ("cheetah-run", 17, 6),
    ("reacher-easy", 6, 2),
    ("reacher-hard", 6, 2),
    ("acrobot-swingup", 6, 1),
    ("pendulum-swingup", 3, 1),
    ("cartpole-balance", 5, 1),
    ("cartpole-balance-sparse", 5, 1),
    ("cartpole-swingup", 5, 1),
    ("cartpole-swingup-sparse", 5, 1),
    ("cup-catch", 8, 2),
    ("finger-spin", 9, 2),
    ("finger-turn-easy", 12, 2),
    ("finger-turn-hard", 12, 2),
    ("fish-swim", 24, 5),
    ("hopper-stand", 15, 4),
    ("hopper-hop", 15, 4),
)

# Tasks that TD-MPC2 added on the suite's bodies.
_CUSTOM_TASKS = (
    ("walker-walk-backwards", 24, 6),
    ("walker-run-backwards", 24, 6),
    ("cheetah-run-backwards", 17, 6),
    ("cheetah-run-front", 17, 6),
    ("cheetah-run-back", 17, 6),
    ("cheetah-jump", 17, 6),
    ("hopper-hop-backwards", 15, 4),
    ("reacher-three-easy", 8, 3),
    ("reacher-three-hard", 8, 3),
    ("cup-spin", 8, 2),
    ("pendulum-spin", 3, 1),
)

# Meta-World's fifty, all with 39 observation and 4 action dimensions.
_METAWORLD_TASKS = """
    assembly basketball button-press-topdown button-press-topdown-wall button-press
    button-press-wall coffee-button coffee-pull coffee-push dial-turn
    disassemble door-open door-close drawer-close drawer-open
    faucet-open faucet-close hammer handle-press-side handle-press
    handle-pull-side handle-pull lever-pull peg-insert-side peg-unplug-side
    pick-out-of-hole pick-place pick-place-wall plate-slide plate-slide-side
    plate-slide-back plate-slide-back-side push-back push push-wall
    reach reach-wall shelf-place soccer stick-push
    stick-pull sweep-into sweep window-open window-close
    bin-picking box-close door-lock door-unlock hand-insert
""".split()

_MT30 = tuple(Task(*row, DMCONTROL_EPISODE_LENGTH) for row in _SUITE_TASKS + _CUSTOM_TASKS)
_MT50 = tuple(Task(f"mw-{name}", 39, 4, METAWORLD_EPISODE_LENGTH) for name in _METAWORLD_TASKS)

TASK_SETS: Mapping[str, TaskSet] = {
    "mt30": TaskSet("mt30", _MT30),
    "mt80": TaskSet("mt80", _MT30 + _MT50),
}
