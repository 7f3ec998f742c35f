"""Whole plans against the official planner, with its recorded random numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import FORWARD_CASES, IMPLEMENTATIONS, golden_model, recorded_noise, traced_for
from specmpc_jax.ops.sequences import shift_sequence
from specmpc_jax.planning import mppi
from specmpc_jax.world_model import WorldModel

NOISE_FACTOR = 10.0


@pytest.fixture(scope="module", params=FORWARD_CASES)
def case(request):
    """A golden model with recorded plans."""
    return golden_model(request.param)


def close(case, name, ours, rtol=2e-5):
    expected = case.arrays[name]
    noise = case.meta.get("float32_noise", {}).get("arrays", {}).get(name, {})
    floor = max(rtol * np.abs(expected).max(), NOISE_FACTOR * noise.get("max_abs_err", 0.0))
    np.testing.assert_allclose(ours, expected, rtol=rtol, atol=floor, err_msg=name)


def in_recorded_order(case, prefix, trace):
    """The last elites' actions `[H, E, A]`; those of equal value may have changed places.

    Two elites of a recorded plan can be worth the same to rounding. Which of them comes first
    then depends on the processor's order of summation.
    """
    ours, expected = np.asarray(trace.elite_actions[-1]), case.arrays[f"{prefix}elite_actions"]
    apart = np.abs(ours[:, :, None] - expected[:, None]).max(axis=(0, 3))
    order = apart.argmin(axis=0)
    assert sorted(order) == list(range(len(order)))
    values = np.asarray(trace.elite_values[-1])
    # On a GPU two that differed by 2e-5 changed places.
    np.testing.assert_allclose(values[order], values, rtol=5e-5)
    return ours[:, order]


@functools.partial(jax.jit, static_argnames=("implementation", "platform", "config", "planner"))
def optimise(implementation, platform, config, planner, params, z, task, warm_start, noise):
    """`mppi.optimise`, compiled once for all recorded plans of a case."""
    model = IMPLEMENTATIONS[implementation](config, params, task)
    with traced_for(platform):
        return mppi.optimise(model, planner, z, warm_start, noise, trace=True)[1]


@functools.partial(jax.jit, static_argnames=("implementation", "config", "explore"))
def draw_elite(implementation, config, explore, params, z, task, trace, noise):
    model = IMPLEMENTATIONS[implementation](config, params, task)
    last = jax.tree.map(lambda leaf: leaf[-1], trace)
    return mppi.draw_elite(model, z, last, noise, explore=explore)


@pytest.mark.parametrize(
    "implementation, platform", [("readable", "cpu"), ("fused", "cpu"), ("fused", "accelerator")]
)
def test_plans(case, implementation, platform):
    encode = jax.jit(WorldModel(case.config).encode)
    for index, recorded in enumerate(case.meta["plans"]):
        prefix, arrays = recorded["prefix"], case.arrays
        task = None if recorded["task"] is None else jnp.asarray(recorded["task"])
        shift = arrays.get(f"{prefix}shift")
        observation = jnp.asarray(arrays[f"{prefix}obs"])
        z = encode(case.params, observation, task, None if shift is None else jnp.asarray(shift))
        close(case, f"{prefix}z", z)
        previous = jnp.zeros_like(jnp.asarray(arrays[f"{prefix}init_mean"]))
        if not recorded["t0"]:
            previous = jnp.asarray(arrays[f"plan{index - 1}_prev_mean"])
        warm_start = shift_sequence(previous, jnp.asarray(1))
        close(case, f"{prefix}init_mean", warm_start)
        noise, explore = recorded_noise(arrays, prefix), not recorded["eval_mode"]

        trace = optimise(
            implementation,
            platform,
            case.config,
            case.planner,
            case.params,
            z[0],
            task,
            warm_start,
            noise,
        )
        for name in ("mean", "std"):
            close(case, f"{prefix}{name}", getattr(trace, name))
        close(case, f"{prefix}value", trace.values, rtol=1e-4)
        close(case, f"{prefix}elite_value", trace.elite_values, rtol=1e-4)
        # Exponentials of values: an error of 1e-5 in a value of 100 changes them by up to 1e-4.
        close(case, f"{prefix}score", trace.scores, rtol=1e-4)
        close(case, f"{prefix}elite_actions", in_recorded_order(case, prefix, trace))
        plan = draw_elite(
            implementation, case.config, explore, case.params, z[0], task, trace, noise
        )
        close(case, f"{prefix}action", plan.action)
        close(case, f"{prefix}prev_mean", plan.mean)
