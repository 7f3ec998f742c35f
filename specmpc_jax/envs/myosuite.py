"""MyoSuite's hand tasks as TD-MPC2 runs them: 100 steps, which nothing cuts short."""

from collections.abc import Mapping
from typing import Any

from specmpc_jax.envs.gymnasium_environment import GymnasiumEnvironment
from specmpc_jax.envs.gymnasium_tasks import import_gymnasium
from specmpc_jax.envs.optional import import_optional
from specmpc_jax.errors import UserError, nearest_names

PREFIX = "myo-"
EPISODE_LENGTH = 100

_MOTIONS = {
    "reach": "Reach",
    "pose": "Pose",
    "obj-hold": "ObjHold",
    "key-turn": "KeyTurn",
    "pen-twirl": "PenTwirl",
}
# Names are those of the released teachers.
_IDS: Mapping[str, str] = {
    f"myo-hand-{name}{suffix}": f"myoHand{motion}{kind}-v0"
    for name, motion in _MOTIONS.items()
    for suffix, kind in (("", "Fixed"), ("-hard", "Random"))
}


def task_names() -> tuple[str, ...]:
    """Names of the ten tasks, such as "myo-hand-pose" and "myo-hand-pose-hard"."""
    return tuple(_IDS)


def make(task: str, action_repeat: int = 1, seed: int = 0) -> GymnasiumEnvironment:
    """Makes a task by its name, with or without "hand"; its `info` tells the success.

    Args:
      task: such as "myo-hand-pose", or "myo-pose" for the same.
      action_repeat: environment steps in an agent step.
      seed: start of the random stream that resets without a seed draw from.

    Raises:
      UserError: if there is no such task, or MyoSuite is not installed.
    """
    name = task if task in _IDS else task.replace(PREFIX, f"{PREFIX}hand-", 1)
    if name not in _IDS:
        nearest = nearest_names(task, task_names())
        raise UserError(f"task {task!r} is unknown; nearest names: {nearest}")
    gymnasium = import_gymnasium(name, "myosuite")
    import_optional("myosuite", name, "myosuite")

    def load() -> Any:
        return gymnasium.make(
            _IDS[name], render_mode="rgb_array", max_episode_steps=EPISODE_LENGTH * action_repeat
        )

    return GymnasiumEnvironment(
        name,
        load,
        time_limit=EPISODE_LENGTH,
        action_repeat=action_repeat,
        seed=seed,
        terminates=False,
        reload=True,
    )
