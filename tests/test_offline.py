"""Recorded episodes: safe reading, the project's format, sampling, and training on them."""

import csv
import io
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

from models import TINY_PLANNER, tiny_config
from specmpc_jax import checkpointing
from specmpc_jax.datasets import episodes
from specmpc_jax.datasets.torch_chunks import read_chunk
from specmpc_jax.errors import UserError
from specmpc_jax.learning import offline
from specmpc_jax.learning.config import OfflineConfig, TrainConfig
from specmpc_jax.learning.offline_data import OfflineData
from specmpc_jax.learning.run_directory import RunDirectory
from specmpc_jax.tasks import task_set

CHUNKS = Path(__file__).parent / "chunks"
FILES = sorted(CHUNKS.glob("*.pt"))
MT30 = task_set("mt30")


def expected():
    """What chunks/README.md says that the files hold."""
    e, t = np.arange(4).reshape(-1, 1, 1), np.arange(12).reshape(1, -1, 1)
    action = np.broadcast_to((np.arange(6) + t) / 100, (4, 12, 6)).astype(np.float32)
    reward = (e + t)[..., 0].astype(np.float32)
    action[:, 0], reward[:, 0] = np.nan, np.nan
    return {
        "obs": (e + t / 100 + np.arange(24) / 10000).astype(np.float32),
        "action": action,
        "reward": reward,
        "task": np.broadcast_to(7 * e[..., 0], (4, 12)),
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_of_every_tensordict_are_read(path):
    found = read_chunk(path)
    assert set(found) == set(expected())
    for name, array in expected().items():
        np.testing.assert_allclose(found[name], array, rtol=1e-6)
        assert found[name].dtype == (np.int32 if name == "task" else np.float32)
        assert not found[name].flags.writeable


class _Call:
    """Pickles as the call of a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def _forge(path, program, source=FILES[-1], compression=zipfile.ZIP_STORED):
    """A copy of a chunk with another pickle, or compressed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", compression) as new:
        for entry in old.namelist():
            own = program if entry.endswith("data.pkl") and program is not None else None
            new.writestr(entry, old.read(entry) if own is None else own)
    return path


def _original():
    with zipfile.ZipFile(FILES[-1]) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("data.pkl")]
        return archive.read(name)


@pytest.mark.parametrize("protocol", [2, 4])
def test_code_in_a_file_is_refused_and_not_run(protocol, tmp_path):
    witness = tmp_path / "ran"
    for function, arguments in ((os.system, (f"touch {witness}",)), (exec, ("import torch",))):
        program = pickle.dumps(_Call(function, *arguments), protocol)
        with pytest.raises(UserError, match="bad.pt is refused: it"):
            read_chunk(_forge(tmp_path / "bad.pt", program))
    assert not witness.exists()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda p: p.replace(b"torch\nSize", b"torch\nload"), "it asks for torch.load"),
        (lambda p: p.replace(b"torch\nIntStorage", b"torch\nQInt8Storage"), "QInt8Storage"),
        # 4 x 12 x 24 numbers of the first tensor: more than its storage has.
        (lambda p: p.replace(b"K\x04K\x0cK\x18", b"K\x05K\x0cK\x18", 1), "beyond its storage"),
        (lambda p: p.replace(b"K\x04K\x0cK\x18", b"K\x04K\x0cN", 1), "malformed shape"),
        (lambda p: p[:-1] + b"}b.", "refused|damaged"),
        (lambda p: b"\x80\x02}.", "holds no TensorDict"),
        (lambda p: p[: len(p) // 2], "damaged"),
        (lambda p: b"\x80\x02\x82\x01.", "instruction EXT1"),
        (lambda p: b"\x80\x02X\x00\x00\x20\x00" + b" " * (1 << 21) + b".", "larger than"),
    ],
)
def test_malformed_pickles_are_refused(change, message, tmp_path):
    program = change(_original())
    assert program != _original()
    with pytest.raises(UserError, match=message):
        read_chunk(_forge(tmp_path / "bad.pt", program))


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="arrays are compressed"):
        read_chunk(_forge(tmp_path / "small.pt", None, compression=zipfile.ZIP_DEFLATED))
    (tmp_path / "cut.pt").write_bytes(FILES[0].read_bytes()[:3000])
    with pytest.raises(UserError, match="cut.pt is damaged or no file of torch.save"):
        read_chunk(tmp_path / "cut.pt")
    with pytest.raises(UserError, match="there is no"):
        read_chunk(tmp_path / "none.pt")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("other.txt", "nothing")
    (tmp_path / "zip.pt").write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="no archive of torch.save"):
        read_chunk(tmp_path / "zip.pt")


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """The chunk files in a directory of their own, and converted."""
    root = tmp_path_factory.mktemp("data")
    (root / "official").mkdir()
    for path in FILES:
        shutil.copy(path, root / "official")
    counted = []
    episodes.convert(episodes.open_chunks(root / "official"), root / "records", counted.append)
    assert sum(counted) == 12
    return root


def test_conversion_keeps_every_number(directories):
    official = episodes.open_chunks(directories / "official")
    records = episodes.open_chunks(directories / "records")
    for one, other in zip(official, records, strict=True):
        for name in one.arrays:
            np.testing.assert_array_equal(one.arrays[name], other.arrays[name])
    with pytest.raises(UserError, match="holds converted data already"):
        episodes.convert(official, directories / "records")


