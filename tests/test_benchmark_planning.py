"""The planning benchmark: its FLOPs, its sweep, its PyTorch baseline, and the binary."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.image import imread

from experiments.support import planning_programs, plot_planning, timing
from experiments.support.planning_settings import Setting, check_model, default_row, sweep
from models import TINY_PLANNER, tiny_agent, tiny_config
from specmpc_jax.config import PlannerConfig, model_config
from specmpc_jax.errors import UserError
from specmpc_jax.planning import fused_model, mppi
from specmpc_jax.planning.flops import Product, planning_flops, planning_products
from specmpc_jax.world_model import WorldModel

ROOT = Path(__file__).parents[1]
TINY = ["--sizes=1", "--num_samples=8", "--iterations=1", "--horizons=1", "--precision=float32"]


def program_flops(jaxpr) -> int:
    """FLOPs of every matrix product that a traced program runs."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            ((contracted, _), _) = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            inner = np.prod([shape[axis] for axis in contracted])
            total += 2 * int(np.prod(equation.outvars[0].aval.shape) * inner)
        if equation.primitive.name == "cond":  # a choice by platform; the first is the CPU's
            total += program_flops(equation.params["branches"][0].jaxpr)
        for value in equation.params.values():
            inside = getattr(value, "jaxpr", value)
            if hasattr(inside, "eqns"):
                total += equation.params.get("length", 1) * program_flops(inside)
    return total


def test_flops_of_a_tiny_model_by_hand():
    model = tiny_config(latent_dim=8, mlp_dim=10, num_bins=7)  # two actions
    planner = PlannerConfig(horizon=2, iterations=3, num_samples=6, num_elites=2, num_pi_trajs=2)
    start = 8 * 20
    prior_policy = (8 * 10 + 10 * 10 + 10 * 4) * (1 + 2)
    sequence = (2 * 20 + 10 * 20) + 2 * (100 + 100 + 10 * 8 + 10 * 7)
    last = (8 * 10 + 100 + 10 * 4) + 2 * (10 * 10 + 100 + 10 * 7)
    needed = 2 * (start + prior_policy + 2 * sequence + 3 * (4 * sequence + 6 * last))
    assert planning_flops(model, planner) == needed
    assert planning_flops(model, planner, batch_size=5) == 5 * needed


@pytest.mark.parametrize("fields", [dict(num_q=2), dict(num_q=3, episodic=True)])
def test_flops_are_those_of_the_fused_planner(fields):
    model, planner = tiny_config(**fields), TINY_PLANNER
    params = planning_programs.random_params(model, jax.random.key(0))

    def optimise(z, key):
        planned = fused_model.planning_model(model, fused_model.prepare(model, params), 0)
        noise = mppi.draw_noise(key, planner, model.action_dim, model.num_q)
        return mppi.optimise(planned, planner, z, jnp.zeros((3, 2)), noise)[0]

    traced = jax.make_jaxpr(optimise)(jnp.zeros(model.latent_dim), jax.random.key(0))
    # What the program does beyond need is decoding.
    rewards = 3 * (planner.num_pi_trajs + planner.iterations * (16 - planner.num_pi_trajs))
    decoding = 2 * model.num_bins * (rewards + 2 * 16 * planner.iterations)
    assert program_flops(traced.jaxpr) == planning_flops(model, planner) + decoding


def test_flops_of_the_published_sizes():
    needed = {size: planning_flops(model_config(size, action_dim=6), PlannerConfig()) / 1e9
              for size in (1, 5)}  # fmt: skip
    assert needed == {1: pytest.approx(12.2, abs=0.01), 5: pytest.approx(31.57, abs=0.01)}


def test_product_mix_runs_every_product_as_often_as_it_occurs():
    products = planning_products(tiny_config(), TINY_PLANNER)
    traced = []

    def compile_program(function, *arguments):
        traced.append(jax.make_jaxpr(function)(*arguments))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning_programs, "compile_program", compile_program)
        planning_programs.product_mix(products, "float32")
    assert program_flops(traced[0].jaxpr) == planning_flops(tiny_config(), TINY_PLANNER)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_product_mix_survives_the_compiler(precision):
    """Each product depends on the one before it: as many are left as were written."""
    product = Product(rows=4, inner=6, columns=5, count=3)
    program = planning_programs.product_mix([product], precision)
    (result,) = program.call()
    assert result.shape == (1, 1) and np.isfinite(np.asarray(result, np.float32)).all()
    x = jnp.zeros((4, 6), precision)
    kernel = jnp.zeros((6, 5), precision)
    compiled = jax.jit(
        lambda x, kernel, i: planning_programs._repeated_product(x, kernel, 3, i)
    ).lower(x, kernel, 0).compile()  # fmt: skip
    assert compiled.cost_analysis()["flops"] >= product.flops


