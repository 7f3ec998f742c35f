"""The scaffold of every binary: common flags, device choice, one-line errors, provenance.

A binary defines its flags, a `main()` without arguments, and ends with

    if __name__ == "__main__":
        launch.run(main)

JAX looks for devices only once the flags are known to be right, so that `--help` and
mistyped flags answer without waiting for any.
"""

import atexit
import contextlib
import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging

from experiments.support import command_line, interrupts
from specmpc_jax import files
from specmpc_jax.errors import UserError, nearest_names
from specmpc_jax.machine import cpu_field, enable_compilation_cache

FLAGS = flags.FLAGS

DEVICE = flags.DEFINE_string("device", "", "Device: cpu or cuda; empty for the one JAX prefers.")
SEED = flags.DEFINE_integer("seed", 0, "Seed of every random draw.", lower_bound=0)
QUIET = flags.DEFINE_boolean("quiet", False, "Print results only: no start line, no progress.")
_COMPILATION_CACHE = flags.DEFINE_boolean(
    "compilation_cache", True, "Keep compiled programs in the user's cache directory."
)
_CONFIG_FILE = flags.DEFINE_string(
    "config_file",
    None,
    "JSON object of flag values, or the config.json of an earlier run; flags on the command "
    "line win.",
)

_MOST_VIRTUAL_DEVICES = 64
# The platform names JAX knows each device by: to ask for it, and as it answers.
_PLATFORMS = {"cpu": ("cpu", "cpu"), "cuda": ("cuda,cpu", "gpu")}
_PROVENANCE_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "mujoco", "dm-control")
# Optional packages by the extra of pyproject.toml that installs them.
_EXTRAS = {
    "gymnasium": "gymnasium",
    "mujoco.mjx": "mjx",
    "tensorboardX": "tensorboard",
    "torch": "convert",
}


def run(main: Callable[[], None], before_devices: Callable[[], None] | None = None) -> NoReturn:
    """Parses the flags, sets up JAX, runs `main` and exits.

    Mistakes of the user (`UserError`, bad flags, files that cannot be read or
    written) become one line on stderr and exit status 1, Ctrl-C status 130.
    Programming errors keep their traceback.

    Args:
      main: the binary's work; it reads its flags itself.
      before_devices: called before JAX looks for devices, for what has to come
        earlier: `use_virtual_cpu_devices` or `jax.distributed.initialize`.
    """

    def start(argv: list[str]) -> None:
        del argv
        logging.set_verbosity(logging.WARNING)
        _set_up_jax(before_devices)
        main()

    try:
        interrupts.raise_from_here()
        app.run(start, flags_parser=_parse_flags)
    except UserError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted", status=130, prefix="")
    except BrokenPipeError:
        # The reader of our output (`| head`) has left; nothing can be told it any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _fail(_describe(error))
    except RuntimeError as error:  # XLA has no class of its own for this
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        told = re.search(r"allocat\w* ([\d.,]+ ?\w+)", str(error))
        size = f" for {told[1]}" if told else ""
        _fail(f"the device has no room{size}: fewer environments, samples or a smaller batch?")
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        _fail(f"{error.name} is not installed: pip install -e '.[{_EXTRAS[error.name]}]'")
    sys.exit(0)


def flag_values() -> dict[str, Any]:
    """Values of this project's flags and of any other flag that was given, as JSON types."""
    given = {name: FLAGS[name] for name in FLAGS if FLAGS[name].present}
    chosen = given | _own_flags()
    chosen.pop(_CONFIG_FILE.name, None)  # its content is in the values
    return {name: files.to_plain(flag.value) for name, flag in sorted(chosen.items())}


def write_run_record(path: files.PathLike) -> None:
    """Writes flags and provenance beside a result as `<name>.run.json`, for `--config_file`."""
    record = {"flags": flag_values(), "provenance": provenance()}
    path = Path(path)
    files.write_json(path.with_name(f"{path.name.removesuffix('.npz')}.run.json"), record)


def claim(path: files.PathLike) -> None:
    """Keeps other runs from a result until this process ends.

    In a job of several processes the first one does it for all.

    Raises:
      UserError: if another run is writing it.
    """
    import jax

    if jax.process_index() == 0:
        claims = contextlib.ExitStack()
        claims.enter_context(files.sole_user(path))
        atexit.register(claims.close)


def provenance() -> dict[str, Any]:
    """What produced a result: command, seed, versions, devices, machine and code revision."""
    import jax

    devices = jax.devices()
    return {
        "command": shlex.join([*_program_command(), *sys.argv[1:]]),
        "seed": SEED.value,
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in _PROVENANCE_PACKAGES},
        },
        "device": devices[0].device_kind,
        "num_devices": len(devices),
        "cpu": cpu_field("model name") or platform.machine(),
        "cpu_cores": os.cpu_count(),
        "git_revision": _git_revision(),
    }


def key(stream: int = 0) -> Any:
    """A JAX key of the run's seed; each stream number gives an independent one."""
    import jax

    return jax.random.fold_in(jax.random.key(SEED.value), stream)


def use_virtual_cpu_devices(count: int) -> None:
    """Splits the CPU into `count` JAX devices, 64 at most; call it from `before_devices`."""
    import jax

    # More would start for minutes: whoever wants them hears how many there are, as on a GPU.
    count = min(count, _MOST_VIRTUAL_DEVICES)
    # XLA takes the size of its thread pool from here; collectives over more
    # devices than threads deadlock.
    os.environ.setdefault("NPROC", str(max(16, 2 * count)))
    jax.config.update("jax_num_cpu_devices", count)


