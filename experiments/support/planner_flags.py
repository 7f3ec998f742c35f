"""Planner flags shared by the binaries that plan."""

import dataclasses

from absl import flags

from specmpc_jax.agent import Agent

_FLAGS = {
    "num_samples": flags.DEFINE_integer(
        "num_samples", None, "Action sequences scored in each iteration (default 512)."
    ),
    "iterations": flags.DEFINE_integer(
        "iterations", None, "MPPI iterations (default 6; 8 from 20 action dimensions on)."
    ),
    "num_elites": flags.DEFINE_integer("num_elites", None, "Elite sequences (default 64)."),
    "num_pi_trajs": flags.DEFINE_integer(
        "num_pi_trajs", None, "Sequences from the policy prior (default 24)."
    ),
}


def apply(agent: Agent, horizon: int | None = None) -> Agent:
    """Returns the agent with the planner settings that the flags ask for.

    Args:
      agent: the teacher.
      horizon: planning horizon in agent steps; None keeps the teacher's.
    """
    changes = {name: flag.value for name, flag in _FLAGS.items() if flag.value is not None}
    if horizon is not None:
        changes["horizon"] = horizon
    return agent.with_planner(**changes) if changes else agent


def settings(agent: Agent) -> dict[str, float]:
    """The planner settings in use, as JSON types."""
    return dataclasses.asdict(agent.planner)
