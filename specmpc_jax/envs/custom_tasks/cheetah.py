"""The cheetah running backwards, running on two feet, and jumping."""

import functools
from collections.abc import Callable, Mapping

from dm_control.rl import control
from dm_control.suite import cheetah
from dm_control.utils import rewards

# Metres per second; the suite's cheetah runs at 10.
_BACKWARD_SPEED = 8.0
_TWO_FEET_SPEED = 6.0
_JUMP_SPEED = 0.5

# Metres: what stands upright or jumps comes this high.
_UP_HEIGHT = 1.2


class BackwardCheetah(cheetah.Cheetah):
    """Rewards speed towards -x."""

    def get_reward(self, physics: cheetah.Physics) -> float:
        """Grows linearly with the speed."""
        return rewards.tolerance(
            physics.speed(),
            bounds=(-float("inf"), -_BACKWARD_SPEED),
            margin=_BACKWARD_SPEED,
            value_at_margin=0,
            sigmoid="linear",
        )


class TwoFeetCheetah(cheetah.Cheetah):
    """Rewards speed with the torso and one foot raised."""

    def __init__(self, raised_foot: str, random: int) -> None:
        super().__init__(random=random)
        self._raised_foot = raised_foot

    def get_reward(self, physics: cheetah.Physics) -> float:
        """Reward of the raised body, five sixths of which depend on the speed."""
        foot = _up(_height(physics, self._raised_foot))
        torso = _up(_height(physics, "torso"))
        run = rewards.tolerance(
            physics.speed(),
            bounds=(_TWO_FEET_SPEED, float("inf")),
            margin=_TWO_FEET_SPEED,
            value_at_margin=0,
            sigmoid="linear",
        )
        return (3 * foot + 2 * torso) / 5 * (5 * run + 1) / 6


class JumpingCheetah(cheetah.Cheetah):
    """Rewards height above the place where the cheetah is."""

    def get_reward(self, physics: cheetah.Physics) -> float:
        """Height of torso and feet, a sixth of the reward is for staying in place."""
        torso = _height(physics, "torso")
        back, front = (_up((torso + _height(physics, f)) / 2) for f in ("bfoot", "ffoot"))
        stay = rewards.tolerance(
            physics.speed(),
            bounds=(-_JUMP_SPEED, _JUMP_SPEED),
            margin=_JUMP_SPEED,
            value_at_margin=0,
            sigmoid="linear",
        )
        return (5 * (back + front) / 2 + stay) / 6


def _height(physics: cheetah.Physics, body: str) -> float:
    return physics.named.data.xpos[body, "z"]


def _up(height: float) -> float:
    return rewards.tolerance(height, bounds=(_UP_HEIGHT, float("inf")), margin=_UP_HEIGHT / 2)


def _load(task: Callable[..., cheetah.Cheetah], random: int) -> control.Environment:
    physics = cheetah.Physics.from_xml_string(*cheetah.get_model_and_assets())
    return control.Environment(physics, task(random=random), time_limit=10.0)


TASKS: Mapping[str, Callable[[int], control.Environment]] = {
    "run_backwards": functools.partial(_load, BackwardCheetah),
    # Running on the front feet raises the back foot, and the other way round.
    "run_front": functools.partial(_load, functools.partial(TwoFeetCheetah, "bfoot")),
    "run_back": functools.partial(_load, functools.partial(TwoFeetCheetah, "ffoot")),
    "jump": functools.partial(_load, JumpingCheetah),
}
