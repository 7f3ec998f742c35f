"""Environments: seeding, order of observations, action repeat, lanes, pictures."""

import importlib
import logging
import os
import subprocess
import sys

import numpy as np
import pytest

from specmpc_jax import envs
from specmpc_jax.envs import dm_control
from specmpc_jax.envs.rendering import import_suite
from specmpc_jax.errors import UserError

suite = import_suite()
action_scale = importlib.import_module("dm_control.suite.wrappers.action_scale")

# Different kinds of tasks: contacts, a target drawn into the model, a model drawn
# at load, unlimited actuators, scalar and matrix observations, wide actions.
SAMPLE = (
    ("walker-walk", "walker", "walk"),
    ("cup-catch", "ball_in_cup", "catch"),
    ("reacher-hard", "reacher", "hard"),
    ("pointmass-hard", "point_mass", "hard"),
    ("lqr-lqr-6-2", "lqr", "lqr_6_2"),
    ("manipulator-bring-ball", "manipulator", "bring_ball"),
    ("humanoid-cmu-run", "humanoid_CMU", "run"),
    ("quadruped-walk", "quadruped", "walk"),
)
NAMES = {name for name, _, _ in SAMPLE}


def _actions(environment, count, seed=0):
    shape = (count, environment.spec.action_dim)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def _flat(observation):
    return np.concatenate([np.ravel(value) for value in observation.values()]).astype(np.float32)


def _suite_episode(domain, task, seed, actions):
    """The same episode by dm_control alone, with its own action wrapper."""
    fresh = suite.load(domain, task, task_kwargs={"random": seed})
    if domain != "lqr":
        fresh = action_scale.Wrapper(fresh, minimum=-1.0, maximum=1.0)
    observations, rewards = [_flat(fresh.reset().observation)], []
    for action in actions:
        steps = [fresh.step(action.astype(np.float64)) for _ in range(2)]
        observations.append(_flat(steps[-1].observation))
        rewards.append(steps[0].reward + steps[1].reward)
    return np.stack(observations), np.array(rewards)


def _episode(environment, seed, actions):
    observations, rewards = [environment.reset(seed)], []
    for action in actions:
        transition = environment.step(action)
        observations.append(transition.observation)
        rewards.append(transition.reward)
    return np.stack(observations), np.array(rewards)


@pytest.fixture
def walker():
    environment = envs.make("walker-walk")
    yield environment
    environment.close()


@pytest.mark.parametrize("name, domain, task", SAMPLE, ids=lambda value: value)
def test_a_seed_gives_the_episode_of_a_fresh_load(name, domain, task):
    environment = envs.make(name)
    actions = _actions(environment, 10)
    # Twice, with another episode between: nothing of earlier episodes may remain.
    for seed in (1003, 5, 1003):
        observations, rewards = _episode(environment, seed, actions)
        expected_observations, expected_rewards = _suite_episode(domain, task, seed, actions)
        np.testing.assert_array_equal(observations, expected_observations)
        np.testing.assert_array_equal(rewards, expected_rewards)
    environment.close()


def test_seeds_differ_and_a_reset_without_seed_goes_on(walker):
    first = walker.reset()
    np.testing.assert_array_equal(first, envs.make("walker-walk", seed=0).reset())
    assert not np.array_equal(first, walker.reset())
    assert not np.array_equal(walker.reset(1), walker.reset(2))


def test_observations_are_float32_in_the_suites_order():
    environment = envs.make("humanoid-cmu-stand")
    parts = suite.load("humanoid_CMU", "stand", task_kwargs={"random": 4}).reset().observation
    assert next(iter(parts)) == "joint_angles"
    observation = environment.reset(4)
    assert observation.dtype == np.float32
    assert observation.shape == environment.spec.observation_shape == (137,)
    np.testing.assert_array_equal(observation[:56], parts["joint_angles"].astype(np.float32))
    assert observation[56] == np.float32(parts["head_height"])
    environment.close()


