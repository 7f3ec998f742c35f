"""Invariants of the replay buffer."""

import collections
import json

import numpy as np
import pytest

from specmpc_jax.errors import UserError
from specmpc_jax.learning.replay_buffer import Episode, ReplayBuffer, rows_for_bytes

HORIZON = 3
ACTION_DIM = 2


def make_episode(number: int, steps: int, terminated: bool = False) -> Episode:
    """An episode whose every entry says which episode and step it is."""
    time = np.arange(steps + 1, dtype=np.float32)
    ends = np.zeros(steps, np.float32)
    ends[-1] = terminated
    return Episode(
        observation=np.stack([np.full(steps + 1, number, np.float32), time], axis=1),
        action=np.stack([np.full(steps, number, np.float32), time[:-1]], axis=1),
        reward=1000 * number + time[:-1],
        terminated=ends,
    )


def make_buffer(capacity: int = 100, seed: int = 0, horizon: int = HORIZON) -> ReplayBuffer:
    return ReplayBuffer(capacity, (2,), ACTION_DIM, horizon=horizon, seed=seed)


def stored_numbers(buffer: ReplayBuffer) -> list[int]:
    return [int(episode.observation[0, 0]) for episode in buffer.episodes()]


@pytest.mark.parametrize("horizon", [1, 3, 5])
@pytest.mark.parametrize("capacity", [25, 64, 1000])
def test_slices_never_cross_an_episode(horizon, capacity):
    buffer = make_buffer(capacity, horizon=horizon)
    lengths = np.random.default_rng(0).integers(1, 20, size=40)
    for number, steps in enumerate(lengths):
        buffer.add(make_episode(number, int(steps)))
    batch = buffer.sample(512)
    numbers, times = batch.observation[..., 0], batch.observation[..., 1]
    assert (numbers == numbers[:1]).all()
    assert (np.diff(times, axis=0) == 1).all()
    # An action and its reward belong to the observation that they follow.
    np.testing.assert_array_equal(batch.action, batch.observation[:-1])
    np.testing.assert_array_equal(batch.reward, 1000 * numbers[:-1] + times[:-1])


def test_shapes_with_and_without_a_leading_axis():
    buffer = make_buffer()
    buffer.add(make_episode(0, 10))
    one, many = buffer.sample(5), buffer.sample(5, num_batches=2)
    assert one.observation.shape == (HORIZON + 1, 5, 2)
    assert one.reward.shape == one.terminated.shape == (HORIZON, 5)
    assert many.observation.shape == (2, HORIZON + 1, 5, 2)
    assert many.action.shape == (2, HORIZON, 5, ACTION_DIM)


def test_every_slice_is_equally_likely():
    buffer = make_buffer()
    lengths = (HORIZON, 5, 12)
    for number, steps in enumerate(lengths):
        buffer.add(make_episode(number, steps))
    expected = {(n, t) for n, steps in enumerate(lengths) for t in range(steps - HORIZON + 1)}
    draws = 20_000
    counts = collections.Counter(map(tuple, buffer.sample(draws).observation[0].astype(int)))
    assert set(counts) == expected
    assert buffer.num_slices == len(expected)
    share = np.array(list(counts.values())) * len(expected) / draws
    np.testing.assert_allclose(share, 1.0, atol=0.12)


@pytest.mark.parametrize("capacity", [30, 31, 37])
def test_the_oldest_episode_goes_first(capacity):
    buffer = make_buffer(capacity)
    lengths = [9, 4, 12, 7, 7, 20, 3, 3, 15]
    for number, steps in enumerate(lengths):
        buffer.add(make_episode(number, steps))
        kept = stored_numbers(buffer)
        assert kept == list(range(number + 1))[-len(kept) :]
        rows = sum(lengths[k] + 1 for k in kept)
        assert rows <= capacity
        # No episode was dropped without need.
        if kept[0]:
            assert rows + lengths[kept[0] - 1] + 1 > capacity
        for episode in buffer.episodes():
            k = int(episode.observation[0, 0])
            for field, wanted in zip(episode, make_episode(k, lengths[k]), strict=True):
                np.testing.assert_array_equal(field, wanted)


def test_terminations_stay_at_their_step():
    buffer = make_buffer()
    buffer.add(make_episode(0, 8, terminated=True))
    batch = buffer.sample(200)
    np.testing.assert_array_equal(batch.terminated, batch.action[..., 1] == 7)
    assert batch.terminated.any()


def test_episodes_without_a_slice_are_left_out():
    buffer = make_buffer()
    assert not buffer.add(make_episode(0, HORIZON - 1))
    assert buffer.add(make_episode(1, HORIZON))
    assert (buffer.num_episodes, buffer.num_steps, buffer.num_slices) == (1, HORIZON, 1)


