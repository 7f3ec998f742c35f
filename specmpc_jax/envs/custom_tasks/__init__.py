"""The eleven tasks that TD-MPC2 adds to the DeepMind Control Suite, on the suite's own bodies.

One module a domain, each with a mapping `TASKS` from a task's name to a function
`(random: int) -> dm_control.rl.control.Environment`. They import dm_control, so this
package imports them only when it is asked for a task.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from specmpc_jax.envs.rendering import import_suite

# Domains of the suite, in the order of TD-MPC2's task sets.
_DOMAINS = ("walker", "cheetah", "hopper", "reacher", "ball_in_cup", "pendulum")


def task_pairs() -> tuple[tuple[str, str], ...]:
    """The suite's way to name each task: pairs such as ("ball_in_cup", "spin").

    Raises:
      UserError: if dm_control is not installed.
    """
    return tuple((domain, task) for domain in _DOMAINS for task in _tasks(domain))


def load(domain: str, task: str, seed: int) -> Any:
    """Loads one of `task_pairs()` as `dm_control.suite.load` loads a task of the suite.

    Args:
      domain: domain of the suite.
      task: name of the task there.
      seed: start of the task's random stream.
    """
    return _tasks(domain)[task](seed)


def _tasks(domain: str) -> Mapping[str, Callable[[int], Any]]:
    import_suite()  # chooses the rendering backend before anything else loads dm_control
    return importlib.import_module(f"{__name__}.{domain}").TASKS
