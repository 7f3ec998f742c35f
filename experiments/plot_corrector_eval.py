"""Draws the plots of an evaluation from its CSV.

python -m experiments.plot_corrector_eval --results_csv=results/walker-walk/summary.csv
"""

from pathlib import Path

from absl import flags

from experiments.support import launch, plotting
from specmpc_jax.errors import UserError

RESULTS = flags.DEFINE_string(
    "results_csv",
    None,
    "Summary that experiments.eval_corrector wrote; episodes.csv beside it is used too.",
)
OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Directory of the plots; plots/ beside the CSV if empty."
)
FORMAT = flags.DEFINE_enum("format", "png", ["png", "pdf", "svg"], "File format of the plots.")


def main() -> None:
    """Draws what the results allow and names the files."""
    if not RESULTS.value:
        raise UserError("give the evaluation's table with --results_csv")
    output = OUTPUT_DIR.value or Path(RESULTS.value).parent / "plots"
    for path in plotting.plot_results(RESULTS.value, output, FORMAT.value):
        print(f"wrote {path}")


if __name__ == "__main__":
    launch.run(main)