def test_an_episode_is_500_agent_steps_and_is_cut_by_time(walker):
    walker.reset(1000)
    for _ in range(walker.spec.episode_length - 1):
        transition = walker.step(np.zeros(6))
        assert not transition.terminated and not transition.truncated
    transition = walker.step(np.zeros(6))
    assert walker.spec.episode_length == 500
    assert transition.truncated and not transition.terminated
    with pytest.raises(UserError, match="call reset before step"):
        walker.step(np.zeros(6))


def test_an_action_repeat_that_does_not_divide_the_episode():
    environment = envs.make("pendulum-swingup", action_repeat=300)
    assert environment.spec.episode_length == 4
    environment.reset(0)
    ends = [environment.step(np.zeros(1)).truncated for _ in range(4)]
    assert ends == [False, False, False, True]
    environment.close()


def test_unlimited_episodes_of_the_suite_are_cut_too():
    environment = envs.make("lqr-lqr-2-1", action_repeat=250)
    environment.reset(0)
    ends = [environment.step(np.ones(1)) for _ in range(4)]
    assert [end.truncated for end in ends] == [False, False, False, True]
    assert not ends[-1].terminated
    environment.close()


def test_a_task_that_ends_terminates_within_the_action_repeat():
    environment = envs.make("lqr-lqr-2-1")
    environment.reset(0)
    assert not environment.step(np.zeros(1)).terminated
    # lqr ends where its state is zero, and stays there without a control.
    physics = environment.suite_environment.physics
    physics.set_state(np.zeros(4))
    physics.forward()
    transition = environment.step(np.zeros(1))
    assert transition.terminated and not transition.truncated
    # The suite would begin its next episode in the second repeat.
    np.testing.assert_array_equal(transition.observation, np.zeros(4))
    with pytest.raises(UserError, match="call reset before step"):
        environment.step(np.zeros(1))


def test_actions_are_clipped(walker):
    walker.reset(3)
    beyond = walker.step(np.full(6, 7.0)).observation
    walker.reset(3)
    np.testing.assert_array_equal(beyond, walker.step(np.ones(6)).observation)


@pytest.mark.parametrize(
    "action, message",
    [
        (np.zeros(5), r"shape \(5,\); walker-walk needs \(6,\)"),
        (np.array([0, 0, 0, 0, 0, np.nan]), "not finite"),
    ],
)
def test_wrong_actions_are_refused(walker, action, message):
    walker.reset(0)
    with pytest.raises(UserError, match=message):
        walker.step(action)


def test_steps_before_reset_and_bad_seeds_are_refused(walker):
    with pytest.raises(UserError, match="call reset before step"):
        walker.step(np.zeros(6))
    with pytest.raises(UserError, match="seed is -1; it must lie in 0..4294967295"):
        walker.reset(-1)


def test_every_task_has_a_name():
    names = dm_control.task_names()
    assert len(suite.ALL_TASKS) == 51
    assert len(names) == len(set(names)) == 51 + 11
    assert NAMES < set(names)


@pytest.mark.parametrize("name", dm_control.task_names())
def test_every_task_loads_and_steps(name):
    environment = envs.make(name)
    assert environment.spec.task == name
    assert environment.reset(7).shape == environment.spec.observation_shape
    for action in _actions(environment, 3):
        transition = environment.step(action)
        assert transition.observation.shape == environment.spec.observation_shape
        assert transition.observation.dtype == np.float32
        assert np.isfinite(transition.observation).all() and np.isfinite(transition.reward)
        assert not transition.terminated and not transition.truncated
    environment.close()


def test_notes_on_the_suites_models_are_dropped_and_other_warnings_are_not(caplog):
    with caplog.at_level("WARNING", logger="absl"):
        dm_control.make("cheetah-run").close()
        logging.getLogger("absl").warning("this is deprecated")
    assert [record.getMessage() for record in caplog.records] == ["this is deprecated"]


