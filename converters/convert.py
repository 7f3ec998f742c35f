"""Converts official TD-MPC2 checkpoints into Flax ones, and back.

  python -m converters.convert --checkpoint mt30-5M.pt --output teachers/mt30-5M
  python -m converters.convert --checkpoint teachers/mt30-5M --output mt30-5M.pt --to_torch

The size, the dimensions, the number of tasks and the episodic head are read
off the weights. A parity report compares torch and Flax module by module, and
nothing is written unless they agree.
"""

from pathlib import Path

from absl import flags

from experiments.support import launch
from specmpc_jax.errors import UserError

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Official file (.pt) in any layout; with --to_torch also a Flax directory."
)
_OUTPUT = flags.DEFINE_string("output", None, "Directory to make; with --to_torch a .pt file.")
_TASK = flags.DEFINE_string(
    "task",
    "",
    "Task of a single-task file, a task set (mt30, mt80), or all tasks joined by commas; "
    "empty: from the file's name and the weights.",
)
_MODEL_SIZE = flags.DEFINE_enum(
    "model_size",
    None,
    ["1", "5", "19", "48", "317"],
    "Size in millions of parameters that the weights must show; empty: whatever they show.",
)
_ACTION_DIMS = flags.DEFINE_list(
    "action_dims", [], "Action dims, one a task, for multi-task files without masks."
)
_EPISODE_LENGTH = flags.DEFINE_list(
    "episode_length",
    [],
    "Episode length in agent steps, one for all tasks or one a task; sets the discount. "
    "Known tasks need none; otherwise 500 is assumed.",
)
_TO_TORCH = flags.DEFINE_boolean("to_torch", False, "Write the current official layout instead.")
_VERIFY = flags.DEFINE_boolean("verify", True, "Compare torch and Flax before anything is written.")
_OVERWRITE = flags.DEFINE_boolean("overwrite", False, "Replace an existing --output.")


def main() -> None:
    """Reads, compares, then writes."""
    checkpoint, output = _paths()
    known = dict(
        task=_TASK.value,
        action_dims=_whole_numbers(_ACTION_DIMS),
        episode_lengths=_whole_numbers(_EPISODE_LENGTH),
        model_size=int(_MODEL_SIZE.value) if _MODEL_SIZE.value else None,
    )
    # Torch is optional, and slow to import: everything above answers without it.
    from converters import transfer, verify

    if not _TO_TORCH.value:
        source = transfer.read_torch(checkpoint, **known)
    elif checkpoint.is_dir():
        source = transfer.read_flax(checkpoint)
    else:
        source = transfer.in_current_layout(transfer.read_torch(checkpoint, **known))
    print(transfer.describe(source), flush=True)

    if _VERIFY.value:
        report = verify.parity_report(
            source.state_dict, source.params, source.config, seed=launch.SEED.value
        )
        print(verify.format_report(report), flush=True)
        verify.require_parity(report)
        source = transfer.with_parity(source, report)

    if _TO_TORCH.value:
        transfer.write_torch(output, source)
    else:
        transfer.write_flax(output, source, overwrite=_OVERWRITE.value)
    print(f"wrote {output}")


def _paths() -> tuple[Path, Path]:
    if not _CHECKPOINT.value or not _OUTPUT.value:
        raise UserError("give both --checkpoint and --output")
    output = Path(_OUTPUT.value)
    if output.exists() and not _OVERWRITE.value:
        raise UserError(f"{output} exists already; choose another --output or add --overwrite")
    if output.exists() and output.is_dir() == _TO_TORCH.value:
        kind = "a .pt file" if _TO_TORCH.value else "a directory"
        raise UserError(f"{output} is no place for {kind}; choose another --output")
    return Path(_CHECKPOINT.value), output


def _whole_numbers(flag: flags.FlagHolder[list[str]]) -> tuple[int, ...]:
    if not all(value.isdecimal() and int(value) > 0 for value in flag.value):
        raise UserError(f"--{flag.name} takes whole numbers above 0, got {','.join(flag.value)}")
    return tuple(map(int, flag.value))


if __name__ == "__main__":
    launch.run(main)
