"""Task sets: names, order, sizes and masks of the released multi-task models."""

import numpy as np
import pytest

from specmpc_jax import envs
from specmpc_jax.errors import UserError
from specmpc_jax.tasks import task_set


@pytest.mark.parametrize("name, count", [("mt30", 30), ("mt80", 80)])
def test_sets_have_their_number_of_distinct_tasks(name, count):
    tasks = task_set(name)
    assert len(tasks) == len(set(tasks.names)) == count


def test_order_is_that_of_the_task_embedding():
    mt30, mt80 = task_set("mt30"), task_set("mt80")
    assert mt80.tasks[:30] == mt30.tasks
    rows = {
        0: "walker-stand",
        12: "cup-catch",
        18: "hopper-hop",
        19: "walker-walk-backwards",
        29: "pendulum-spin",
        30: "mw-assembly",
        62: "mw-push-back",
        79: "mw-hand-insert",
    }
    for row, name in rows.items():
        assert mt80.names[row] == name
        assert mt80.index(name) == row


def test_sizes_and_episode_lengths():
    mt80 = task_set("mt80")
    assert max(task_set("mt30").observation_dims) == 24
    assert max(mt80.observation_dims) == 39
    assert mt80.episode_lengths == (500,) * 30 + (100,) * 50
    assert set(zip(mt80.observation_dims[30:], mt80.action_dims[30:], strict=True)) == {(39, 4)}


def test_action_masks_mark_the_first_dimensions_of_each_task():
    masks = task_set("mt80").action_masks()
    assert masks.shape == (80, 6)
    assert masks.dtype == np.float32
    np.testing.assert_array_equal(masks[task_set("mt80").index("cup-catch")], [1, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(masks[0], np.ones(6))
    np.testing.assert_array_equal(masks.sum(1), task_set("mt80").action_dims)


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(UserError, match="'mt50' is unknown; sets are mt30, mt80"):
        task_set("mt50")
    with pytest.raises(UserError, match="not in mt30; nearest there: walker-walk"):
        task_set("mt30").index("walker-wlak")


@pytest.mark.parametrize("task", task_set("mt30").tasks, ids=lambda task: task.name)
def test_tasks_of_the_suites_bodies_have_the_sizes_of_the_real_environment(task):
    environment = envs.make(task.name)
    spec = environment.spec
    environment.close()
    assert spec.task == task.name
    assert spec.observation_shape == (task.observation_dim,)
    assert spec.action_dim == task.action_dim
    assert spec.episode_length == task.episode_length
