"""Gymnasium's tasks and the simulators behind it; what is not installed is skipped."""

import importlib.util
import sys

import numpy as np
import pytest

from specmpc_jax import envs
from specmpc_jax.envs import gymnasium_tasks, metaworld, myosuite
from specmpc_jax.errors import UserError

pytest.importorskip("gymnasium")

MUJOCO = [name for name in gymnasium_tasks.task_names() if name.startswith("mujoco-")]
BOX2D = [name for name in gymnasium_tasks.task_names() if name not in MUJOCO]
HAS_BOX2D = importlib.util.find_spec("Box2D") is not None
HAS_METAWORLD = importlib.util.find_spec("metaworld") is not None
HAS_MYOSUITE = importlib.util.find_spec("myosuite") is not None
needs_box2d = pytest.mark.skipif(not HAS_BOX2D, reason="needs Box2D")
needs_metaworld = pytest.mark.skipif(not HAS_METAWORLD, reason="needs Meta-World")
needs_myosuite = pytest.mark.skipif(not HAS_MYOSUITE, reason="needs MyoSuite")


def _episode(environment, seed, length=30):
    """Observations, rewards and last transition of random actions, until an end."""
    actions = np.random.default_rng(0).uniform(-1, 1, (length, environment.spec.action_dim))
    observations, rewards = [environment.reset(seed)], []
    for action in actions:
        transition = environment.step(action)
        observations.append(transition.observation)
        rewards.append(transition.reward)
        if transition.terminated or transition.truncated:
            break
    return np.stack(observations), np.array(rewards), transition


def _check_protocol(task, length=30, seeds_differ=True):
    environment = envs.make(task)
    try:
        assert environment.spec.task == task
        first = _episode(environment, 3, length)
        assert first[0].dtype == np.float32
        assert first[0].shape[1:] == environment.spec.observation_shape
        other = _episode(environment, 4, length)
        assert seeds_differ == (not np.array_equal(first[0][1], other[0][1]))
        again = _episode(environment, 3, length)
        np.testing.assert_array_equal(again[0], first[0])
        np.testing.assert_array_equal(again[1], first[1])
        environment.reset(0)
        with pytest.raises(UserError, match="has shape"):
            environment.step(np.zeros(99))
        with pytest.raises(UserError, match="not finite"):
            environment.step(np.full(environment.spec.action_dim, np.nan))
        return environment.spec, first[2]
    finally:
        environment.close()


@pytest.mark.parametrize("task", MUJOCO)
def test_mujoco_tasks_keep_the_protocol(task):
    spec, _ = _check_protocol(task)
    assert spec.action_repeat == 1
    limits = {"mujoco-reacher": 50, "mujoco-pusher": 100}
    assert spec.episode_length == limits.get(task, 1000)


@needs_box2d
@pytest.mark.parametrize("task", BOX2D)
def test_box2d_tasks_keep_the_protocol(task):
    spec, last = _check_protocol(task, 70)
    limits = {"lunarlander-continuous": 500, "bipedal-walker": 1000}
    assert spec.episode_length == limits.get(task, 2000)
    assert last.info == ({"success": False} if task.startswith("lunar") else {})


def test_observations_and_rewards_are_gymnasiums_own():
    import gymnasium

    own = envs.make("mujoco-walker", action_repeat=2)
    original = gymnasium.make("Walker2d-v5")
    np.testing.assert_array_equal(own.reset(5), original.reset(seed=5)[0].astype(np.float32))
    action = np.linspace(-1, 1, 6).astype(np.float32)
    transition = own.step(action)
    steps = [original.step(action) for _ in range(2)]
    np.testing.assert_array_equal(transition.observation, steps[1][0].astype(np.float32))
    assert transition.reward == steps[0][1] + steps[1][1]
    assert own.spec.episode_length == 500


def test_a_fall_terminates_and_the_limit_truncates():
    falls = envs.make("mujoco-hopper")
    _, rewards, last = _episode(falls, 0, 1000)
    assert last.terminated and not last.truncated and len(rewards) < 200
    with pytest.raises(UserError, match="call reset before step"):
        falls.step(np.zeros(3))
    lasts = envs.make("mujoco-reacher", action_repeat=4)
    _, rewards, last = _episode(lasts, 0, 1000)
    assert last.truncated and not last.terminated
    assert len(rewards) == lasts.spec.episode_length == 13


def test_action_ranges_are_scaled_to_the_simulators():
    environment = envs.make("gym:Pendulum-v1")  # torques in [-2, 2]
    environment.reset(1)
    plain = environment.gymnasium_environment.unwrapped
    for action, torque in ((1.0, 2.0), (-0.5, -1.0), (7.0, 2.0)):
        environment.step(np.array([action]))
        assert plain.last_u == torque
    assert envs.make("mujoco-humanoid").spec.action_dim == 17


def test_a_reset_without_seed_goes_on():
    environment = envs.make("gym:Pendulum-v1")
    first = environment.reset()
    np.testing.assert_array_equal(first, envs.make("gym:Pendulum-v1", seed=0).reset())
    assert not np.array_equal(first, environment.reset())
    assert not np.array_equal(first, envs.make("gym:Pendulum-v1", seed=1).reset())