def test_same_seed_same_slices():
    buffers = [make_buffer(seed=seed) for seed in (3, 3, 4)]
    for buffer in buffers:
        for number in range(5):
            buffer.add(make_episode(number, 15))
    first, again, other = (buffer.sample(64).reward for buffer in buffers)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_batches_of_one_call_continue_the_stream():
    buffers = [make_buffer(), make_buffer()]
    for buffer in buffers:
        buffer.add(make_episode(0, 60))
    apart = [buffers[0].sample(16).reward for _ in range(3)]
    np.testing.assert_array_equal(np.stack(apart), buffers[1].sample(16, num_batches=3).reward)


def test_restored_buffer_goes_on_as_the_saved_one(tmp_path):
    buffer = make_buffer(capacity=50, seed=7)
    for number in range(6):
        buffer.add(make_episode(number, 9 + number))
    buffer.sample(10)
    state = buffer.save(tmp_path)

    restored = make_buffer(capacity=50, seed=0)
    restored.restore(tmp_path, state)
    assert stored_numbers(restored) == stored_numbers(buffer)
    for number in range(6, 12):
        for each in (buffer, restored):
            each.add(make_episode(number, 11))
        np.testing.assert_array_equal(buffer.sample(32).reward, restored.sample(32).reward)
    assert restored.save(tmp_path) == buffer.save(tmp_path)


def test_saved_state_is_json(tmp_path):
    buffer = make_buffer()
    buffer.add(make_episode(0, 9))
    state = json.loads(json.dumps(buffer.save(tmp_path)))
    restored = make_buffer(seed=1)
    restored.restore(tmp_path, state)
    np.testing.assert_array_equal(buffer.sample(8).reward, restored.sample(8).reward)


def test_the_last_saved_state_stays_readable_until_pruned(tmp_path):
    buffer = make_buffer(capacity=30)
    buffer.add(make_episode(0, 12))
    old = buffer.save(tmp_path)
    for number in (1, 2, 3):
        buffer.add(make_episode(number, 12))
    new = buffer.save(tmp_path)
    for state, numbers in ((old, [0]), (new, [2, 3])):
        restored = make_buffer(capacity=30)
        restored.restore(tmp_path, state)
        assert stored_numbers(restored) == numbers
    buffer.prune(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    make_buffer(capacity=30).restore(tmp_path, new)
    with pytest.raises(UserError, match="there is no"):
        make_buffer(capacity=30).restore(tmp_path, old)


def test_a_damaged_file_is_named(tmp_path):
    buffer = make_buffer()
    buffer.add(make_episode(0, 9))
    state = buffer.save(tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=path.name):
        make_buffer().restore(tmp_path, state)


def test_saving_writes_each_episode_once(tmp_path):
    buffer = make_buffer()
    buffer.add(make_episode(0, 9))
    buffer.save(tmp_path)
    (first,) = tmp_path.iterdir()
    before = first.stat().st_ino
    buffer.add(make_episode(1, 9))
    buffer.save(tmp_path)
    assert first.stat().st_ino == before
    assert len(list(tmp_path.iterdir())) == 2


def test_pixels_stay_bytes():
    buffer = ReplayBuffer(20, (9, 4, 4), 1, horizon=1, observation_dtype=np.uint8)
    observation = np.random.default_rng(0).integers(0, 256, (6, 9, 4, 4), np.uint8)
    buffer.add(Episode(observation, np.zeros((5, 1)), np.arange(5.0), np.zeros(5)))
    batch = buffer.sample(4)
    assert batch.observation.dtype == np.uint8
    first = batch.reward[0].astype(int)
    np.testing.assert_array_equal(batch.observation[0], observation[first])


def test_capacity_by_bytes():
    rows = rows_for_bytes(1_000_000, (24,), 6)
    buffer = ReplayBuffer(rows, (24,), 6, horizon=3)
    assert 990_000 < buffer.nbytes <= 1_000_000


@pytest.mark.parametrize(
    "wrong",
    [
        lambda e: e._replace(action=e.action[1:]),
        lambda e: e._replace(reward=e.reward[:, None]),
        lambda e: e._replace(observation=e.observation[:, :1]),
    ],
)
def test_wrong_shapes_are_refused(wrong):
    with pytest.raises(UserError, match="expected"):
        make_buffer().add(wrong(make_episode(0, 9)))


def test_impossible_requests_are_refused():
    with pytest.raises(UserError, match="empty"):
        make_buffer().sample(1)
    with pytest.raises(UserError, match="does not fit"):
        make_buffer(capacity=10).add(make_episode(0, 10))
    with pytest.raises(UserError, match="at least 4 rows"):
        make_buffer(capacity=3)
