"""The flags of binaries that may simulate on the device, and in worlds that differ."""

from absl import flags

from specmpc_jax.config import Perturbation
from specmpc_jax.errors import UserError

BACKEND = flags.DEFINE_enum(
    "backend",
    "mujoco",
    ["mujoco", "mjx"],
    "What simulates: the task's own environment, or MJX on the device.",
)


def define_perturbation() -> None:
    """Defines the flags of worlds that differ from the teacher's."""
    flags.DEFINE_float(
        "perturb_mass", 0.0, "Strength s: masses times exp(s u), u in [-1, 1]; --backend=mjx."
    )
    flags.DEFINE_float("perturb_friction", 0.0, "The same for friction.")
    flags.DEFINE_float("perturb_gain", 0.0, "The same for the actuators' force.")


def perturbation() -> Perturbation:
    """What the flags ask for.

    Raises:
      UserError: if a strength is out of range, or the backend cannot do it.
    """
    values = flags.FLAGS
    wanted = Perturbation(values.perturb_mass, values.perturb_friction, values.perturb_gain)
    if wanted != Perturbation() and BACKEND.value != "mjx":
        raise UserError("worlds that differ need --backend=mjx")
    return wanted
