"""Which teacher a task, a size and a directory mean."""

import pytest
from absl import flags

from experiments.support import teachers
from models import tiny_agent
from specmpc_jax import checkpointing
from specmpc_jax.config import MODEL_SIZES
from specmpc_jax.errors import UserError


@pytest.fixture(scope="module", autouse=True)
def parsed_flags():
    """Flags at their defaults."""
    flags.FLAGS(["test"], known_only=True)


@pytest.fixture
def directory(tmp_path):
    """Official file names, a converted teacher, and things that are none."""
    for name in (
        "walker-walk-1.pt",
        "humanoid-run-2.pt",
        "mt30-5M.pt",
        "mt80-19M.pt",
        "tdmpc2_48m.pt",
        "notes.txt",
    ):
        (tmp_path / name).write_bytes(b"")
    agent = tiny_agent(tasks=("cheetah-run",), model_size=1)
    checkpointing.save_model(tmp_path / "cheetah", agent.params, agent.config)
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("task", "size", "name"),
    [
        ("walker-walk", None, "walker-walk-1.pt"),  # a single-task file first
        ("walker-walk", 19, "mt80-19M.pt"),  # else a task set that holds the task
        ("walker-walk", 48, "tdmpc2_48m.pt"),
        ("humanoid-run", 5, "humanoid-run-2.pt"),
        ("cheetah-run", None, "cheetah"),
        ("cheetah-run", 5, "mt30-5M.pt"),
        ("mw-reach", 19, "mt80-19M.pt"),
    ],
)
def test_the_most_specific_teacher_is_found(directory, task, size, name):
    assert teachers.find(directory, task, size).path.name == name


def test_a_missing_teacher_lists_what_is_there(directory):
    with pytest.raises(UserError, match=r"no 317M teacher for walker-walk.*mt30-5M\.pt"):
        teachers.find(directory, "walker-walk", 317)
    with pytest.raises(UserError, match="holds nothing"):
        teachers.find(directory / "nowhere", "walker-walk")


def test_sizes_available(directory):
    assert teachers.sizes_available(directory, "cheetah-run") == [1, 5, 19, 48]
    assert teachers.sizes_available(directory, "mw-reach") == [19, 48]


@pytest.mark.parametrize(
    ("task", "size", "said"),
    [
        ("walker-run", None, "trained on cheetah-run, not on walker-run"),
        ("cheetah-run", 5, "weights are those of size 1"),
        ("cheetah-run", 7, "model size 7 is unknown"),
    ],
)
def test_a_teacher_that_is_not_as_asked_is_refused(directory, task, size, said):
    with pytest.raises(UserError, match=said):
        teachers.load(str(directory / "cheetah"), task, size)


def test_every_size_has_a_unique_table_row():
    assert len({tuple(row.items()) for row in MODEL_SIZES.values()}) == 5
