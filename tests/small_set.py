"""A task set of two short tasks of different shapes; as a program, runs a binary that knows it.

python tests/small_set.py MODULE [FLAGS]
"""

import runpy
import sys
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from specmpc_jax import tasks  # noqa: E402
from specmpc_jax.envs.protocol import EnvironmentSpec, Transition  # noqa: E402

LENGTH = 10


class _Push:
    """Pushes a point; the reward says which task it is, success that the time is over."""

    observation_dim, action_dim, reward = 0, 0, 0.0

    def __init__(self, task, action_repeat=1, seed=0):
        shape = (self.observation_dim,)
        self.spec = EnvironmentSpec(task, "state", shape, self.action_dim, LENGTH, action_repeat)

    def reset(self, seed=None):
        self.time = 0
        self.state = np.random.default_rng(seed).normal(size=self.observation_dim)
        return self.state.astype(np.float32)

    def step(self, action):
        assert action.shape == (self.action_dim,)
        self.time += 1
        self.state[: self.action_dim] += 0.1 * action
        last = self.time == LENGTH
        told = {"success": last} if self.reward > 1 else {}
        return Transition(self.state.astype(np.float32), self.reward, False, last, told)

    def render(self, height=8, width=8):
        return np.full((height, width, 3), self.time, np.uint8)

    def close(self):
        pass


class Narrow(_Push):
    observation_dim, action_dim, reward = 3, 1, 1.0


class Wide(_Push):
    observation_dim, action_dim, reward = 5, 2, 2.0


SET = tasks.TaskSet(
    "small",
    (tasks.Task("small_set:Narrow", 3, 1, LENGTH), tasks.Task("small_set:Wide", 5, 2, LENGTH)),
)

if __name__ == "__main__":
    tasks.TASK_SETS["small"] = SET
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
