"""The correctors' networks, their training and their files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specmpc_jax.config import CorrectorConfig, CorrectorTrainConfig, ModelConfig
from specmpc_jax.correctors import registry
from specmpc_jax.correctors.corrector import Corrector
from specmpc_jax.correctors.dataset import ARRAYS, CorrectorDataset, join
from specmpc_jax.correctors.training import make_examples, train
from specmpc_jax.errors import UserError

SIZES = {"latent_dim": 6, "action_dim": 2, "hidden_dim": 16, "token_dim": 8, "feedforward_dim": 16}
KINDS = tuple(registry.MODULES)


def config(kind, **fields):
    return CorrectorConfig(kind=kind, **{**SIZES, **fields})


def random_params(kind, seed=0):
    """Parameters without the zero head of a fresh corrector."""
    params = registry.init(config(kind), jax.random.key(seed))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    return tree.unflatten(
        [0.3 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    )


def dataset(episodes=6, length=20, seed=0, teacher="t" * 64):
    """Steps whose teacher wants the plan moved by a function of the latent difference."""
    rng = np.random.default_rng(seed)
    rows = episodes * length
    z_real, z_pred = rng.normal(size=(2, rows, 6))
    step = np.tile(np.arange(length), episodes)
    offset = step % 3
    z_pred = np.where(offset[:, None] == 0, z_real, z_pred)
    a_plan = rng.uniform(-0.5, 0.5, size=(rows, 2))
    a_teacher = a_plan + 0.3 * np.tanh(z_real - z_pred)[:, :2]
    arrays = {
        "z_real": z_real,
        "z_pred": z_pred,
        "a_plan": a_plan,
        "a_teacher": a_teacher,
        "distance": np.abs(rng.normal(size=rows)) * (offset > 0),
        "reward": np.zeros(rows),
        "offset": offset,
        "episode": np.repeat(np.arange(episodes), length),
        "step": step,
        "task": np.zeros(rows),
        "round": np.zeros(rows),
    }
    typed = {name: arrays[name].astype(dtype) for name, dtype in ARRAYS.items()}
    return CorrectorDataset(typed, {"teacher": teacher, "model_size": 1, "history_len": 4})


@pytest.mark.parametrize("kind", ["two_tower", "temporal"])
def test_an_untrained_corrector_keeps_the_plan(kind):
    context = make_examples(dataset(), 4).context(jnp.arange(30))
    params = registry.init(config(kind), jax.random.key(0))
    action = registry.apply(config(kind), params, context)
    np.testing.assert_array_equal(action, context.step.a_plan)


@pytest.mark.parametrize("kind", KINDS)
def test_corrections_are_bounded_and_batched_as_single(kind):
    examples = make_examples(dataset(), 4)
    params = random_params(kind)
    batch = registry.apply(config(kind), params, examples.context(jnp.arange(30)))
    assert batch.shape == (30, 2) and (jnp.abs(batch) <= 1).all()
    for row in (0, 7, 29):
        one = registry.apply(config(kind), params, examples.context(jnp.asarray(row)))
        np.testing.assert_allclose(batch[row], one, rtol=1e-4, atol=1e-5)


def test_the_temporal_corrector_sees_no_padding_and_every_real_step():
    params = random_params("temporal")
    context = make_examples(dataset(), 4).context(jnp.asarray(1))  # two steps, two of padding
    np.testing.assert_array_equal(context.window_mask, [False, False, True, True])

    def changed(position):
        moved = context.window.z_real.at[position].add(1.0)
        other = context.replace(window=context.window.replace(z_real=moved))
        return registry.apply(config("temporal"), params, other)

    base = registry.apply(config("temporal"), params, context)
    for position in (0, 1):
        np.testing.assert_array_equal(changed(position), base)
    for position in (2, 3):
        assert not np.allclose(changed(position), base)


def test_bc_ignores_the_plan():
    examples = make_examples(dataset(), 4)
    context = examples.context(jnp.arange(5))
    other = context.replace(step=context.step.replace(a_plan=-context.step.a_plan))
    params = random_params("bc")
    np.testing.assert_array_equal(
        registry.apply(config("bc"), params, context), registry.apply(config("bc"), params, other)
    )


def test_windows_stay_inside_their_episode():
    data = dataset(episodes=3, length=7)
    index, mask = data.windows(4)
    assert (data["episode"][index] == data["episode"][:, None]).all()
    np.testing.assert_array_equal(index[:, -1], np.arange(len(data)))
    np.testing.assert_array_equal(mask.sum(1), np.minimum(data["step"] + 1, 4))
    steps = data["step"][index]
    np.testing.assert_array_equal(np.diff(steps, axis=1)[mask[:, 1:] & mask[:, :-1]], 1)


@pytest.mark.parametrize("seed", range(4))
def test_the_split_is_by_episode(seed):
    data = dataset()
    train_rows, held_out = data.split(0.3, seed)
    assert sorted([*train_rows, *held_out]) == list(range(len(data)))
    assert not set(data["episode"][train_rows]) & set(data["episode"][held_out])
    np.testing.assert_array_equal(held_out, data.split(0.3, seed)[1])
    with pytest.raises(UserError, match="two episodes"):
        dataset(episodes=1).split(0.3, seed)


def test_data_survive_the_disk_and_join_with_new_episode_numbers(tmp_path):
    data = dataset()
    data.save(tmp_path / "data.npz")
    loaded = CorrectorDataset.load(tmp_path / "data.npz")
    for name in ARRAYS:
        np.testing.assert_array_equal(loaded[name], data[name])
    both = join([data, loaded])
    assert both.num_episodes == 12 and len(both) == 2 * len(data)
    with pytest.raises(UserError, match="different teachers"):
        join([data, dataset(teacher="u" * 64)])


def test_damaged_data_are_refused(tmp_path):
    dataset().save(tmp_path / "data.npz")
    whole = (tmp_path / "data.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.npz").write_text("no data")
    np.savez(tmp_path / "other.npz", metadata=np.array("{}"), x=np.zeros(2))
    np.savez(tmp_path / "object.npz", metadata=np.array([object()]), allow_pickle=True)
    for name in ("half", "text", "other", "object", "missing"):
        with pytest.raises(UserError, match=name if name != "other" else "fields"):
            CorrectorDataset.load(tmp_path / f"{name}.npz")


@pytest.mark.parametrize("kind", ["two_tower", "temporal"])
def test_training_beats_the_plan_on_held_out_episodes(kind, tmp_path):
    training = CorrectorTrainConfig(epochs=40, batch_size=32, learning_rate=3e-3, seed=3)
    small = CorrectorConfig(kind=kind, hidden_dim=32, token_dim=16, dropout=0.0)
    data = dataset(episodes=30)
    corrector, epochs = train(small, training, data)
    best = min(epoch.held_out_loss for epoch in epochs)
    assert corrector.record["held_out_loss"] == best < 0.5 * corrector.record["plan_error"]
    assert sorted(corrector.quantiles) == [1, 2]

    corrector.save(tmp_path / "c")
    loaded = Corrector.load(tmp_path / "c")
    assert (loaded.config, loaded.teacher) == (corrector.config, corrector.teacher)
    assert loaded.quantiles == corrector.quantiles
    assert loaded.fingerprint == corrector.fingerprint
    again, _ = train(small, training, data)
    assert again.fingerprint == corrector.fingerprint  # the seed decides everything


def test_a_corrector_meets_only_its_own_teacher():
    kind = config("bc")
    corrector = Corrector(kind, registry.init(kind, jax.random.key(0)), "a" * 64, {})
    model = ModelConfig(action_dim=2, latent_dim=8)
    with pytest.raises(UserError, match="aaaaaaaaaaaa.*bbbbbbbbbbbb"):
        corrector.check_teacher("b" * 64, model)
    with pytest.raises(UserError, match="sizes"):
        corrector.check_teacher("a" * 64, model)


def test_unknown_kinds_are_refused_with_the_nearest():
    with pytest.raises(UserError, match="two_tower"):
        registry.init(config("two_towers"), jax.random.key(0))