@pytest.mark.parametrize(
    "alias, name",
    [
        ("ball_in_cup-catch", "cup-catch"),
        ("ball-in-cup-catch", "cup-catch"),
        ("point_mass-easy", "pointmass-easy"),
        ("humanoid_CMU-walk", "humanoid-cmu-walk"),
        ("finger-turn_hard", "finger-turn-hard"),
    ],
)
def test_aliases_lead_to_the_canonical_name(alias, name):
    assert envs.make(alias).spec.task == name


def test_unknown_names_get_the_nearest_ones():
    with pytest.raises(UserError, match="'walker-wlak' is unknown; nearest names: walker-walk"):
        envs.make("walker-wlak")
    with pytest.raises(UserError, match="observation is 'pixels'; it can be 'state' or 'rgb'"):
        envs.make("walker-walk", observation="pixels")
    with pytest.raises(UserError, match="action_repeat is 0"):
        envs.make("walker-walk", action_repeat=0)


def test_lanes_equal_single_environments(walker):
    seeds = [1000, 1001, 1002]
    actions = np.stack([_actions(walker, 12, seed) for seed in seeds], axis=1)
    with envs.make_batch("walker-walk", num_envs=3) as batch:
        observations, rewards = [batch.reset(seeds)], []
        for action in actions:
            transition = batch.step(action)
            observations.append(transition.observation)
            rewards.append(transition.reward)
    for lane, seed in enumerate(seeds):
        expected_observations, expected_rewards = _episode(walker, seed, actions[:, lane])
        np.testing.assert_array_equal(np.stack(observations)[:, lane], expected_observations)
        np.testing.assert_array_equal(np.stack(rewards)[:, lane], expected_rewards)


def test_finished_lanes_stay_frozen_until_they_are_reset():
    with envs.make_batch("cartpole-swingup", num_envs=2, action_repeat=250) as batch:
        assert not batch.active.any()
        batch.reset([0, 1])
        batch.step(np.ones((2, 1)))
        batch.step(np.ones((2, 1)))
        restarted = batch.reset_lane(1, 9)
        np.testing.assert_array_equal(batch.active, [True, True])
        batch.step(np.ones((2, 1)))
        last = batch.step(np.ones((2, 1)))
        np.testing.assert_array_equal(last.truncated, [True, False])
        np.testing.assert_array_equal(batch.active, [False, True])

        frozen = batch.step(np.array([[np.nan], [1.0]]))
        np.testing.assert_array_equal(frozen.observation[0], last.observation[0])
        assert not np.array_equal(frozen.observation[1], last.observation[1])
        assert frozen.reward[0] == 0.0
        np.testing.assert_array_equal(frozen.truncated, [True, False])

        np.testing.assert_array_equal(batch.reset_lane(0, 9), restarted)
        np.testing.assert_array_equal(batch.active, [True, True])
        assert not batch.step(np.ones((2, 1))).truncated[0]


def test_returned_arrays_are_not_changed_by_later_steps():
    with envs.make_batch("cartpole-swingup", num_envs=1) as batch:
        first = batch.reset([0])
        kept = first.copy()
        batch.step(np.ones((1, 1)))
        np.testing.assert_array_equal(first, kept)


def test_wrong_batches_are_refused(walker):
    with pytest.raises(UserError, match="at least one environment"):
        envs.EnvironmentBatch([])
    with pytest.raises(UserError, match="num_envs is 0"):
        envs.make_batch("walker-walk", num_envs=0)
    with pytest.raises(UserError, match="equal observation shapes"):
        envs.EnvironmentBatch([walker, envs.make("cheetah-run")])
    batch = envs.EnvironmentBatch([walker])
    with pytest.raises(UserError, match="1 lanes need as many seeds, got 2"):
        batch.reset([0, 1])
    batch.reset([0])
    with pytest.raises(UserError, match=r"shape \(6,\); expected \(1, 6\)"):
        batch.step(np.zeros(6))


