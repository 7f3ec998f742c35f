"""A multi-task model cut down to one task computes what it computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import TINY_PLANNER, tiny_agent
from specmpc_jax.agent import Agent
from specmpc_jax.errors import UserError
from specmpc_jax.ops.task_embedding import look_up
from specmpc_jax.specialise import specialise

OBSERVATION_DIMS, ACTION_DIMS = (5, 3), (3, 2)


@pytest.fixture(scope="module")
def teacher():
    return tiny_agent(
        observation_shape=(5,),
        action_dim=3,
        task_dim=4,
        tasks=("wide", "narrow"),
        action_dims=ACTION_DIMS,
        observation_dims=OBSERVATION_DIMS,
        episode_lengths=(500, 50),
    )


def cut(teacher, task, number=None, **options):
    number = teacher.config.tasks.index(task) if number is None else number
    params, config = specialise(
        teacher.params,
        teacher.config,
        task,
        observation_dim=OBSERVATION_DIMS[number],
        action_dim=ACTION_DIMS[number],
        episode_length=teacher.config.episode_lengths[number],
        **options,
    )
    return Agent(params, config, TINY_PLANNER)


@pytest.mark.parametrize("number, task", [(0, "wide"), (1, "narrow")])
def test_functions_are_those_of_the_teacher(teacher, number, task):
    single = cut(teacher, task)
    assert not single.config.multitask and single.config.discounts == (
        teacher.config.discounts[number],
    )
    rng = np.random.default_rng(0)
    observation = rng.normal(size=(6, OBSERVATION_DIMS[number])).astype(np.float32)
    action = rng.uniform(-1, 1, (6, ACTION_DIMS[number])).astype(np.float32)
    padded = np.pad(observation, ((0, 0), (0, 5 - observation.shape[1])))
    wide_action = np.pad(action, ((0, 0), (0, 3 - action.shape[1])))
    z = single.encode(observation)

    def alike(one, other):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5)

    alike(z, teacher.encode(padded, task=task))
    for name in ("next", "reward", "q"):
        alike(getattr(single, name)(z, action), getattr(teacher, name)(z, wide_action, task=task))
    used = slice(0, ACTION_DIMS[number])
    alike(single.policy_mean(z), teacher.policy_mean(z, task=task)[:, used])


def test_the_start_of_the_embedding(teacher):
    observation = np.ones((2, 5), np.float32)

    def encoded_with(embedding):
        params = {**teacher.params, "task_embedding": jnp.tile(embedding, (2, 1))}
        return Agent(params, teacher.config, TINY_PLANNER).encode(observation, task=0)

    rows = look_up(teacher.params["task_embedding"], jnp.arange(2))
    for start, embedding in (("narrow", rows[1]), ("zero", jnp.zeros(4)), ("mean", rows.mean(0))):
        new = cut(teacher, "new", 0, start=start)
        assert new.config.tasks == ("new",)
        np.testing.assert_allclose(
            new.encode(observation), encoded_with(embedding), rtol=2e-4, atol=2e-5
        )
    assert not np.allclose(encoded_with(rows[0]), encoded_with(rows[1]), atol=1e-4)


def test_what_cannot_be_specialised(teacher):
    with pytest.raises(UserError, match="new is new to the model; say whose embedding"):
        cut(teacher, "new", 0)
    with pytest.raises(
        UserError, match="no task 'wdie' to take the embedding of; the nearest are wide"
    ):
        cut(teacher, "new", 0, start="wdie")
    with pytest.raises(UserError, match="has 6 observation and 3 action dimensions; the model"):
        specialise(
            teacher.params,
            teacher.config,
            "new",
            observation_dim=6,
            action_dim=3,
            episode_length=500,
            start="zero",
        )
    with pytest.raises(UserError, match="nothing to specialise"):
        cut(cut(teacher, "wide"), "wide", 0)


def test_a_specialised_model_can_be_trained(teacher):
    from specmpc_jax.learning.config import TrainConfig
    from specmpc_jax.learning.learner import Learner

    single = cut(teacher, "narrow")
    config = TrainConfig(batch_size=2, buffer_size=10)
    learner = Learner(single.config, config, jax.random.key(0), params=single.params)
    jax.tree.map(np.testing.assert_array_equal, learner.params, single.params)
