"""A tiny training run on a toy environment; as a program, one that tests may kill.

python tests/toy_training.py DIRECTORY STEPS [--resume]
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from specmpc_jax.config import ModelConfig, PlannerConfig  # noqa: E402
from specmpc_jax.envs.batch import EnvironmentBatch  # noqa: E402
from specmpc_jax.envs.protocol import EnvironmentSpec, Transition  # noqa: E402
from specmpc_jax.learning import online  # noqa: E402
from specmpc_jax.learning.config import OnlineConfig, TrainConfig  # noqa: E402
from specmpc_jax.learning.run_directory import RunDirectory  # noqa: E402
from specmpc_jax.machine import enable_compilation_cache  # noqa: E402

EPISODE_LENGTH = 20


class PointMass:
    """Push a point to the origin; deterministic but for its seeded start."""

    spec = EnvironmentSpec("point-mass", "state", (2,), 1, EPISODE_LENGTH, 2)

    def __init__(self, terminates_after: int | None = None) -> None:
        self.terminates_after = terminates_after
        self.seeds: list[int | None] = []

    def reset(self, seed: int | None = None) -> np.ndarray:
        self.seeds.append(seed)
        self.state = np.random.default_rng(seed).uniform(-1, 1, 2)
        self.time = 0
        return self.state.astype(np.float32)

    def step(self, action: np.ndarray) -> Transition:
        position, velocity = self.state
        velocity = 0.9 * velocity + 0.2 * float(action[0])
        self.state = np.array([position + 0.2 * velocity, velocity])
        self.time += 1
        terminated = self.time == self.terminates_after
        truncated = self.time == EPISODE_LENGTH and not terminated
        reward = float(np.exp(-abs(self.state[0])))
        return Transition(self.state.astype(np.float32), reward, terminated, truncated, {})

    def render(self, height: int = 384, width: int = 384) -> np.ndarray:
        picture = np.zeros((height, width, 3), np.uint8)
        picture[:, int(np.clip((self.state[0] + 2) / 4, 0, 0.99) * width)] = 255
        return picture

    def close(self) -> None:
        pass


def make_settings(steps: int, episodic: bool = False, **changes: Any) -> online.Settings:
    """Settings with which an update takes milliseconds."""
    config = dict(
        task="point-mass", steps=steps, eval_freq=160, eval_episodes=2, checkpoint_freq=80
    )
    return online.Settings(
        model=ModelConfig(
            action_dim=1,
            observation_shape=(2,),
            enc_dim=16,
            mlp_dim=16,
            latent_dim=16,
            num_q=2,
            episodic=episodic,
            tasks=("point-mass",),
            episode_lengths=(EPISODE_LENGTH,),
        ),
        planner=PlannerConfig(num_samples=32, num_elites=4, num_pi_trajs=4, iterations=2),
        train=TrainConfig(batch_size=16, buffer_size=400, seed_steps=80),
        online=OnlineConfig(**{**config, **changes}),
    )


def make_lanes(settings: online.Settings, terminates_after: int | None = None) -> online.Lanes:
    def batch(count: int) -> EnvironmentBatch:
        return EnvironmentBatch([PointMass(terminates_after) for _ in range(count)])

    return online.Lanes(batch(settings.online.num_envs), batch(1))


def main() -> None:
    directory, steps, *rest = sys.argv[1:]
    enable_compilation_cache()
    settings = make_settings(int(steps))
    online.train(
        settings,
        RunDirectory(directory),
        make_lanes(settings),
        resume="--resume" in rest,
        quiet=True,
    )


if __name__ == "__main__":
    main()
