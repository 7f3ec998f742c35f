"""TD-MPC2 in JAX: plan fast, execute plans speculatively, correct them.

In short:

    import specmpc_jax as sm

    agent = sm.load("bundled:walker-walk-1m")
    controller = agent.controller(exec_horizon=3, corrector="path/of/a/corrector")
"""

from specmpc_jax.agent import Agent
from specmpc_jax.controller import Controller
from specmpc_jax.correctors.corrector import Corrector
from specmpc_jax.errors import UserError
from specmpc_jax.exported import ExportedController, load_exported
from specmpc_jax.exporting import export_controller
from specmpc_jax.loading import load
from specmpc_jax.machine import enable_compilation_cache
from specmpc_jax.speculation.decisions import Decision, Outcome

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "Controller",
    "Corrector",
    "ExportedController",
    "Decision",
    "Outcome",
    "UserError",
    "enable_compilation_cache",
    "export_controller",
    "load",
    "load_exported",
]
