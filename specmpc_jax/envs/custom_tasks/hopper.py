"""The hopper hopping backwards."""

from collections.abc import Callable, Mapping

from dm_control.rl import control
from dm_control.suite import hopper
from dm_control.utils import rewards

_STAND_HEIGHTS = (0.6, 2.0)  # metres, torso above foot
_HOP_SPEED = 1.0  # metres per second, half of what the suite asks for forwards


class BackwardHopper(hopper.Hopper):
    """Rewards speed towards -x of a hopper that stands."""

    def get_reward(self, physics: hopper.Physics) -> float:
        """Grows linearly with the speed, 0 where the hopper has fallen."""
        standing = rewards.tolerance(physics.height(), _STAND_HEIGHTS)
        hopping = rewards.tolerance(
            physics.speed(),
            bounds=(-float("inf"), -_HOP_SPEED),
            margin=_HOP_SPEED / 2,
            value_at_margin=0.5,
            sigmoid="linear",
        )
        return standing * hopping


def _hop_backwards(random: int) -> control.Environment:
    physics = hopper.Physics.from_xml_string(*hopper.get_model_and_assets())
    task = BackwardHopper(hopping=True, random=random)
    return control.Environment(physics, task, time_limit=20.0, control_timestep=0.02)


TASKS: Mapping[str, Callable[[int], control.Environment]] = {"hop_backwards": _hop_backwards}
