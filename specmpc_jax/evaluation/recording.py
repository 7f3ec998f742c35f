"""Videos of a controller at work."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from specmpc_jax.controller import Controller
from specmpc_jax.envs.multitask import make_batch_for
from specmpc_jax.evaluation.episodes import Episode, Step
from specmpc_jax.evaluation.rollout import run_episodes
from specmpc_jax.evaluation.video import write_video
from specmpc_jax.speculation.decisions import Outcome
from specmpc_jax.types import Array

# Agent steps of the DMControl tasks last between 0.02 and 0.1 s; 25 frames a second looks natural.
FRAMES_PER_SECOND = 25
# Bar under the picture: green, blue and orange that colour-blind readers can tell apart.
OUTCOME_COLOURS = {
    Outcome.ACCEPT: (0, 158, 115),
    Outcome.CORRECT: (0, 114, 178),
    Outcome.REPLAN: (230, 159, 0),
}
BAR_HEIGHT = 12


def record_episode(
    controller: Controller,
    task: str,
    env_seed: int,
    key: Array,
    path: str | Path,
    *,
    max_steps: int | None = None,
    size: int = 320,
    advance: Callable[[int], None] | None = None,
) -> Episode:
    """Runs one episode and writes it as a video.

    A bar along the bottom grows with time and is coloured by the outcome of
    each step: green accept, blue correct, orange replan.

    Args:
      controller: what acts.
      task: the environment.
      env_seed: its seed.
      key: not consumed, see `run_episodes`.
      path: video file, `.mp4`.
      max_steps: cut the episode off after so many agent steps.
      size: width and height in pixels.
      advance: called with the number of agent steps just done.

    Raises:
      UserError: if the machine cannot render.
    """
    frames: list[np.ndarray] = []
    outcomes: list[Outcome] = []
    with make_batch_for(controller.program.model, task, 1) as environments:
        length = max_steps or environments.spec.episode_length

        def observe(step: Step) -> None:
            outcomes.append(Outcome(int(step.info.outcome[0])))
            frame = environments.environments[0].render(height=size, width=size)
            frames.append(with_outcomes(frame, outcomes, length))

        rollouts = run_episodes(
            controller, environments, [env_seed], key, observe, advance, max_steps
        )
    write_video(path, frames, FRAMES_PER_SECOND)
    return rollouts.episodes[0]


def with_outcomes(frame: np.ndarray, outcomes: list[Outcome], length: int) -> np.ndarray:
    """Draws the bar of outcomes so far over the bottom of a frame `[H, W, 3]`."""
    frame = frame.copy()
    width = frame.shape[1]
    frame[-BAR_HEIGHT:] = frame[-BAR_HEIGHT:] // 3
    for step, outcome in enumerate(outcomes):
        left, right = step * width // length, max((step + 1) * width // length, 1)
        frame[-BAR_HEIGHT:, left:right] = OUTCOME_COLOURS[outcome]
    return frame