def test_dictionaries_of_observations_become_flat(tmp_path, monkeypatch):
    (tmp_path / "goal_task.py").write_text(
        "import gymnasium as gym\nimport numpy as np\n"
        "class Goal(gym.Env):\n"
        "    box = gym.spaces.Box(-np.inf, np.inf, (2,))\n"
        "    observation_space = gym.spaces.Dict(at=box, goal=box)\n"
        "    action_space = gym.spaces.Box(-1, 1, (2,))\n"
        "    def reset(self, seed=None, options=None):\n"
        "        super().reset(seed=seed)\n"
        "        self.at = np.zeros(2, np.float32)\n"
        "        return dict(at=self.at, goal=np.ones(2, np.float32)), {}\n"
        "    def step(self, action):\n"
        "        self.at = self.at + action\n"
        "        done = bool(np.all(self.at >= 1))\n"
        "        seen = dict(at=self.at, goal=np.ones(2, np.float32))\n"
        "        return seen, float(done), done, False, {'is_success': done}\n"
        "gym.register('Goal-v0', Goal)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with envs.make_batch("gym:goal_task:Goal-v0", 2) as batch:
        assert batch.spec.observation_shape == (4,) and batch.spec.episode_length == 1000
        np.testing.assert_array_equal(batch.reset([0, 1]), [[0, 0, 1, 1]] * 2)
        step = batch.step(np.array([[1.0, 1.0], [1.0, 0.5]]))
        assert step.terminated.tolist() == [True, False]
        assert step.success.tolist() == [1.0, 0.0]
        with pytest.raises(UserError, match="draws no pictures"):
            batch.environments[0].render()


@pytest.mark.parametrize("task", ["mujoco-hopper", *(["lunarlander-continuous"] * HAS_BOX2D)])
def test_pictures_have_the_size_asked_for(task):
    environment = envs.make(task, observation="rgb")
    try:
        frames = environment.reset(0)
        assert frames.shape == (9, 64, 64) and frames.std() > 5
        assert environment.render(48, 80).shape == (48, 80, 3)
    except UserError as error:
        pytest.skip(str(error))
    finally:
        environment.close()


@pytest.mark.parametrize(
    "task, message",
    [
        ("mujoco-wlaker", "nearest names: mujoco-walker"),
        ("mw-rech", "nearest names: mw-reach"),
        ("myo-hand-poze", "nearest names: myo-hand-pose"),
        ("gym:CartPole-v1", "actions Discrete.*continuous"),
        ("gym:Nope-v1", "Gymnasium cannot make 'gym:Nope-v1': Environment `Nope` doesn't exist"),
        ("gym:no_such_module:Nope-v1", "cannot make 'gym:no_such_module:Nope-v1'"),
    ],
)
def test_wrong_names_are_answered(task, message):
    with pytest.raises(UserError, match=message):
        envs.make(task)


@pytest.mark.parametrize(
    "task, module, extra",
    [
        ("mujoco-walker", "gymnasium", "gymnasium"),
        ("gym:Pendulum-v1", "gymnasium", "gymnasium"),
        ("mw-reach", "metaworld.env_dict", "metaworld"),
        ("myo-hand-pose", "myosuite", "myosuite"),
        ("lunarlander-continuous", "Box2D", "box2d"),
    ],
)
def test_missing_packages_name_the_extra(task, module, extra, monkeypatch):
    for known in [name for name in sys.modules if name.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, known)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"'{task}' needs .*: pip install -e '.\[{extra}\]'"):
        envs.make(task)


def test_names_need_no_simulator():
    assert len(metaworld.task_names()) == 50 and len(myosuite.task_names()) == 10
    assert {"mw-reach", "myo-hand-pose-hard", "mujoco-walker"} < set(envs.task_names())
    assert len(envs.task_names()) == len(set(envs.task_names())) == 62 + 14 + 50 + 10


@needs_metaworld
@pytest.mark.parametrize("task", metaworld.task_names())
def test_metaworld_tasks_keep_the_protocol(task):
    spec, last = _check_protocol(task, 5)
    assert spec.observation_shape == (39,) and spec.action_dim == 4
    assert spec.episode_length == 100 and spec.action_repeat == 2
    assert last.info["success"] in (True, False)


@needs_metaworld
@pytest.mark.parametrize("task", ["mw-reach", "mw-pick-place", "mw-drawer-open", "mw-hammer"])
def test_metaworlds_own_experts_succeed(task):
    from metaworld.policies import ENV_POLICY_MAP

    expert = ENV_POLICY_MAP[f"{task.removeprefix('mw-')}-v3"]()
    environment = envs.make(task)
    observation, truncated, gained = environment.reset(1), False, 0.0
    while not truncated:
        _, reward, _, truncated, info = transition = environment.step(
            np.clip(expert.get_action(observation.astype(np.float64)), -1, 1)
        )
        observation, gained = transition.observation, gained + reward
    assert info["success"] and gained > 1000
    environment.close()


@needs_myosuite
@pytest.mark.parametrize("task", myosuite.task_names())
def test_myosuite_tasks_keep_the_protocol(task):
    # Only the hard half draws its goals.
    spec, last = _check_protocol(task, 5, seeds_differ=task.endswith("hard"))
    assert spec.action_dim == 39 and spec.episode_length == 100
    assert last.info["success"] is False
    assert envs.make(task.replace("hand-", "", 1)).spec.task == task
