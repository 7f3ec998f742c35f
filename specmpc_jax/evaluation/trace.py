"""What speculative execution did at each step of one episode, with pictures."""

import dataclasses
from collections.abc import Callable

import numpy as np

from specmpc_jax.controller import Controller
from specmpc_jax.envs.batch import EnvironmentBatch
from specmpc_jax.errors import UserError
from specmpc_jax.evaluation.episodes import Episode, Step
from specmpc_jax.evaluation.rollout import run_episodes
from specmpc_jax.speculation.decisions import Decision, Outcome
from specmpc_jax.speculation.executor import Thresholds
from specmpc_jax.types import Array


@dataclasses.dataclass(frozen=True)
class Trace:
    """One episode of T steps.

    Where a plan was due anyway (`block_end`) there was no prediction to compare
    with, so mismatch and thresholds are NaN. `planned` is what the plan in force
    after the decision says; `dropped` what the plan before it said, NaN but at
    replans by mismatch.
    """

    episode: Episode
    outcome: np.ndarray  # [T] int, an `Outcome`
    decision: np.ndarray  # [T] int, a `Decision`: the outcome and its reason
    block_end: np.ndarray  # [T] bool, a REPLAN without it is a mismatch
    offset: np.ndarray  # [T] int, steps since the plan in force was made
    mismatch: np.ndarray  # [T]
    tau_accept: np.ndarray  # [T] threshold that the mismatch was compared with
    tau_replan: np.ndarray  # [T]
    planned: np.ndarray  # [T, A]
    dropped: np.ndarray  # [T, A]
    action: np.ndarray  # [T, A] executed
    reward: np.ndarray  # [T]
    frames: list[np.ndarray]  # T pictures [H, W, 3] uint8 after each step; none, if not rendered
    no_frames: str = ""  # why there are none

    def columns(self) -> dict[str, np.ndarray]:
        """All numbers as columns `[T]` by name; outcomes are named, actions numbered."""
        steps = np.arange(len(self.outcome))
        table = {"step": steps, "outcome": np.array([_NAMES[value] for value in self.outcome])}
        table["decision"] = np.array([Decision(value).name.lower() for value in self.decision])
        for name in ("block_end", "offset", "mismatch", "tau_accept", "tau_replan", "reward"):
            table[name] = getattr(self, name)
        table["return"] = np.cumsum(self.reward)
        for name in ("planned", "executed", "dropped"):
            values = self.action if name == "executed" else getattr(self, name)
            table |= {f"{name}_{i}": column for i, column in enumerate(values.T)}
        return table


_NAMES = {outcome: outcome.name.lower() for outcome in Outcome}


def trace_episode(
    controller: Controller,
    environments: EnvironmentBatch,
    env_seed: int,
    key: Array,
    *,
    max_steps: int | None = None,
    frame_size: int | None = 256,
    advance: Callable[[int], None] | None = None,
) -> Trace:
    """Runs one episode and keeps everything that was decided in it.

    A machine that cannot render gives a trace without frames that says why.

    Args:
      controller: what acts.
      environments: a single lane.
      env_seed: the environment's seed.
      key: not consumed, see `run_episodes`.
      max_steps: cut the episode off after so many agent steps.
      frame_size: width and height of the pictures in pixels; None takes none.
      advance: called with the number of agent steps just done.

    Raises:
      UserError: if there are several lanes.
    """
    if len(environments) != 1:
        raise UserError(f"a trace follows one environment, got {len(environments)}")
    recorder = _Recorder(controller.arrays.thresholds)
    camera = _Camera(environments, frame_size)

    def observe(step: Step) -> None:
        recorder.add(step)
        camera.shoot()

    rollouts = run_episodes(controller, environments, [env_seed], key, observe, advance, max_steps)
    steps = {name: np.stack(values) for name, values in recorder.steps.items()}
    return Trace(
        episode=rollouts.episodes[0], frames=camera.frames, no_frames=camera.failure, **steps
    )


class _Recorder:
    """Turns what an observer sees into the fields of a `Trace`."""

    def __init__(self, thresholds: Thresholds):
        self.steps: dict[str, list[np.ndarray]] = {}
        self._accept = np.asarray(thresholds.accept)
        self._plan = np.zeros((0, 0))  # [X, A] actions of the plan in force before the step
        self._offset = 0  # of the step, in that plan

    def add(self, step: Step) -> None:
        """Takes one step of a single lane."""
        info, action = step.info, np.array(step.action[0])
        block_end, planned = bool(info.block_end[0]), np.array(info.planned.a_plan[0])
        due = self._offset
        replanned = int(info.outcome[0]) == Outcome.REPLAN
        dropped = self._plan[due] if replanned and not block_end else np.full_like(planned, np.nan)
        entries = {
            "outcome": int(info.outcome[0]),
            "decision": int(info.decision[0]),
            "block_end": block_end,
            "offset": int(info.offset[0]),
            "mismatch": np.nan if block_end else float(info.mismatch[0]),
            "tau_accept": np.nan if block_end else float(self._accept[due]),
            "tau_replan": np.nan if block_end else float(info.limit[0]),
            "planned": planned,
            "dropped": dropped,
            "action": action,
            "reward": float(step.reward[0]),
        }
        for name, value in entries.items():
            self.steps.setdefault(name, []).append(np.asarray(value))
        # The state's buffers are given away at the next step.
        assert step.state is not None
        self._plan = np.array(step.state.block.actions[0])
        self._offset = int(info.offset[0]) + 1


class _Camera:
    """Takes pictures of a single lane until the machine refuses."""

    def __init__(self, environments: EnvironmentBatch, size: int | None):
        self.frames: list[np.ndarray] = []
        self.failure = "" if size else "none were asked for"
        self._environment = environments.environments[0]
        self._size = size or 0

    def shoot(self) -> None:
        """Takes one picture, unless an earlier one failed."""
        if self.failure:
            return
        try:
            self.frames.append(self._environment.render(height=self._size, width=self._size))
        except UserError as error:
            self.frames, self.failure = [], str(error)
