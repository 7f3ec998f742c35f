"""The pendulum turning fast, in either direction."""

from collections.abc import Callable, Mapping

import numpy as np
from dm_control.rl import control
from dm_control.suite import pendulum
from dm_control.utils import rewards

_SPIN_SPEED = 9.0  # radians per second


class SpinningPendulum(pendulum.SwingUp):
    """Rewards angular speed."""

    def get_reward(self, physics: pendulum.Physics) -> float:
        """Grows linearly with the angular speed, from 0 at rest."""
        return rewards.tolerance(
            np.linalg.norm(physics.angular_velocity()),
            bounds=(_SPIN_SPEED, float("inf")),
            margin=_SPIN_SPEED / 2,
            value_at_margin=0.5,
            sigmoid="linear",
        )


def _spin(random: int) -> control.Environment:
    physics = pendulum.Physics.from_xml_string(*pendulum.get_model_and_assets())
    return control.Environment(physics, SpinningPendulum(random=random), time_limit=20.0)


TASKS: Mapping[str, Callable[[int], control.Environment]] = {"spin": _spin}
