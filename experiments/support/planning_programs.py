"""Compiled JAX programs that the planning benchmark times, and the products beneath them."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.support.planning_settings import Setting
from specmpc_jax.config import ModelConfig
from specmpc_jax.ops.activations import simnorm
from specmpc_jax.planning import fused_model, mppi
from specmpc_jax.planning.flops import Product
from specmpc_jax.types import Array, Params, Plan, PlanningModel
from specmpc_jax.world_model import WorldModel

IMPLEMENTATIONS = ("jax", "jax_reference")
SQUARE = 2048
MEMORY_SOURCE = "xla: arguments + temporaries + results"

# How many products of one shape a loop runs before it jumps back. A loop has to copy what it
# carries; so often, that does not count.
_UNROLL = 8


class Program(NamedTuple):
    """A program that was compiled ahead of its calls."""

    call: Callable[[], Any]  # one call, blocked until its result is there
    compile_s: float | None  # seconds of lowering and compiling; None if nothing is compiled
    memory_mb: float | None  # None where it is not known
    memory_source: str | None


def random_params(config: ModelConfig, key: Array) -> Params:
    """Draws weights with reward and Q heads that are not zero; consumes `key`.

    There is no target ensemble: plans do not need it.
    """

    def draw(key: Array) -> Params:
        init_key, reward_key, q_key = jax.random.split(key, 3)
        params = WorldModel(config).init(init_key)
        del params["target_q"]
        for name, head_key in (("reward", reward_key), ("q", q_key)):
            head = params[name]["head"]
            head["kernel"] = 0.02 * jax.random.normal(head_key, head["kernel"].shape)
        return params

    return jax.jit(draw)(key)


def plan_program(
    implementation: str,
    config: ModelConfig,
    params: Params,
    setting: Setting,
    task: int,
    key: Array,
) -> Program:
    """Compiles the plan that `Agent.plan` makes, over one of the two forms of the model.

    Args:
      implementation: "jax" is the fused model, "jax_reference" the readable one.
      config: the architecture.
      params: its weights.
      setting: what to plan; the reference plans in float32 only.
      task: index of the task, 0 for single-task models.
      key: consumed; draws start latents and the plan's noise.
    """
    weights: Any = params
    if implementation == "jax":
        prepare = jax.jit(fused_model.prepare, static_argnums=(0, 2))
        weights = prepare(config, params, setting.precision)

    def planning_model(weights: Any) -> PlanningModel:
        if implementation == "jax":
            return fused_model.planning_model(config, weights, jnp.asarray(task))
        return WorldModel(config).planning_model(weights, jnp.asarray(task))

    def plan(weights: Any, z: Array, keys: Array) -> Plan:
        model, planner = planning_model(weights), setting.planner

        def single(z: Array, key: Array) -> Plan:
            noise = mppi.draw_noise(key, planner, config.action_dim, config.num_q)
            warm_start = jnp.zeros((planner.horizon, config.action_dim))
            return mppi.plan(model, planner, z, warm_start, noise)

        # One environment is planned for as a controller does it, without an axis for it.
        return single(z[0], keys[0]) if setting.batch_size == 1 else jax.vmap(single)(z, keys)

    z = start_latents(config, setting.batch_size, key)
    keys = jax.random.split(jax.random.fold_in(key, 1), setting.batch_size)
    return compile_program(plan, weights, z, keys)


def start_latents(config: ModelConfig, batch_size: int, key: Array) -> Array:
    """Draws latents `[B, L]` of the form that encoders put out; consumes `key`."""
    return simnorm(jax.random.normal(key, (batch_size, config.latent_dim)), config.simnorm_dim)


def product_mix(products: Sequence[Product], precision: str) -> Program:
    """Compiles the plain matrix products of a plan, back to back and as often as they occur.

    Nothing else is computed, so that their FLOPs over the time of a call are the rate
    which a plan would reach if all but its products were free.

    Args:
      products: from `planning_products`.
      precision: type of the operands; they are summed in float32, as in a plan.
    """
    operands = [
        (
            _random_matrix(product.rows, product.inner, precision),
            _random_matrix(product.inner, product.columns, precision),
        )
        for product in products
    ]
    counts = [product.count for product in products]

    def run(operands: list[tuple[Array, Array]], index: Array) -> list[Array]:
        pairs = zip(operands, counts, strict=True)
        return [_repeated_product(x, kernel, count, index) for (x, kernel), count in pairs]

    return compile_program(run, operands, jnp.zeros((), jnp.int32))


def square_product(precision: str) -> Program:
    """Compiles the product of two square matrices of width `SQUARE`."""
    matrix = _random_matrix(SQUARE, SQUARE, precision)
    return compile_program(_product, matrix, matrix)


def compile_program(function: Callable[..., Any], *arguments: Any) -> Program:
    """Compiles a function for arguments that every call is given."""
    jax.block_until_ready(arguments)
    start = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    elapsed = time.perf_counter() - start
    memory = _memory(compiled)
    source = None if memory is None else MEMORY_SOURCE
    return Program(lambda: jax.block_until_ready(compiled(*arguments)), elapsed, memory, source)


def _random_matrix(rows: int, columns: int, dtype: str) -> Array:
    """A matrix `[rows, columns]`, always the same; products with it keep their scale.

    Drawn by NumPy, since JAX would compile a program for each shape.
    """
    matrix = np.random.default_rng(0).standard_normal((rows, columns), np.float32)
    return jnp.asarray(matrix * rows**-0.5, dtype)


def _repeated_product(x: Array, kernel: Array, count: int, index: Array) -> Array:
    """Runs `x @ kernel` `count` times, each on operands that depend on the time before."""

    def once(_: Array, x: Array) -> Array:
        y = _product(x, kernel)
        if y.shape == x.shape and y.dtype == x.dtype:
            return y
        # An element at a place that is not known when compiling, so that all of y is needed.
        element = lax.dynamic_slice(y, (index, index), (1, 1)).astype(x.dtype)
        return lax.dynamic_update_slice(x, element, (index, index))

    x = lax.fori_loop(0, count, once, x, unroll=min(count, _UNROLL))
    return lax.dynamic_slice(x, (index, index), (1, 1))


def _product(x: Array, kernel: Array) -> Array:
    return jnp.matmul(x, kernel, preferred_element_type=jnp.float32)


def _memory(compiled: Any) -> float | None:
    """What a program holds at once, in MB; donated arguments are not counted twice."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    parts = ("argument_size_in_bytes", "temp_size_in_bytes", "output_size_in_bytes")
    total = sum(getattr(analysis, part) for part in parts) - analysis.alias_size_in_bytes
    return total / 1e6
