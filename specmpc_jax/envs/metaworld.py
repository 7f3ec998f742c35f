"""Meta-World's fifty tasks as TD-MPC2 runs them: 100 agent steps, action repeat 2.

Meta-World 3.0 (its V3 tasks, the V2 ones moved to Gymnasium) is the last release that
leaves the version of MuJoCo open.
"""

from typing import Any

import numpy as np

from specmpc_jax import tasks
from specmpc_jax.envs.gymnasium_environment import GymnasiumEnvironment
from specmpc_jax.envs.gymnasium_tasks import import_gymnasium
from specmpc_jax.envs.optional import import_optional
from specmpc_jax.errors import UserError, nearest_names

PREFIX = "mw-"
ACTION_REPEAT = 2

_CAMERA = "corner2"
# TD-MPC2 looks from a little closer than Meta-World.
_CAMERA_POSITION = (0.75, 0.075, 0.7)
# Of a weld between gripper and target: anchor, relative pose, torque scale.
_WELD = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 5.0)


def task_names() -> tuple[str, ...]:
    """Names of the fifty tasks, such as "mw-reach"."""
    every = tasks.task_set("mt80").names
    return tuple(name for name in every if name.startswith(PREFIX))


def make(task: str, action_repeat: int = ACTION_REPEAT, seed: int = 0) -> GymnasiumEnvironment:
    """Makes a task by its name; its `info` tells the success.

    Args:
      task: such as "mw-reach".
      action_repeat: environment steps in an agent step.
      seed: start of the random stream that resets without a seed draw from.

    Raises:
      UserError: if there is no such task, or Meta-World is not installed.
    """
    if task not in task_names():
        raise UserError(
            f"task {task!r} is unknown; nearest names: {nearest_names(task, task_names())}"
        )
    import_gymnasium(task, "metaworld")
    simulator = import_optional("metaworld.env_dict", task, "metaworld")
    _adapt_welds(task)
    name = f"{task.removeprefix(PREFIX)}-v3-goal-observable"
    kind = simulator.ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[name]
    return GymnasiumEnvironment(
        task,
        lambda: _Seeded(kind),
        time_limit=tasks.METAWORLD_EPISODE_LENGTH * ACTION_REPEAT,
        action_repeat=action_repeat,
        seed=seed,
        terminates=False,
        # Tasks move bodies of their model and keep the last observation.
        reload=True,
    )


class _Seeded:
    """A Meta-World environment whose episodes differ, and follow from a seed."""

    render_mode = "rgb_array"

    def __init__(self, kind: type) -> None:
        self._environment = kind(seed=0, render_mode=self.render_mode)
        # Else every episode would place its objects alike, or by NumPy's global stream.
        self._environment._freeze_rand_vec = False
        self._environment.seeded_rand_vec = True
        renderer = self._environment.mujoco_renderer
        camera = self._environment.model.camera(_CAMERA)
        camera.pos[:] = _CAMERA_POSITION
        renderer.camera_id = camera.id
        self.observation_space = self._environment.observation_space
        self.action_space = self._environment.action_space

    def reset(self, seed: int | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        if seed is not None:
            self._environment.seed(seed)
        observation, info = self._environment.reset()
        # TD-MPC2 lets one idle step pass between the first observation and the first action.
        self._environment.step(np.zeros(self.action_space.shape, np.float32))
        return observation, info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self._environment.step(action)

    def render(self) -> np.ndarray:
        return self._environment.render()

    def close(self) -> None:
        self._environment.close()


def _adapt_welds(task: str) -> None:
    """Lets Meta-World set its welds in models of a MuJoCo with more numbers a constraint.

    Meta-World assigns eleven numbers to a row; newer releases of MuJoCo have twelve, of
    which the last keeps the model's value.
    """
    import mujoco

    if mujoco.mjNEQDATA == len(_WELD):
        return
    base = import_optional("metaworld.sawyer_xyz_env", task, "metaworld").SawyerMocapBase

    def reset_mocap_welds(self: Any) -> None:
        if self.model.nmocap:
            welds = self.model.eq_type == mujoco.mjtEq.mjEQ_WELD
            self.model.eq_data[welds, : len(_WELD)] = _WELD

    base.reset_mocap_welds = reset_mocap_welds