def test_benchmarked_plan_is_the_agents():
    agent = tiny_agent()
    setting = Setting(None, batch_size=3, num_samples=16, iterations=1, horizon=1, action_dim=2)
    agent = agent.with_planner(num_elites=8, num_pi_trajs=8, iterations=1, horizon=1)
    assert setting.planner == agent.planner
    key = jax.random.key(4)
    z = planning_programs.start_latents(agent.config, 3, key)
    expected = agent.plan(z, jax.random.fold_in(key, 1))
    for name in planning_programs.IMPLEMENTATIONS:
        program = planning_programs.plan_program(name, agent.config, agent.params, setting, 0, key)
        np.testing.assert_allclose(program.call().mean, expected.mean, atol=1e-4)
        assert program.compile_s > 0 and program.memory_mb > 0


def test_torch_plan_is_the_jax_plan():
    torch = pytest.importorskip("torch")
    from experiments.support.torch_baseline import TorchNoise, TorchPlanner

    agent, lanes = tiny_agent(), 3
    z = planning_programs.start_latents(agent.config, lanes, jax.random.key(1))
    warm_start = jax.random.uniform(jax.random.key(2), (lanes, 3, 2), minval=-0.5, maxval=0.5)

    def single(z, mean, key):
        noise = mppi.draw_noise(key, TINY_PLANNER, 2, agent.config.num_q)
        model = WorldModel(agent.config).planning_model(agent.params)
        return noise, mppi.plan(model, TINY_PLANNER, z, mean, noise)

    keys = jax.random.split(jax.random.key(3), lanes)
    noise, expected = jax.jit(jax.vmap(single))(z, warm_start, keys)

    def tensor(array, axis=0):
        """Lanes, first in JAX, go to `axis`."""
        return torch.from_numpy(np.moveaxis(np.array(array), 0, axis))

    theirs = TorchNoise(
        policy=tensor(noise.policy, 1),
        samples=tensor(noise.samples, 2),
        value=tensor(noise.value, 1),
        members=tensor(noise.members, 1).long(),
        gumbel=tensor(noise.gumbel),
    )
    planner = TorchPlanner(agent.config, TINY_PLANNER, agent.params)
    plan = planner.plan(tensor(z), tensor(warm_start, 1), theirs)
    for ours, jax_value in (
        (plan.action, expected.action),
        (plan.mean.transpose(0, 1), expected.mean),
        (plan.std.transpose(0, 1), expected.std),
        (plan.elite_values, expected.elite_values),
    ):
        np.testing.assert_allclose(ours, jax_value, rtol=1e-4, atol=1e-4)
    drawn = planner.draw_noise(lanes)
    assert [x.shape for x in drawn] == [x.shape for x in theirs]
    assert (drawn.members[..., 0] != drawn.members[..., 1]).all()
    with pytest.raises(UserError, match="single-task"):
        TorchPlanner(tiny_config(episodic=True), TINY_PLANNER, agent.params)


def test_sweep_varies_one_axis_at_a_time():
    values = dict(model_size=[1, 5], precision=["float32", "bfloat16"], num_samples=[256])
    star = [(s.model_size, s.precision) for s in sweep(values)]
    assert star == [(1, "float32"), (5, "float32"), (5, "bfloat16")]
    assert len(sweep(values, cross=True)) == 4
    assert default_row(values)["num_samples"] == 256 and default_row(values)["model_size"] == 5
    for action_dim, listed, base in ((6, [4, 6], 6), (21, [6, 8], 8), (6, [4, 8], 4)):
        assert default_row(dict(iterations=listed, action_dim=[action_dim]))["iterations"] == base
    assert Setting(action_dim=21).planner.iterations == 8
    assert Setting(num_samples=16).planner.num_pi_trajs == 8


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (dict(model_size=[2]), "sizes are 1, 5, 19, 48, 317"),
        (dict(precision=["float16"]), "float32 or bfloat16"),
        (dict(num_samples=[1]), "at least 2"),
        (dict(horizon=[0]), "at least 1"),
    ],
)
def test_sweep_refuses_impossible_plans(fields, said):
    with pytest.raises(UserError, match=said):
        sweep(fields)


