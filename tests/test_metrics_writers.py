"""CSV files that grow, resume and never hold a step twice."""

import csv
import sys

import pytest

from specmpc_jax.errors import UserError
from specmpc_jax.metrics_writers import CsvWriter, TensorBoardWriter, Writers, start_wandb


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_are_on_disk_at_once(tmp_path):
    path = tmp_path / "run" / "train.csv"
    writer = CsvWriter(path)
    writer.write(2, {"reward": 1.5})
    assert path.read_text() == "step,reward\n2,1.5\n"
    writer.write(4, {"reward": float("nan")})
    assert path.read_text() == "step,reward\n2,1.5\n4,\n"


def test_new_columns_join_the_old_ones(tmp_path):
    path = tmp_path / "train.csv"
    writer = CsvWriter(path)
    writer.write(1, {"reward": 1})
    writer.write(2, {"reward": 2, "loss": 0.5})
    writer.write(3, {"loss": 0.25})
    assert [list(row.values()) for row in read(path)] == [
        ["1", "1", ""],
        ["2", "2", "0.5"],
        ["3", "", "0.25"],
    ]


def test_resuming_drops_what_comes_after_the_state(tmp_path):
    path = tmp_path / "train.csv"
    writer = CsvWriter(path)
    for step in (10, 20, 30):
        writer.write(step, {"reward": step})
    # A process that was killed in the middle of a line.
    with path.open("a") as file:
        file.write("40,4")
    resumed = CsvWriter(path, resume_step=20)
    resumed.write(30, {"reward": 31})
    assert [(row["step"], row["reward"]) for row in read(path)] == [
        ("10", "10"),
        ("20", "20"),
        ("30", "31"),
    ]


def test_starting_anew_drops_everything(tmp_path):
    path = tmp_path / "train.csv"
    CsvWriter(path).write(10, {"reward": 1})
    CsvWriter(path).write(5, {"loss": 2})
    assert path.read_text() == "step,loss\n5,2\n"


def test_writers_pass_on_every_row(tmp_path):
    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
    writers = Writers(map(CsvWriter, paths))
    writers.write(1, {"x": 2})
    writers.close()
    assert paths[0].read_text() == paths[1].read_text() == "step,x\n1,2\n"


def test_tensorboard_events(tmp_path):
    pytest.importorskip("tensorboardX")
    writer = TensorBoardWriter(tmp_path, "train")
    writer.write(1, {"reward": 2.0})
    writer.close()
    (events,) = tmp_path.glob("events.*")
    assert b"train/reward" in events.read_bytes()


@pytest.mark.parametrize(
    "package, make",
    [
        ("tensorboardX", lambda path: TensorBoardWriter(path, "train")),
        ("wandb", lambda path: start_wandb("project", path)),
    ],
)
def test_missing_packages_are_named(package, make, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f"pip install {package}"):
        make(tmp_path)
