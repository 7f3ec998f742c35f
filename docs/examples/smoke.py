"""Says whether an installation works: loads the bundled teacher, acts, and draws a frame.

python docs/examples/smoke.py
"""

import jax
import numpy as np

import specmpc_jax as sm
from specmpc_jax.envs import registry


def main() -> None:
    """Controls walker-walk for five steps with a small planner and renders it."""
    agent = sm.load("bundled:walker-walk-1m").with_planner(num_samples=64, num_elites=8)
    controller = agent.controller(exec_horizon=3)
    environment = registry.make("walker-walk")
    observation = environment.reset(seed=0)
    state = controller.initial_state(jax.random.key(0))
    total = 0.0
    for _ in range(5):
        action, state, _ = controller.act(observation, state)
        transition = environment.step(np.asarray(action))
        observation, total = transition.observation, total + transition.reward
    frame = environment.render(120, 160)
    if not np.isfinite(total) or frame.std() == 0:
        raise SystemExit(f"error: the reward is {total}, the frame varies by {frame.std():.1f}")
    devices = ", ".join(sorted({device.platform for device in jax.devices()}))
    print(f"specmpc_jax {sm.__version__} on {devices}: acts and draws ({frame.shape} frame)")


if __name__ == "__main__":
    main()
