"""Models that differ from the one a teacher was trained on, one a lane.

Corrections exist for the case that the model is wrong; here the world is made so.
"""

import jax
import jax.numpy as jnp

from specmpc_jax.config import Perturbation
from specmpc_jax.envs.device import Models
from specmpc_jax.envs.mjx.environment import MjxEnvironment
from specmpc_jax.types import Array


def perturbed(environment: MjxEnvironment, perturbation: Perturbation, keys: Array) -> Models:
    """Draws the model of every lane; consumes `keys` `[B]`.

    Returns:
      The models; without any perturbation one for all lanes, the suite's.
    """
    model = environment.model
    if perturbation == Perturbation():
        return Models(model)

    def own(key: Array) -> dict[str, Array]:
        mass_key, geom_key, dof_key, gain_key = jax.random.split(key, 4)
        mass = _factors(mass_key, perturbation.mass, model.body_mass.shape)
        geoms = _factors(geom_key, perturbation.friction, model.geom_friction.shape[:1])
        dofs = _factors(dof_key, perturbation.friction, model.dof_frictionloss.shape)
        gain = _factors(gain_key, perturbation.gain, model.actuator_gainprm.shape[:1])
        return {
            "body_mass": model.body_mass * mass,
            "body_subtreemass": _with_descendants(environment, model.body_mass * mass),
            "body_inertia": model.body_inertia * mass[:, None],
            "geom_friction": model.geom_friction.at[:, 0].multiply(geoms),
            "dof_frictionloss": model.dof_frictionloss * dofs,
            "actuator_gainprm": model.actuator_gainprm.at[:, 0].multiply(gain),
        }

    drawn = jax.vmap(own)(keys)
    own = jax.tree.map(lambda _: False, model).replace(**dict.fromkeys(drawn, True))
    return Models(model.replace(**drawn), tuple(jax.tree.leaves(own)))


def _with_descendants(environment: MjxEnvironment, mass: Array) -> Array:
    """Mass of every body with all that hangs on it, `[bodies]`."""
    parents = environment.physics.host.body_parentid
    for body in range(len(parents) - 1, 0, -1):  # children come after their parents
        mass = mass.at[parents[body]].add(mass[body])
    return mass


def _factors(key: Array, strength: float, shape: tuple[int, ...]) -> Array:
    return jnp.exp(strength * jax.random.uniform(key, shape, minval=-1.0))
