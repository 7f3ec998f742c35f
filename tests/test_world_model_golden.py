"""Every forward function against arrays recorded from the official code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import FORWARD_CASES, IMPLEMENTATIONS, golden_model
from specmpc_jax.planning.trajectory_value import roll_out, terminal_value
from specmpc_jax.world_model import WorldModel

RTOL = 1e-5
# Floor on tolerances, as a multiple of the recorded distance between the official float32 result
# and the same code in float64: nothing can be expected to agree better than that.
NOISE_FACTOR = 4.0


@pytest.fixture(scope="module", params=FORWARD_CASES)
def case(request):
    """A golden model with its `WorldModel`."""
    return golden_model(request.param)


def check(case, name: str, ours: jax.Array, rounding: float | np.ndarray = 0.0) -> None:
    """Compares relatively to the array's largest entry, or to its float32 noise if larger.

    `rounding` is a further error, entry by entry, that rounding of the inputs explains.
    """
    expected = case.arrays[name]
    assert ours.shape == expected.shape, name
    noise = case.meta.get("float32_noise", {}).get("arrays", {}).get(name, {})
    floor = max(RTOL * np.abs(expected).max(), NOISE_FACTOR * noise.get("max_abs_err", 0.0))
    excess = np.abs(ours - expected) - RTOL * np.abs(expected) - rounding
    assert (excess <= floor).all(), f"{name} is off by {excess.max():.2g} more than {floor:.2g}"


def entropy_rounding(action: np.ndarray) -> np.ndarray:
    """Error `[..., 1]` of an entropy when tanh is off by 8 roundings: ln(1 - a^2) is steep at 1."""
    slope = 2 / (1 - np.square(action) + 1e-6)
    return 8 * np.finfo(np.float32).eps * slope.sum(-1, keepdims=True)


def task_of(case, name: str = "task"):
    return jnp.asarray(case.arrays[name]) if case.config.multitask else None


def test_heads(case):
    model, arrays, task = WorldModel(case.config), case.arrays, task_of(case)
    shift = jnp.asarray(arrays["shift"]) if "shift" in arrays else None
    z = model.encode(case.params, jnp.asarray(arrays["obs"]), task, shift)
    check(case, "z", z)
    z, action = jnp.asarray(arrays["z"]), jnp.asarray(arrays["act"])
    check(case, "next_z", model.next(case.params, z, action, task))
    logits = model.reward(case.params, z, action, task)
    check(case, "reward_logits", logits)
    check(case, "reward_value", model.decode(logits)[:, None])
    if case.config.episodic:
        logits = model.termination(case.params, z)[:, None]
        check(case, "term_logits", logits)
        check(case, "term_prob", jax.nn.sigmoid(logits))


@pytest.mark.parametrize("prefix", ["", "seq_"])
def test_policy_prior(case, prefix):
    model, arrays = WorldModel(case.config), case.arrays
    if f"{prefix}z" not in arrays:
        return  # sequences were recorded for state observations only
    out = model.policy(
        case.params,
        jnp.asarray(arrays[f"{prefix}z"]),
        jnp.asarray(arrays[f"{prefix}pi_eps"]),
        task_of(case),
    )
    check(case, f"{prefix}pi_action", out.action)
    check(case, f"{prefix}pi_log_std", out.log_std)
    rounding = entropy_rounding(arrays[f"{prefix}pi_action"])
    check(case, f"{prefix}pi_entropy", out.entropy[..., None], rounding)
    scaled = out.scaled_entropy[..., None]
    check(case, f"{prefix}pi_scaled_entropy", scaled, case.config.action_dim * rounding)
    if not prefix:
        check(case, "pi_mean", out.mean)


@pytest.mark.parametrize("target", [False, True])
def test_q_ensemble(case, target):
    model, arrays, task = WorldModel(case.config), case.arrays, task_of(case)
    suffix = "_target" if target else ""
    z, action = jnp.asarray(arrays["z"]), jnp.asarray(arrays["act"])
    check(case, f"q_all{suffix}", model.q(case.params, z, action, task, target=target))
    for name, reduce in (("avg", "mean"), ("min", "min")):
        value = model.q_value(
            case.params,
            z,
            action,
            jnp.asarray(arrays[f"q_{name}{suffix}_qidx"]),
            task,
            target=target,
            reduce=reduce,
        )
        check(case, f"q_{name}{suffix}", value[:, None])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_value_of_sequences(case, implementation):
    arrays = case.arrays
    task = jnp.asarray(arrays["est_task"][0]) if case.config.multitask else None
    model = IMPLEMENTATIONS[implementation](case.config, case.params, task)
    rollout = roll_out(model, jnp.asarray(arrays["est_z"]), jnp.asarray(arrays["est_actions"]))
    members = jnp.asarray(arrays["est_qidx"])
    value = terminal_value(model, rollout, jnp.asarray(arrays["est_pi_eps"]), members)
    check(case, "est_value", value[:, None])


def test_prerelease_models_take_symlog_observations():
    case = golden_model("prerelease_tiny")
    model, obs = WorldModel(case.config), jnp.asarray(case.arrays["obs"])
    assert case.config.symlog_observations
    np.testing.assert_allclose(
        model.encode(case.params, obs), case.arrays["z"], rtol=RTOL, atol=1e-6
    )
