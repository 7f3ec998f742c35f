"""The files of a training run, and how a killed run finds its way back.

config.json             configuration and provenance
train.csv, eval.csv     what was measured
checkpoints/last        the newest world model, for use (`specmpc_jax.load`)
checkpoints/best        the one with the best evaluation
checkpoints/state       all that `--resume` needs: state_<step>, and replay/
videos/
diverged.json           only if training diverged: where, and why
"""

import contextlib
import dataclasses
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax

from specmpc_jax import checkpointing, files
from specmpc_jax.config import ModelConfig
from specmpc_jax.errors import UserError
from specmpc_jax.learning.replay_buffer import ReplayBuffer
from specmpc_jax.learning.train_state import TrainState
from specmpc_jax.types import Params

_STATE = "state_"
# Settings that a resumed run may set anew: they leave its course as it is.
_MAY_CHANGE = (
    *("steps", "eval_freq", "eval_episodes", "checkpoint_freq", "video_freq", "log_freq"),
    *("world_size", "check_freq"),
)


class Position(NamedTuple):
    """How far a run has come, apart from arrays and replay."""

    agent_steps: int = 0
    episodes_started: int = 0
    best_reward: float | None = None


class RunDirectory:
    """One run's directory; every file in it is written whole or not at all."""

    def __init__(self, path: files.PathLike) -> None:
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.train_csv = self.path / "train.csv"
        self.eval_csv = self.path / "eval.csv"
        self.divergence = self.path / "diverged.json"
        self.videos = self.path / "videos"
        self.last_model = self.path / "checkpoints" / "last"
        self.best_model = self.path / "checkpoints" / "best"
        self.states = self.path / "checkpoints" / "state"
        self._replay = self.states / "replay"
        self._claim = contextlib.ExitStack()  # held until this object goes

    def start(self, settings: dict[str, Any], record: dict[str, Any], resume: bool) -> bool:
        """Claims the directory for a run and writes config.json.

        Args:
          settings: the run's configurations by name.
          record: further entries of config.json, such as its provenance.
          resume: go on with what is there, if anything.

        Returns:
          Whether there is a state to go on from.

        Raises:
          UserError: if a run is there and `resume` is not set, it was started
            with other settings, or another process is at it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._claim.enter_context(files.sole_user(self.path))
        settings = files.to_plain(settings)
        if self.config.exists():
            if not resume:
                raise UserError(
                    f"{self.path} holds a run already; continue it with --resume or choose "
                    "another --exp_name"
                )
            _compare(self.path, files.read_json(self.config), settings)
            self._remove_scraps()
        files.write_json(self.config, settings | record)
        return self.newest_state() is not None

    def save(
        self,
        state: TrainState,
        replay: ReplayBuffer | None,
        position: Position,
        model: ModelConfig,
    ) -> None:
        """Saves everything needed to go on, then the world model for use; offline without replay.

        Killed at any moment, the directory still holds this state or the last one.
        """
        kept = None if replay is None else replay.save(self._replay)
        self.commit(state, {"replay": kept}, position)
        if replay is not None:
            replay.prune(self._replay)
        self.save_last(state.params, model, position)

    def restore(
        self, state: TrainState, replay: ReplayBuffer | None
    ) -> tuple[TrainState, Position]:
        """Reads the newest state.

        Args:
          state: a state of the same shapes.
          replay: an empty buffer, to be filled; None for an offline run.

        Raises:
          UserError: if there is none, or it does not fit.
        """
        record = self.newest_record()
        if replay is not None:
            replay.restore(self._replay, record["replay"])
        return self.read_state(state), Position(**record["position"])

    def commit(self, state: TrainState, record: dict[str, Any], position: Position) -> None:
        """Stores a state with its record, and drops older ones."""
        path = self.states / f"{_STATE}{position.agent_steps:012d}"
        record = {"position": position._asdict(), **record}
        checkpointing.save_tree(path, _without_typed_keys(state), record, overwrite=True)
        for older in self.states.glob(f"{_STATE}*"):
            if older != path:
                shutil.rmtree(older)

    def save_last(self, params: Params, model: ModelConfig, position: Position) -> None:
        """Stores the newest world model, for use."""
        metadata = {"agent_steps": position.agent_steps}
        checkpointing.save_model(self.last_model, params, model, metadata, overwrite=True)

    def newest_record(self) -> dict[str, Any]:
        """The record of the newest state.

        Raises:
          UserError: if there is none.
        """
        path = self.newest_state()
        if path is None:
            raise UserError(f"{self.path} holds no state to resume from")
        return checkpointing.load_metadata(path)

    def read_state(self, state: TrainState) -> TrainState:
        """The newest state, which has to have the shapes of `state`."""
        path = files.existing_path(self.newest_state() or self.states)
        found = checkpointing.load_tree(path, _without_typed_keys(state))
        found = jax.tree.map(jax.numpy.asarray, found)
        key = jax.random.wrap_key_data(found.key, impl=jax.random.key_impl(state.key))
        return found.replace(key=key)

    def save_best(
        self, params: Params, model: ModelConfig, agent_steps: int, reward: float
    ) -> None:
        """Stores the world model of the best evaluation so far."""
        metadata = {"agent_steps": agent_steps, "episode_reward": reward}
        checkpointing.save_model(self.best_model, params, model, metadata, overwrite=True)

    def _remove_scraps(self) -> None:
        """Removes half-written files of a killed run; all have hidden names."""
        for scrap in (*self.states.glob(".*"), *self._replay.glob(".*")):
            shutil.rmtree(scrap) if scrap.is_dir() else scrap.unlink()

    def newest_state(self) -> Path | None:
        """Directory of the newest complete state; None before the first one."""
        return max(self.states.glob(f"{_STATE}*"), default=None)


def _without_typed_keys(state: TrainState) -> TrainState:
    """Replaces the typed key, which files cannot hold, by its data."""
    return dataclasses.replace(state, key=jax.random.key_data(state.key))


def _compare(path: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Refuses to go on with a run under other settings."""
    changed = []
    for name, fields in new.items():
        before = old.get(name) or {}
        changed += [
            f"{field} was {before.get(field)}, is {value}"
            for field, value in fields.items()
            if field not in _MAY_CHANGE and before.get(field) != value
        ]
    if changed:
        raise UserError(f"{path} was started with other settings: {'; '.join(changed)}")
