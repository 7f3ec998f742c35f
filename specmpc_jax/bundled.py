"""Weights that come with the package: `bundled:NAME` instead of a directory."""

import os
from pathlib import Path

from specmpc_jax.errors import UserError

PREFIX = "bundled:"
TEACHERS = Path(__file__).parent / "teachers"
# Each is called by its teacher and its kind: `walker-walk-1m-bc`.
CORRECTORS = Path(__file__).parent / "correctors" / "bundled"


def resolve(path: str | os.PathLike[str], directory: Path) -> str | os.PathLike[str]:
    """The directory of bundled weights; any other path as it is.

    Args:
      path: what the user wrote.
      directory: where what is meant lies, `TEACHERS` or `CORRECTORS`.

    Raises:
      UserError: if nothing there is called so; says what there is.
    """
    if not isinstance(path, str) or not path.startswith(PREFIX):
        return path
    name = path.removeprefix(PREFIX)
    names = sorted(entry.name for entry in directory.iterdir() if entry.is_dir())
    if name not in names:
        what = "teacher" if directory == TEACHERS else "corrector"
        raise UserError(f"no bundled {what} is called {name!r}; there is {', '.join(names)}")
    return directory / name
