"""The replay buffers of a run on many devices, on disk.

replay_<device>_of_<devices>/   its episodes, and record_<agent steps>.json

Each process writes those of its own devices, before process 0 commits to the state that
belongs to them. With another number of devices than before, all episodes are dealt out anew.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from specmpc_jax import files
from specmpc_jax.learning.parallel_collector import LaneRecord
from specmpc_jax.learning.replay_buffer import ReplayBuffer, read_episode


class ReplayShards:
    """Stored replay buffers of one run."""

    def __init__(self, directory: Path, world_size: int) -> None:
        """Knows the directory of all states and the number of devices."""
        self._directory, self._world_size = directory, world_size

    def save(
        self, device: int, replay: ReplayBuffer, lanes: Sequence[LaneRecord], agent_steps: int
    ) -> None:
        """Writes one device's new episodes, and where its lanes go on."""
        path = self._shard(device)
        record = {"replay": replay.save(path), "lanes": [list(lane) for lane in lanes]}
        files.write_json(_record(path, agent_steps), record)

    def restore(
        self, device: int, replay: ReplayBuffer, agent_steps: int, before: int
    ) -> list[LaneRecord]:
        """Fills one device's empty buffer.

        Args:
          device: number in the whole job.
          replay: the buffer.
          agent_steps: those of the state that is gone on from.
          before: number of devices that saved it.

        Returns:
          Where its lanes go on.

        Raises:
          UserError: if a file is missing or damaged.
        """
        stored = ReplayShards(self._directory, before)
        if before == self._world_size:
            record = stored._read(device, agent_steps)
            replay.restore(stored._shard(device), record["replay"])
            return [LaneRecord(*lane) for lane in record["lanes"]]
        records = [stored._read(old, agent_steps) for old in range(before)]
        # By age: where there is no longer room for all, the oldest ones go.
        episodes = sorted(
            (serial, old)
            for old, record in enumerate(records)
            for serial in record["replay"]["serials"]
        )
        for serial, old in episodes[device :: self._world_size]:
            replay.add(read_episode(stored._shard(old), serial))
        lanes = [LaneRecord(*lane) for record in records for lane in record["lanes"]]
        # A lane of this number may have been another device's: go on past all of them.
        furthest = LaneRecord(*(max(values) for values in zip(*lanes, strict=True)))
        return [furthest] * (len(lanes) // before)

    def prune(self, devices: Sequence[int], replays: Sequence[ReplayBuffer], steps: int) -> None:
        """Removes what the state of `steps` agent steps does not need of some devices."""
        for device, replay in zip(devices, replays, strict=True):
            path = self._shard(device)
            replay.prune(path)
            for record in path.glob("record_*.json"):
                if record != _record(path, steps):
                    record.unlink()
        for path in self._directory.glob("replay_*_of_*"):
            if not path.name.endswith(f"_of_{self._world_size}"):
                shutil.rmtree(path, ignore_errors=True)  # another process may be at it too

    def _shard(self, device: int) -> Path:
        return self._directory / f"replay_{device}_of_{self._world_size}"

    def _read(self, device: int, agent_steps: int) -> dict[str, Any]:
        return files.read_json(_record(self._shard(device), agent_steps))


def _record(shard: Path, agent_steps: int) -> Path:
    return shard / f"record_{agent_steps:012d}.json"