def test_a_killed_conversion_goes_on(directories, tmp_path):
    chunks = episodes.open_chunks(directories / "official")
    shutil.copy(directories / "records" / "chunk_0000.npy", tmp_path)
    before = (tmp_path / "chunk_0000.npy").stat().st_mtime_ns
    # Of other data, or of other columns: written anew.
    np.save(tmp_path / "chunk_0001.npy", np.zeros((4, 12)))
    episodes.convert(chunks, tmp_path)
    assert (tmp_path / "chunk_0000.npy").stat().st_mtime_ns == before
    assert len(episodes.open_chunks(tmp_path)) == 3


@pytest.mark.parametrize("kind", ["official", "records"])
def test_slices_are_those_of_the_episodes(directories, kind):
    data = OfflineData(episodes.open_chunks(directories / kind), MT30, horizon=3, seed=1)
    assert data.num_episodes == 12 and data.num_slices == 12 * 9
    batch = data.sample(16, 5)
    assert batch.observation.shape == (5, 4, 16, 24) and batch.action.shape == (5, 3, 16, 6)
    assert batch.reward.shape == (5, 3, 16) and batch.task.shape == (5, 16)
    assert not batch.terminated.any()
    episode, first = batch.task // 7, np.rint(100 * batch.observation[:, 0, :, 0] % 100)
    for step in range(4):
        seen = episode + (first + step) / 100
        np.testing.assert_allclose(batch.observation[:, step, :, 0], seen, rtol=1e-5)
    for step in range(3):  # the action that led to the next observation, and its reward
        np.testing.assert_allclose(batch.reward[:, step], episode + first + step + 1)
        np.testing.assert_allclose(batch.action[:, step, :, 0], (first + step + 1) / 100)


def test_draws_are_uniform_numbered_and_alike_in_both_formats(directories):
    chunks = [episodes.open_chunks(directories / kind) for kind in ("official", "records")]
    one, other, later = (
        OfflineData(chunk, MT30, horizon=3, seed=4) for chunk in (*chunks, chunks[0])
    )
    first, second = one.sample(8, 1), one.sample(8, 1)
    both = other.sample(8, 2)
    np.testing.assert_array_equal(both.observation[0], first.observation[0])
    later.drawn = 1
    np.testing.assert_array_equal(later.sample(8, 1).reward, second.reward)
    many = one.sample(20_000, 1)
    starts = np.rint(100 * many.observation[0, 0, :, 0] % 100).astype(int)
    counts = np.bincount(starts * 4 + many.task[0] // 7, minlength=36)
    assert len(counts) == 36 and abs(counts / counts.mean() - 1).max() < 0.15


def test_data_that_do_not_fit_are_refused(directories, tmp_path):
    chunks = episodes.open_chunks(directories / "records")
    with pytest.raises(UserError, match=r"sizes \(24, 6\); mt80 has \(39, 6\)"):
        OfflineData(chunks, task_set("mt80"), horizon=3)
    with pytest.raises(UserError, match="of 12 rows hold no 12 steps"):
        OfflineData(chunks, MT30, horizon=12)
    arrays = {name: np.array(array) for name, array in chunks[0].arrays.items()}
    for name, value, message in (
        ("task", 30, "tasks 30 to 30 in a slice.*tasks 0 to 29"),
        ("reward", np.nan, "hold a reward that is not finite"),
    ):
        broken = episodes.Chunk("broken", {**arrays, name: np.full_like(arrays[name], value)})
        with pytest.raises(UserError, match=message):
            OfflineData([broken], MT30, horizon=3).sample(4, 1)
    with pytest.raises(UserError, match="neither index.json nor chunk files"):
        episodes.open_chunks(tmp_path)


def settings(steps):
    model = tiny_config(
        observation_shape=(24,),
        action_dim=6,
        task_dim=8,
        tasks=MT30.names,
        action_dims=MT30.action_dims,
        episode_lengths=MT30.episode_lengths,
    )
    return offline.OfflineSettings(
        model,
        TINY_PLANNER,
        TrainConfig(batch_size=8),
        OfflineConfig("mt30", steps=steps, log_freq=2, checkpoint_freq=4, eval_freq=4),
    )


def test_a_run_in_two_parts_takes_the_same_course(directories, tmp_path):
    def run(name, steps, resume=False):
        data = OfflineData(episodes.open_chunks(directories / "records"), MT30, horizon=3)
        directory = RunDirectory(tmp_path / name)
        offline.train(
            settings(steps),
            directory,
            data,
            evaluate=lambda agent, updates: {"normalised_score": -float(updates)},
            resume=resume,
            quiet=True,
        )
        return checkpointing.load_model(directory.last_model)

    def losses(name):
        with (tmp_path / name / "train.csv").open() as file:
            return [(row["step"], row["total_loss"]) for row in csv.DictReader(file)]

    whole = run("whole", 8)
    run("parts", 4)
    parts = run("parts", 8, resume=True)
    jax.tree.map(np.testing.assert_array_equal, whole.params, parts.params)
    assert losses("whole") == losses("parts") and [s for s, _ in losses("whole")] == list("2468")
    assert whole.config.tasks == MT30.names
    # The first evaluation was the best, and it was after four updates.
    best = checkpointing.load_model(tmp_path / "parts" / "checkpoints" / "best")
    assert best.metadata["episode_reward"] == -4.0
    with pytest.raises(UserError, match="--resume"):
        run("parts", 8)
