"""The planar walker going backwards, walking or running."""

import functools
from collections.abc import Callable, Mapping

from dm_control.rl import control
from dm_control.suite import walker
from dm_control.utils import rewards

# Metres per second.
_WALK_SPEED = 1.0
_RUN_SPEED = 8.0


class BackwardWalker(walker.PlanarWalker):
    """Rewards an upright torso that moves at least at a speed towards -x."""

    def __init__(self, speed: float, random: int) -> None:
        super().__init__(move_speed=0, random=random)  # which rewards standing alone
        self._speed = speed

    def get_reward(self, physics: walker.Physics) -> float:
        """Standing reward, five sixths of which depend on the velocity."""
        stand = super().get_reward(physics)
        move = rewards.tolerance(
            physics.horizontal_velocity(),
            bounds=(-float("inf"), -self._speed),
            margin=self._speed / 2,
            value_at_margin=0.5,
            sigmoid="linear",
        )
        return stand * (5 * move + 1) / 6


def _load(speed: float, random: int) -> control.Environment:
    physics = walker.Physics.from_xml_string(*walker.get_model_and_assets())
    task = BackwardWalker(speed, random)
    return control.Environment(physics, task, time_limit=25.0, control_timestep=0.025)


TASKS: Mapping[str, Callable[[int], control.Environment]] = {
    "walk_backwards": functools.partial(_load, _WALK_SPEED),
    "run_backwards": functools.partial(_load, _RUN_SPEED),
}