def test_checkpoint_decides_size_and_actions():
    check_model(tiny_config(), {"action_dim": [2]})
    with pytest.raises(UserError, match="--action_dims"):
        check_model(tiny_config(), {"action_dim": [2, 3]})


def test_programs_take_turns_until_the_budget_is_spent():
    calls = []
    seconds = timing.interleave(
        {name: lambda n=name: calls.append(n) for name in "ab"}, rounds=50, time_budget_s=0.0
    )
    assert calls == ["a", "b"] * (1 + timing.MINIMUM_ROUNDS)
    assert len(seconds["a"]) == len(seconds["b"]) == timing.MINIMUM_ROUNDS
    assert timing.summary(np.array([0.001, 0.003]))["mean_ms"] == pytest.approx(2.0)


def test_figure_shows_the_rows_of_its_axis():
    base = Setting().columns()
    rows = [
        {**base, "implementation": name, "batch_size": batch, "p50_ms": batch, "p95_ms": 2 * batch,
         "peak_share": 0.5, "device": "a machine"}
        for name in ("jax", "torch_eager") for batch in (1, 4, 16)
    ]  # fmt: skip
    assert plot_planning.varied_axes(rows) == ["model_size", "batch_size"]
    latency, _ = plot_planning.figure(rows, "batch_size", base).axes
    assert [list(line.get_ydata()) for line in latency.lines] == [[1, 4, 16]] * 2
    latency, _ = plot_planning.figure(rows, "model_size", base).axes
    assert [list(line.get_ydata()) for line in latency.lines] == [[1]] * 2


def command(*arguments):
    program = [sys.executable, "-m", "experiments.benchmark_planning", "--device=cpu", "--quiet"]
    # Compiled without optimising: the programs compile far longer than they run.
    flags = "--xla_backend_optimization_level=0"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags}
    return {"args": [*program, *arguments], "env": environment, "text": True}


def test_binary(tmp_path):
    settings = (*TINY, "--implementations=jax,torch_eager", "--repeats=2")
    out = tmp_path / "results" / "benchmark"
    table, record = out / "planning.json", out / "planning.run.json"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(**command(*settings), cwd=tmp_path, **pipes) as process:
        while not table.exists() and process.poll() is None:
            time.sleep(0.01)
        # A run that is killed now keeps the setting that it has finished.
        partial = json.loads(table.read_text()), json.loads(record.read_text())
        said, errors = process.communicate()
    assert process.returncode == 0, errors
    assert partial[0] and not partial[1]["complete"]
    rows = json.loads(table.read_text())
    run = json.loads(record.read_text())
    expected = ["jax"] + ["torch_eager"] * (run["torch"] is not None)
    assert rows == partial[0] and [row["implementation"] for row in rows] == expected
    for row in rows:
        assert row["calls"] == 2 and 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        rate = row["needed_gflop"] / (row["p50_ms"] / 1e3)
        assert row["peak_share"] == pytest.approx(rate / row["peak_gflops"])
        assert (row["model_size"], row["num_samples"], row["horizon"]) == (1, 8, 1)
        compiled = row["implementation"] != "torch_eager"
        assert (row["compile_s"] is not None) == (row["peak_memory_mb"] is not None) == compiled
    with (out / "planning.csv").open() as file:
        assert [float(row["p50_ms"]) for row in csv.DictReader(file)] == [
            row["p50_ms"] for row in rows
        ]
    steps = {row["step"]: row for row in json.loads((out / "steps.json").read_text())}
    assert list(steps) == ["accept", "correct", "refine", "replan"]
    assert all(row["calls"] > 0 and row["p50_ms"] > 0 for row in steps.values())
    assert run["complete"] and run["provenance"]["cpu_cores"]
    assert imread(out / "planning.png").std() > 0
    assert "peak_share" in said and "refine" in said


def test_bad_flags_get_one_line(tmp_path):
    flags = ["--checkpoint=bundled:walker-walk-1m", "--sizes=5"]
    result = subprocess.run(**command(*flags), cwd=tmp_path, capture_output=True)
    assert result.returncode == 1 and "checkpoint decides it (1)" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1 and not list(tmp_path.iterdir())
