"""Ball in cup: swing a ball on a string into a cup."""

import jax
import jax.numpy as jnp
import numpy as np
from mujoco import mjx

from specmpc_jax.envs.mjx.domain import Domain, Start, free_of_collisions
from specmpc_jax.envs.mjx.physics import Physics
from specmpc_jax.types import Array


class BallInCup(Domain):
    """A planar cup that moves, and a ball on a string."""

    def __init__(self, physics: Physics) -> None:
        """Binds the task."""
        super().__init__(physics)
        host = physics.host
        self._ball, self._target = physics.body("ball"), physics.site("target")
        self._room = np.asarray(
            host.site_size[self._target, ::2] - host.geom_size[physics.geom("ball"), 0]
        )
        self._places = np.array(
            [host.jnt_qposadr[physics.joint(name)] for name in ("ball_x", "ball_z")]
        )

    def draw(self, model: mjx.Model, key: Array) -> Start:
        """The ball anywhere above where it does not collide."""
        low, high = jnp.array([-0.2, 0.2]), jnp.array([0.2, 0.5])

        def above(key: Array) -> Array:
            place = jax.random.uniform(key, (2,), minval=low, maxval=high)
            return model.qpos0.at[self._places].set(place)

        return self.start(model, free_of_collisions(self.physics, model, above, key))

    def observe(self, data: mjx.Data, goal: Array) -> Array:
        """Positions and velocities."""
        return jnp.concatenate([data.qpos, data.qvel])

    def reward(self, data: mjx.Data, goal: Array) -> Array:
        """1 with the ball in the cup."""
        apart = jnp.abs(data.site_xpos[self._target] - data.xpos[self._ball])[::2]
        return (apart < self._room).all().astype(jnp.float32)


TASKS = {"catch": BallInCup}
