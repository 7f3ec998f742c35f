"""The processor, and where programs compiled for it are kept between runs."""

import hashlib
import os
import platform
import re
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

# Programs that compile faster than this, in seconds, are not worth a file.
_MIN_COMPILE_SECONDS = 0.1


def enable_compilation_cache(path: str | os.PathLike[str] | None = None) -> Path | None:
    """Keeps compiled programs on disk, so that a second start does not compile them again.

    It changes JAX's settings for the whole process, so programs call it and
    libraries do not; what was compiled before is not kept. JAX runs what it
    finds there: name no directory that others may write to.

    Args:
      path: directory of the programs, made if it is not there. None leaves a
        place that JAX was already told by its own settings, and is otherwise a
        directory of this processor's under the user's cache directory.

    Returns:
      The directory in use; None if the user's cache directory cannot be written.

    Raises:
      OSError: if `path` cannot be made.
    """
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_COMPILE_SECONDS)
    # JAX adds its options as attributes while it runs.
    told = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if path is None and told is not None:
        return Path(told)
    directory = _default_directory() if path is None else Path(path).absolute()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        if path is not None:
            raise
        return None
    jax.config.update("jax_compilation_cache_dir", str(directory))
    compilation_cache.reset_cache()  # JAX would stay with the first directory it used
    return directory


def cpu_field(name: str) -> str:
    """A field of the first processor in Linux's /proc/cpuinfo; empty elsewhere."""
    information = Path("/proc/cpuinfo")
    text = information.read_text() if information.exists() else ""
    match = re.search(rf"^{name}\s*:\s*(.*)$", text, re.MULTILINE)
    return match[1].strip() if match else ""


def cache_directory() -> Path:
    """Where this project keeps what can be made or fetched again."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "specmpc_jax"


def _default_directory() -> Path:
    # Code compiled for one CPU may be illegal on another that shares the home directory.
    instructions = f"{platform.machine()} {cpu_field('flags')}"
    machine = hashlib.sha256(instructions.encode()).hexdigest()[:8]
    return cache_directory() / f"xla-{machine}"
