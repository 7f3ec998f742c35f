"""Exports a controller as StableHLO programs that run without this library.

python -m experiments.export_controller --task=walker-walk --output=exported/walker-walk

The directory holds the programs, their arrays (arrays.npz) and manifest.json;
docs/examples/control_exported.py controls a task with nothing but them.
"""

from pathlib import Path

from absl import flags

from experiments.support import launch, planner_flags, teachers
from specmpc_jax.exporting import export_controller

EXEC_HORIZON = flags.DEFINE_integer(
    "exec_horizon", 3, "Steps executed of one plan at most; 1 plans at every step.", lower_bound=1
)
CORRECTOR = flags.DEFINE_string(
    "corrector", None, "Corrector: a directory, bundled:NAME, refine or prior; none if empty."
)
TAU_ACCEPT = flags.DEFINE_float(
    "tau_accept", None, "Mismatch up to which planned actions are taken as they are (default 0)."
)
TAU_REPLAN = flags.DEFINE_float(
    "tau_replan", None, "Mismatch beyond which a plan is dropped (default infinite)."
)
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size",
    None,
    "Environments that the programs control side by side; no batch axis if empty.",
    lower_bound=1,
)
PLATFORMS = flags.DEFINE_list(
    "platforms", ["cpu", "cuda"], "What the programs shall run on: cpu, cuda, rocm, tpu."
)
OUTPUT = flags.DEFINE_string("output", None, "Directory to make; exported/<task> if empty.")
OVERWRITE = flags.DEFINE_boolean("overwrite", False, "Replace an existing --output.")


def main() -> None:
    """Exports the controller that the flags describe."""
    task = teachers.TASK.value
    output = Path(OUTPUT.value or f"exported/{task}")
    agent = planner_flags.apply(teachers.load_teacher())
    controller = agent.controller(
        EXEC_HORIZON.value,
        CORRECTOR.value,
        tau_accept=TAU_ACCEPT.value,
        tau_replan=TAU_REPLAN.value,
        task=task,
    )
    manifest = export_controller(
        controller,
        output,
        BATCH_SIZE.value,
        PLATFORMS.value,
        {"flags": launch.flag_values(), "provenance": launch.provenance()},
        overwrite=OVERWRITE.value,
    )
    for file in sorted(output.iterdir()):
        print(f"{file.name:24} {file.stat().st_size / 1024:9.1f} kB")
    print(f"wrote {output}: {manifest['task']} on {', '.join(manifest['platforms'])}")


if __name__ == "__main__":
    launch.run(main)
