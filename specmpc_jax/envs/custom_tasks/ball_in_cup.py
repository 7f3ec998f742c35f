"""The ball in cup, with the ball to be swung around outside of the cup."""

from collections.abc import Callable, Mapping

import numpy as np
from dm_control.rl import control
from dm_control.suite import ball_in_cup
from dm_control.utils import rewards

_DISTANCE = 0.5  # metres, from the ball to the target inside the cup
_BALL_SPEED = 6.0  # metres per second

_FREE_STARTS = 0.1  # share of episodes that start anywhere


class SpinningBall(ball_in_cup.BallInCup):
    """Rewards a ball that is far from the cup and fast; most episodes start inside the cup."""

    def initialize_episode(self, physics: ball_in_cup.Physics) -> None:
        """Draws a place without collision, in nine of ten episodes inside the target."""
        anywhere = self.random.uniform() < _FREE_STARTS
        super().initialize_episode(physics)
        while not anywhere and not physics.in_target():
            super().initialize_episode(physics)

    def get_reward(self, physics: ball_in_cup.Physics) -> float:
        """A third for the distance, two for the speed; 0 inside the target."""
        distance = rewards.tolerance(
            np.linalg.norm(physics.ball_to_target()),
            bounds=(_DISTANCE, float("inf")),
            margin=_DISTANCE / 2,
            value_at_margin=0.5,
            sigmoid="linear",
        )
        speed = rewards.tolerance(
            np.linalg.norm(physics.named.data.qvel[["ball_x", "ball_z"]]),
            bounds=(_BALL_SPEED, float("inf")),
            margin=_BALL_SPEED / 2,
            value_at_margin=0.5,
            sigmoid="linear",
        )
        return (1 - physics.in_target()) * (distance + 2 * speed) / 3


def _spin(random: int) -> control.Environment:
    physics = ball_in_cup.Physics.from_xml_string(*ball_in_cup.get_model_and_assets())
    task = SpinningBall(random=random)
    return control.Environment(physics, task, time_limit=20.0, control_timestep=0.02)


TASKS: Mapping[str, Callable[[int], control.Environment]] = {"spin": _spin}
