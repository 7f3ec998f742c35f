"""Tasks of Gymnasium: MuJoCo v5, Box2D, and any other by `gym:<id>`.

Names and time limits of the first four are TD-MPC2's; the others follow their
pattern with Gymnasium's own limits. Most of these tasks end by themselves.
"""

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from specmpc_jax.envs import rendering
from specmpc_jax.envs.gymnasium_environment import GymnasiumEnvironment
from specmpc_jax.envs.optional import import_optional, missing
from specmpc_jax.errors import UserError, nearest_names

PREFIX = "gym:"
# For environments that are registered without a limit.
DEFAULT_TIME_LIMIT = 1000

_PICTURES = "rgb_array"


class _Known(NamedTuple):
    """A task with a name of its own; the time limit counts environment steps."""

    gym_id: str
    time_limit: int
    options: Mapping[str, Any] = {}
    success_return: float | None = None
    extra: str = "gymnasium"

    @property
    def reload(self) -> bool:
        """Whether episodes could depend on earlier ones; MuJoCo's reset leaves nothing behind."""
        return not self.gym_id.endswith("-v5")


_LANDER = {"continuous": True}
_TASKS: Mapping[str, _Known] = {
    "mujoco-walker": _Known("Walker2d-v5", 1000),
    "mujoco-halfcheetah": _Known("HalfCheetah-v5", 1000),
    "bipedal-walker": _Known("BipedalWalker-v3", 1000, extra="box2d"),
    "lunarlander-continuous": _Known("LunarLander-v3", 500, _LANDER, 200.0, "box2d"),
    "bipedal-walker-hardcore": _Known("BipedalWalkerHardcore-v3", 2000, extra="box2d"),
    "mujoco-ant": _Known("Ant-v5", 1000),
    "mujoco-hopper": _Known("Hopper-v5", 1000),
    "mujoco-humanoid": _Known("Humanoid-v5", 1000),
    "mujoco-humanoidstandup": _Known("HumanoidStandup-v5", 1000),
    "mujoco-inverteddoublependulum": _Known("InvertedDoublePendulum-v5", 1000),
    "mujoco-invertedpendulum": _Known("InvertedPendulum-v5", 1000),
    "mujoco-pusher": _Known("Pusher-v5", 100),
    "mujoco-reacher": _Known("Reacher-v5", 50),
    "mujoco-swimmer": _Known("Swimmer-v5", 1000),
}


def task_names() -> tuple[str, ...]:
    """Names of the tasks that have one of their own."""
    return tuple(_TASKS)


def make(task: str, action_repeat: int = 1, seed: int = 0) -> GymnasiumEnvironment:
    """Makes a task by its name, or any registered environment by `gym:<id>`.

    Args:
      task: such as "mujoco-walker", "gym:Pendulum-v1" or "gym:my_module:MyTask-v0".
      action_repeat: environment steps in an agent step.
      seed: start of the random stream that resets without a seed draw from.

    Raises:
      UserError: if there is no such task, it is none for an agent, or its simulator
        is not installed.
    """
    if task.startswith(PREFIX):
        return _make_registered(task, action_repeat, seed)
    if task not in _TASKS:
        nearest = nearest_names(task, task_names())
        raise UserError(f"task {task!r} is unknown; nearest names: {nearest}")
    known = _TASKS[task]
    gymnasium = import_gymnasium(task)
    return GymnasiumEnvironment(
        task,
        lambda: _load(gymnasium, task, known),
        time_limit=known.time_limit,
        action_repeat=action_repeat,
        seed=seed,
        reload=known.reload,
        success_return=known.success_return,
    )


def import_gymnasium(task: str, extra: str = "gymnasium") -> Any:
    """Imports Gymnasium after a rendering backend is chosen that suits the machine."""
    rendering.choose_backend()
    return import_optional("gymnasium", task, extra)


def _make_registered(task: str, action_repeat: int, seed: int) -> GymnasiumEnvironment:
    gymnasium = import_gymnasium(task)
    # A module before the id is one that registers it when it is imported.
    module, _, gym_id = task.removeprefix(PREFIX).rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        limit = gymnasium.spec(gym_id).max_episode_steps or DEFAULT_TIME_LIMIT
    except (gymnasium.error.Error, ImportError, ValueError) as error:
        raise _refused(task, error) from error
    known = _Known(gym_id, limit)
    return GymnasiumEnvironment(
        task,
        lambda: _load(gymnasium, task, known),
        time_limit=limit,
        action_repeat=action_repeat,
        seed=seed,
        reload=True,  # nothing is known of it
    )


def _load(gymnasium: Any, task: str, known: _Known) -> Any:
    try:
        entry = gymnasium.spec(known.gym_id).entry_point
        creator = entry if callable(entry) else gymnasium.envs.registration.load_env_creator(entry)
        modes = getattr(creator, "metadata", {}).get("render_modes", ())
        options = {**known.options, **({"render_mode": _PICTURES} if _PICTURES in modes else {})}
        return gymnasium.make(known.gym_id, max_episode_steps=known.time_limit, **options)
    except gymnasium.error.DependencyNotInstalled as error:
        if known.extra == "box2d" or "box2d" in str(error).lower():
            raise missing(task, "Box2D", "box2d") from error
        raise _refused(task, error) from error
    except (gymnasium.error.Error, ImportError, TypeError) as error:
        raise _refused(task, error) from error


def _refused(task: str, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(f"Gymnasium cannot make {task!r}: {reason}")
