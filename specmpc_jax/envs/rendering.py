"""Which OpenGL backend MuJoCo gets, and what to tell users when there is none.

dm_control binds its backend while it is imported, from the environment variable
MUJOCO_GL. All of the library imports it through `import_suite`, so that the
choice is made once, late, and never when `specmpc_jax` itself is imported.
"""

import contextlib
import ctypes.util
import importlib
import os
import sys
from collections.abc import Iterator
from types import ModuleType

from specmpc_jax.errors import UserError

_ADVICE = (
    "install EGL (libegl1) or OSMesa (libosmesa6) and set MUJOCO_GL=egl or MUJOCO_GL=osmesa "
    "before Python starts"
)
# What PyOpenGL and dm_control raise while importing a backend that does not work here.
_BACKEND_ERRORS = (ImportError, AttributeError, RuntimeError)


def import_suite() -> ModuleType:
    """Imports `dm_control.suite` with a backend that suits the machine.

    A MUJOCO_GL set by the user stays as it is. Unset on a machine without a
    display it becomes EGL, or OSMesa where only that is there; if neither
    works rendering is disabled, and states are still simulated.

    Raises:
      UserError: if dm_control is not installed, or the user's backend fails.
    """
    if "dm_control._render" not in sys.modules and "MUJOCO_GL" not in os.environ and _headless():
        os.environ["MUJOCO_GL"] = _backend_by_library()
        with contextlib.suppress(*_BACKEND_ERRORS):
            return importlib.import_module("dm_control.suite")
        # A failed attempt leaves PyOpenGL bound to its platform: no second one can work.
        os.environ["MUJOCO_GL"] = "disabled"
    try:
        return importlib.import_module("dm_control.suite")
    except ModuleNotFoundError as error:
        raise UserError(
            f"DMControl tasks need the package {error.name}: pip install dm-control 'mujoco<4'"
        ) from error
    except _BACKEND_ERRORS as error:
        raise UserError(
            f"dm_control cannot be imported with MUJOCO_GL={os.environ.get('MUJOCO_GL', '')}: "
            f"{_first_line(error)}; unset MUJOCO_GL, or {_ADVICE}"
        ) from error


def choose_backend() -> None:
    """Makes the choice of `import_suite` for simulators other than dm_control.

    Where dm_control is not installed or cannot be imported, states are simulated all
    the same. Without a display, SDL (Box2D's pictures) is told not to look for one.
    """
    if _headless():
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    with contextlib.suppress(UserError):
        import_suite()


@contextlib.contextmanager
def rendering_errors() -> Iterator[None]:
    """Turns the failures of a rendering context into one line of advice.

    Raises:
      UserError: at once where no backend can work, else if the body fails in OpenGL.
    """
    import mujoco

    suite = sys.modules.get("dm_control._render")
    backend = suite.BACKEND if suite else os.environ.get("MUJOCO_GL", "glfw")
    if backend == "glfw" and _headless():
        raise UserError(f"cannot render: GLFW needs a display and there is none; {_ADVICE}")
    try:
        yield
    except (*_BACKEND_ERRORS, mujoco.FatalError) as error:
        raise UserError(f"cannot render: {_first_line(error)}; {_ADVICE}") from error


def _headless() -> bool:
    displays = ("DISPLAY", "WAYLAND_DISPLAY")
    return sys.platform == "linux" and not any(os.environ.get(name) for name in displays)


def _backend_by_library() -> str:
    for backend, library in (("egl", "EGL"), ("osmesa", "OSMesa")):
        if ctypes.util.find_library(library):
            return backend
    return "disabled"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
