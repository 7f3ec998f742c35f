"""The gated corrector: three losses apart, and trust only where a plan deserves it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specmpc_jax.config import CorrectorConfig, CorrectorTrainConfig
from specmpc_jax.correctors import losses, registry
from specmpc_jax.correctors.dataset import ARRAYS, CorrectorDataset
from specmpc_jax.correctors.losses import Targets
from specmpc_jax.correctors.training import choose_rows, make_examples, train
from specmpc_jax.errors import UserError

SMALL = CorrectorConfig(
    kind="gated", latent_dim=6, action_dim=2, hidden_dim=16, num_layers=1, dropout=0.0
)
TRAINING = CorrectorTrainConfig(
    epochs=30, batch_size=64, learning_rate=3e-3, held_out=0.2, referee_share=0.25
)


def dataset(good_plan, episodes=40, length=24, seed=0):
    """Teachers want half of what the latent tells, and half of what only a good plan knows.

    `good_plan(offset)` says at which steps the plan knows it; elsewhere the plan is noise.
    """
    rng = np.random.default_rng(seed)
    rows = episodes * length
    step = np.tile(np.arange(length), episodes)
    offset = step % 3
    z_real = rng.normal(size=(rows, 6))
    hidden = rng.uniform(-0.5, 0.5, size=(rows, 2))
    a_teacher = 0.4 * np.tanh(z_real[:, :2]) + hidden
    good = good_plan(offset) | (offset == 0)
    noise = rng.uniform(-0.9, 0.9, size=(rows, 2))
    arrays = {
        "z_real": z_real,
        "z_pred": np.where((offset == 0)[:, None], z_real, z_real + 0.1),
        "a_plan": np.where(good[:, None], a_teacher, noise),
        "a_teacher": a_teacher,
        "distance": np.where(good, 0.1, 2.0) * (offset > 0),
        "reward": np.zeros(rows),
        "offset": offset,
        "episode": np.repeat(np.arange(episodes), length),
        "step": step,
        "task": np.zeros(rows),
        "round": np.zeros(rows),
    }
    typed = {name: arrays[name].astype(dtype) for name, dtype in ARRAYS.items()}
    return CorrectorDataset(typed, {"teacher": "t" * 64, "model_size": 1, "history_len": 4})


def random_params(seed=0):
    params = registry.init(SMALL, jax.random.key(seed))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + 0.2 * rng.normal(size=x.shape).astype(np.float32), params)


def test_an_untrained_gate_is_close_to_the_proposal_and_leaves_the_plan_alone():
    context = make_examples(dataset(lambda k: k > 0), 4).context(jnp.arange(30))
    params = registry.init(SMALL, jax.random.key(0))
    parts = registry.gated_parts(SMALL, params, context)
    np.testing.assert_array_equal(parts.correction, context.step.a_plan)
    np.testing.assert_allclose(parts.trust, jax.nn.sigmoid(-2.0), rtol=1e-6)
    # With no trust it is bc, of the same layers.
    shared = {name: params[name] for name in ("encoder", "trunk", "action")}
    bc = registry.apply(dataclasses.replace(SMALL, kind="bc"), shared, context)
    np.testing.assert_allclose(parts.replace(trust=jnp.zeros(30)).action(), bc, rtol=1e-6)


def test_the_correction_is_bounded_and_knows_offset_and_mismatch():
    context = make_examples(dataset(lambda k: k > 0), 4).context(jnp.arange(30))
    params = random_params()
    parts = registry.gated_parts(SMALL, params, context)
    moved = jnp.abs(parts.correction - context.step.a_plan)
    assert 0 < moved.max() <= SMALL.correction_bound
    for name, value in (("offset", context.step.offset + 1), ("mismatch", jnp.full(30, 3.0))):
        other = context.replace(step=context.step.replace(**{name: value}))
        changed = registry.gated_parts(SMALL, params, other)
        assert not np.allclose(changed.trust, parts.trust, rtol=1e-3)
        assert not np.allclose(changed.correction, parts.correction, rtol=1e-3)
        np.testing.assert_array_equal(changed.proposal, parts.proposal)


def test_experts_and_referee_learn_from_rows_of_their_own():
    examples = make_examples(dataset(lambda k: k > 0), 4)
    context = examples.context(jnp.arange(40))
    referees = jnp.arange(40) >= 25

    def gradients(teacher):
        targets = Targets(teacher, learns=~referees, judges=referees)
        return jax.grad(
            lambda p: losses.imitation_loss(
                SMALL, TRAINING, p, context, targets, jax.random.key(0)
            )[0]
        )(random_params())

    teacher = examples.teacher[:40]
    plain = gradients(teacher)
    for moved, untouched in ((referees, "experts"), (~referees, "trust")):
        other = gradients(jnp.where(moved[:, None], -teacher, teacher))
        for name in plain:
            same = all(
                np.allclose(a, b, atol=1e-7)
                for a, b in zip(
                    jax.tree.leaves(plain[name]), jax.tree.leaves(other[name]), strict=True
                )
            )
            assert same == (name.startswith("trust") == (untouched == "trust")), name


def test_referees_are_whole_training_episodes():
    data = dataset(lambda k: k > 0)
    rows = choose_rows("gated", TRAINING, data)
    referees = set(data["episode"][rows.referees])
    assert len(referees) == 8  # a quarter of 32
    others = np.setdiff1d(rows.train, rows.referees)
    assert not referees & set(data["episode"][others])
    assert not set(data["episode"][rows.train]) & set(data["episode"][rows.held_out])
    assert (data["offset"][rows.train] == 0).any() and (data["offset"][rows.held_out] > 0).all()
    without = CorrectorTrainConfig(plan_rows=False, referee_share=0.0)
    rows = choose_rows("gated", without, data)
    assert not len(rows.referees) and (data["offset"][rows.train] > 0).all()
    rows = choose_rows("two_tower", TRAINING, data)
    assert not len(rows.referees) and (data["offset"][rows.train] > 0).all()


def test_trust_goes_to_plans_that_deserve_it():
    data = dataset(lambda offset: offset == 1)  # at offset 2 plans are noise
    gated, _ = train(SMALL, TRAINING, data)
    bc, _ = train(dataclasses.replace(SMALL, kind="bc"), TRAINING, data)
    trust = gated.record["trust_by_offset"]
    assert trust["1"] > 0.8 and trust["2"] < 0.2
    error, theirs = gated.record["held_out_by_offset"], bc.record["held_out_by_offset"]
    assert error["1"] < 0.3 * theirs["1"]
    assert error["2"] < 1.2 * theirs["2"] < 0.8 * gated.record["correction_by_offset"]["2"]


def test_without_good_plans_it_is_as_good_as_bc():
    data = dataset(lambda offset: offset < 0)
    gated, _ = train(SMALL, TRAINING, data)
    bc, _ = train(dataclasses.replace(SMALL, kind="bc"), TRAINING, data)
    assert max(gated.record["trust_by_offset"].values()) < 0.15
    assert gated.record["held_out_loss"] < 1.1 * bc.record["held_out_loss"]


def test_huber_counts_large_errors_linearly():
    training = CorrectorTrainConfig(loss="huber", huber_width=0.5)
    config = CorrectorConfig(kind="two_tower", latent_dim=6, action_dim=2, hidden_dim=8)
    context = make_examples(dataset(lambda k: k > 0), 4).context(jnp.arange(30))
    params = registry.init(config, jax.random.key(0))  # the identity
    for distance, expected in ((0.3, 0.09), (0.5, 0.25), (2.0, 0.5 * (4.0 - 0.5))):
        targets = Targets(context.step.a_plan + distance, *jnp.ones((2, 30), bool))
        key = jax.random.key(0)
        loss, error = losses.imitation_loss(config, training, params, context, targets, key)
        np.testing.assert_allclose(loss, expected, rtol=1e-4)
        np.testing.assert_allclose(error, distance**2, rtol=1e-4)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"loss": "absolute"}, "'squared' or 'huber'"),
        ({"referee_share": 1.0}, "referee_share"),
        ({"huber_width": 0.0}, "huber_width"),
    ],
)
def test_impossible_training_is_refused(fields, said):
    with pytest.raises(UserError, match=said):
        CorrectorTrainConfig(**fields)
    with pytest.raises(UserError, match="correction_bound"):
        CorrectorConfig(correction_bound=0.0)
