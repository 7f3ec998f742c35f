"""Draws learning curves of training runs over the official TD-MPC2 curves.

python -m experiments.plot_training --logs_dir=logs --task=walker-walk --exp_name=default
python -m experiments.plot_training --runs='logs/walker-walk/*/default,logs/cheetah-run/*/default'

One panel a task, one line for each experiment name: the mean over its seeds, with the 95%
bootstrap interval of that mean where there are several, and each seed as a thin line.
"""

from pathlib import Path

from absl import flags

from experiments.support import curve_plots, launch
from experiments.support import plot_style as style
from experiments.support.learning_curves import find_runs
from specmpc_jax import files
from specmpc_jax.errors import UserError

RUNS = flags.DEFINE_list("runs", [], "Run directories or shell patterns of them.")
LOGS_DIR = flags.DEFINE_string("logs_dir", "logs", "Directory of all runs; used with --task.")
TASK = flags.DEFINE_list("task", [], "Tasks whose runs under --logs_dir are drawn.")
EXP_NAME = flags.DEFINE_list("exp_name", ["default"], "Names of the runs; used with --task.")
OUTPUT = flags.DEFINE_string(
    "output", "learning_curves.png", "File of the figure; its suffix (png, pdf, svg) decides."
)
REFERENCE = flags.DEFINE_bool("reference", True, "Draw the official curves.")

_FORMATS = (".png", ".pdf", ".svg")


def main() -> None:
    """Reads the runs that the flags name and draws them."""
    output = Path(OUTPUT.value)
    if output.suffix not in _FORMATS:
        raise UserError(f"--output {output} must end in one of {', '.join(_FORMATS)}")
    patterns = RUNS.value + [
        str(Path(LOGS_DIR.value, task, "*", name)) for task in TASK.value for name in EXP_NAME.value
    ]
    if not patterns:
        raise UserError("name runs with --runs, or a --task whose runs are under --logs_dir")
    runs = find_runs(patterns)
    with style.styled():
        figure = curve_plots.draw(runs, reference=REFERENCE.value)
        with files.atomic_path(output) as temporary:
            figure.savefig(temporary, dpi=style.RESOLUTION)
    for run in runs:
        steps, returns = run.curve
        print(f"{run.task}, {run.name}, seed {run.seed}: {returns[-1]:.1f} at step {steps[-1]:.0f}")
    print(f"wrote {output}")


if __name__ == "__main__":
    launch.run(main)