def _parse_flags(argv: list[str]) -> list[str]:
    if not {"--help", "-help", "-h", "--helpshort"}.isdisjoint(argv):
        description = sys.modules["__main__"].__doc__ or ""
        print(command_line.help_text(sys.argv[0], description, _flags_by_module()), end="")
        sys.exit(0)
    try:
        rest = FLAGS([argv[0], *_config_arguments(argv), *argv[1:]])
    except flags.UnrecognizedFlagError as error:
        raise UserError(f"unknown flag --{_with_nearest(error.flagname)}") from None
    except flags.Error as error:
        raise UserError(f"{error}{_expected_type(str(error))}") from None
    if len(rest) > 1:
        raise UserError(f"argument {rest[1]!r} belongs to no flag; flags are written --name=value")
    return rest


def _config_arguments(argv: list[str]) -> Iterator[str]:
    """Turns the content of --config_file into arguments that precede the command line's."""
    early = flags.FlagValues()
    path = flags.DEFINE_string(_CONFIG_FILE.name, None, "", flag_values=early)
    early(argv, known_only=True)
    if not path.value:
        return
    values = files.read_json(path.value)
    if isinstance(values, dict) and isinstance(values.get("flags"), dict):
        values = values["flags"]
    if not isinstance(values, dict):
        raise UserError(f"{path.value} must hold a JSON object of flag values")
    for name, value in values.items():
        if name not in FLAGS:
            raise UserError(f"{path.value} sets the unknown flag {_with_nearest(name)}")
        if isinstance(value, dict):
            raise UserError(f"{path.value}: {name} must be a number, a string or a list")
        if value is not None:
            parts = value if isinstance(value, list) else [value]
            yield f"--{name}={','.join(map(_flag_text, parts))}"


def _flag_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _with_nearest(name: str) -> str:
    return f"{name}; the nearest are: {nearest_names(name, _own_flags())}"


def _expected_type(message: str) -> str:
    """What kind of value the flag of an absl error message takes, if it says so at all."""
    match = re.match(r"flag --(\w+)=", message)
    kind = FLAGS[match[1]].parser.syntactic_help if match and match[1] in FLAGS else ""
    return f" (it takes {kind})" if kind else ""


def _own_flags() -> dict[str, flags.Flag]:
    """Flags that this project defines, not those of absl and other libraries."""
    return {flag.name: flag for defined in _flags_by_module().values() for flag in defined}


def _flags_by_module() -> dict[str, list[flags.Flag]]:
    """This project's flags by the module that defines them; the binary's is `sys.argv[0]`."""
    return {
        module: defined
        for module, defined in FLAGS.flags_by_module_dict().items()
        if module == sys.argv[0] or module.split(".")[0] in ("experiments", "converters")
    }


def _set_up_jax(before_devices: Callable[[], None] | None) -> None:
    import jax

    # Python warns of any fork once JAX has threads; ours (git, ffmpeg) exec at once, which is safe.
    warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
    if _COMPILATION_CACHE.value:
        enable_compilation_cache()
    _prefer_wide_vectors()
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        os.environ.setdefault("NPROC", "16")
    wanted = DEVICE.value
    if wanted and wanted not in _PLATFORMS:
        raise UserError(f"device {wanted!r} is unknown; it can be cpu, cuda or empty")
    if wanted:
        jax.config.update("jax_platforms", _PLATFORMS[wanted][0])
    if before_devices:
        before_devices()
    devices = _devices(wanted)
    if not QUIET.value:
        kind = devices[0].device_kind
        if kind == "cpu":
            kind = f"cpu ({cpu_field('model name') or platform.machine()}, {os.cpu_count()} cores)"
        values = {name: flag.value for name, flag in _own_flags().items()}
        machine = f"{len(devices)} x {kind}, JAX {jax.__version__}"
        line = command_line.start_line(_program_command()[-1], values, machine, SEED.value)
        print(line, flush=True)


def _prefer_wide_vectors() -> None:
    """Lets XLA use 512-bit vectors where the CPU has them; docs/performance.md has the gain."""
    option, given = "--xla_cpu_prefer_vector_width", os.environ.get("XLA_FLAGS", "")
    if "avx512f" in cpu_field("flags").split() and option not in given:
        os.environ["XLA_FLAGS"] = f"{given} {option}=512".strip()


def _devices(wanted: str) -> list[Any]:
    import jax

    try:
        devices = jax.devices()
    except RuntimeError as error:
        raise UserError(f"JAX finds no device: {error}") from error
    if wanted and devices[0].platform != _PLATFORMS[wanted][1]:
        there = ", ".join(sorted({device.platform for device in devices}))
        raise UserError(f"device {wanted!r} is not available here; JAX sees only {there}")
    return devices


def _fail(message: str, status: int = 1, prefix: str = "error: ") -> NoReturn:
    sys.stdout.flush()
    prefix = command_line.red(prefix, sys.stderr) if prefix else ""
    print(prefix + " ".join(message.split()), file=sys.stderr)
    sys.exit(status)


def _describe(error: OSError) -> str:
    if isinstance(error, FileNotFoundError) and error.filename:
        return files.missing_message(os.fsdecode(error.filename))
    reason = error.strerror or str(error)
    return f"{reason}: {os.fsdecode(error.filename)}" if error.filename else reason


def _program_command() -> list[str]:
    """How this program was called: `python -m package.module`, or `python script`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return ["python", "-m", spec.name] if spec else ["python", sys.argv[0]]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """Revision of the code, with "-dirty" if it was changed since; None outside a git checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    # Excluding every tag leaves the bare commit.
    describe = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        result = subprocess.run(describe, cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return result.stdout.strip() or None