# A picture of a scene, made in a process of its own: backends are bound at import.
_RENDER = """
import sys
assert not {"mujoco", "dm_control"} & set(sys.modules)
from specmpc_jax import envs
from specmpc_jax.errors import UserError
assert not {"mujoco", "dm_control"} & set(sys.modules)
environment = envs.make("walker-walk")
first = environment.reset(0)
print("state", first.shape, environment.step([0.0] * 6).observation.shape)
try:
    print("picture", environment.render(48, 64).std() > 5)
except UserError as error:
    print("error", error)
"""


def _render_in_new_process(**variables):
    """Lines printed by `_RENDER` without a display and with only these GL variables."""
    ignored = ("MUJOCO_GL", "PYOPENGL_PLATFORM", "MUJOCO_EGL_DEVICE_ID", "DISPLAY")
    kept = {k: v for k, v in os.environ.items() if k not in (*ignored, "WAYLAND_DISPLAY")}
    root = os.path.dirname(os.path.dirname(envs.__path__[0]))
    result = subprocess.run(
        [sys.executable, "-c", _RENDER],
        env={**kept, "PYTHONPATH": root, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout.splitlines(), result.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems render without a choice")
def test_a_machine_without_display_gets_a_backend_by_itself():
    (state, outcome), stderr = _render_in_new_process()
    assert state == "state (24,) (24,)"
    if outcome.startswith("error"):
        pytest.skip(outcome)
    assert outcome == "picture True"
    assert "Traceback" not in stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems render without a choice")
@pytest.mark.parametrize(
    "variables, message",
    [
        ({"MUJOCO_GL": "disabled"}, "No OpenGL rendering backend is available; install EGL"),
        ({"MUJOCO_GL": "glfw"}, "GLFW needs a display and there is none; install EGL"),
        # A library that is there but cannot work, as in a container without drivers.
        ({"MUJOCO_EGL_DEVICE_ID": "99"}, "No OpenGL rendering backend is available; install EGL"),
    ],
    ids=("disabled", "glfw", "broken"),
)
def test_states_work_where_rendering_does_not(variables, message):
    (state, outcome), stderr = _render_in_new_process(**variables)
    assert state == "state (24,) (24,)"
    assert outcome.startswith(f"error cannot render: {message}")
    assert "Traceback" not in stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems render without a choice")
def test_a_wrong_backend_of_the_user_is_kept_and_named():
    lines, stderr = _render_in_new_process(MUJOCO_GL="bogus")
    assert not lines
    assert "UserError: dm_control cannot be imported with MUJOCO_GL=bogus" in stderr


@pytest.fixture
def pixels():
    environment = envs.make("walker-walk", observation="rgb")
    try:
        environment.reset(0)
    except UserError as error:
        pytest.skip(str(error))
    yield environment
    environment.close()


def test_pictures_show_the_scene(pixels):
    picture = pixels.render(height=48, width=64)
    assert picture.shape == (48, 64, 3)
    assert picture.dtype == np.uint8
    assert picture.std() > 5


def test_pixel_observations_stack_the_last_three_frames(pixels):
    def frame():
        return pixels.render(64, 64).transpose(2, 0, 1)

    observation = pixels.reset(0)
    assert pixels.spec.observation_shape == observation.shape == (9, 64, 64)
    assert observation.dtype == np.uint8
    frames = [frame()]
    np.testing.assert_array_equal(observation, np.concatenate(frames * 3))
    for _ in range(3):
        observation = pixels.step(np.ones(6)).observation
        frames.append(frame())
    np.testing.assert_array_equal(observation, np.concatenate(frames[-3:]))
    assert not np.array_equal(frames[-1], frames[-2])


def test_pixel_episodes_have_the_rewards_of_the_state_episodes(pixels, walker):
    actions = _actions(walker, 3)
    np.testing.assert_array_equal(_episode(pixels, 5, actions)[1], _episode(walker, 5, actions)[1])
