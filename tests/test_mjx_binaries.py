"""The binaries that simulate on the device, end to end on a tiny untrained teacher."""

import json

import pytest

from models import tiny_agent
from specmpc_jax import checkpointing
from test_binaries import PLANNER, fail, rows, succeed

pytest.importorskip("mujoco.mjx")

TASK = "pendulum-swingup"
TEACHER = [f"--task={TASK}", "--model_dir=teachers", *PLANNER, "--quiet"]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A directory with a tiny teacher in `teachers/`."""
    directory = tmp_path_factory.mktemp("workplace")
    agent = tiny_agent(action_dim=1, observation_shape=(3,), tasks=(TASK,), episode_lengths=(500,))
    checkpointing.save_model(directory / "teachers" / "tiny", agent.params, agent.config)
    return directory


@pytest.mark.slow
def test_collect_train_evaluate_on_the_device(workplace):
    on_device = (*TEACHER, "--backend=mjx", "--num_envs=2")
    succeed("experiments.collect_corrector_data", *on_device, "--episodes=2", cwd=workplace)
    succeed(
        "experiments.train_corrector", "--corrector_type=two_tower", "--epochs=1",
        "--hidden_dim=8", "--quiet", cwd=workplace,
    )  # fmt: skip
    variants = "--variants=baseline,3_step_corrector"
    evaluate = ("experiments.eval_corrector", *on_device, "--episodes=2", variants)
    succeed(*evaluate, cwd=workplace)
    table = rows(workplace / "results" / TASK / "summary.csv")
    assert [row["variant"] for row in table] == ["baseline", "3_step_corrector"]
    assert float(table[1]["planner_calls_per_step"]) == pytest.approx(167 / 500)
    assert float(table[1]["p50_ms"]) > 0
    record = json.loads((workplace / "results" / TASK / "summary.run.json").read_text())
    assert record["shared"]["settings"]["backend"] == "mjx"
    # Another world: other episodes, from nothing.
    succeed(*evaluate, "--perturb_mass=0.5", cwd=workplace)
    other = rows(workplace / "results" / TASK / "summary.csv")
    assert other[0]["mean_jerk"] != table[0]["mean_jerk"]
    succeed("experiments.evaluate", *on_device, "--eval_episodes=2", cwd=workplace)


@pytest.mark.slow
def test_training_on_the_device(workplace):
    succeed(
        "experiments.train", f"--task={TASK}", "--backend=mjx", "--num_envs=4", "--steps=4000",
        "--model_size=1", "--eval_freq=4000", "--eval_episodes=2", "--batch_size=8", *PLANNER,
        "--seed_steps=1000", "--updates_per_step=0.02", "--quiet", cwd=workplace,
    )  # fmt: skip
    run = workplace / "logs" / TASK / "0" / "default"
    assert [row["step"] for row in rows(run / "eval.csv")] == ["0", "4000"]
    assert json.loads((run / "config.json").read_text())["online"]["backend"] == "mjx"


@pytest.mark.slow
def test_perturbation_drift_and_speed(workplace):
    succeed(
        "experiments.eval_perturbation", *TEACHER, "--strengths=0,0.3", "--parts=mass,gain",
        "--episodes=2", "--num_envs=2", "--variants=baseline,3_step_naive", cwd=workplace,
    )  # fmt: skip
    directory = workplace / "results" / TASK / "perturbation"
    table = rows(directory / "perturbation.csv")
    assert [(row["strength"], row["variant"]) for row in table] == [
        ("0.0", "baseline"), ("0.0", "3_step_naive"), ("0.3", "baseline"), ("0.3", "3_step_naive"),
    ]  # fmt: skip
    assert (directory / "perturbation.png").stat().st_size > 10_000
    succeed(
        "experiments.compare_physics", f"--tasks={TASK}", "--steps=20", "--quiet", cwd=workplace
    )
    (drift,) = rows(workplace / "results" / "compare_physics" / "drift.csv")
    assert float(drift["start"]) < 1e-4 and float(drift["step_20"]) < 1e-2
    succeed(
        "experiments.benchmark_rollout", *TEACHER, "--batch_sizes=1,2", "--steps=6", "--repeats=2",
        "--variants=policy,3_step_naive", cwd=workplace,
    )  # fmt: skip
    measured = rows(workplace / "results" / "benchmark_rollout" / "rollout.csv")
    assert [row["row"] for row in measured] == ["physics", "policy", "3_step_naive"] * 2
    assert all(0 < float(row["physics_share"]) for row in measured)


@pytest.mark.parametrize(
    "program, flags, message",
    [
        ("evaluate", ["--perturb_gain=0.1"], "--backend=mjx"),
        ("evaluate", ["--backend=mjx", "--perturb_gain=-1"], "gain is -1.0"),
        ("eval_perturbation", ["--strengths=a"], "'a', which is no number"),
        ("eval_perturbation", ["--parts=wind"], "mass, friction, gain"),
        ("benchmark_rollout", ["--batch_sizes=0"], "numbers from 1 on"),
    ],
)
def test_mistakes(workplace, program, flags, message):
    teacher = [flag for flag in TEACHER if not flag.startswith("--quiet")]
    assert message in fail(f"experiments.{program}", *teacher, *flags, cwd=workplace)
