"""Ctrl-C at moments at which Python alone would show a traceback, or forget it."""

import _thread
import os
import signal
import sys
import threading
from types import FrameType

_AGAIN_S = 0.05


def leave_at_once() -> None:
    """Ends the process by a word at Ctrl-C, while `python -m` still imports a binary.

    Imports take seconds, and some that are interrupted fail in ways of their own or go on;
    nothing has been written yet that would have to be put in order. Called first thing by
    the packages of the binaries; changes nothing where they are only imported.
    """
    starting = sys.argv[:1] == ["-m"]  # so it reads until the module to run has been found
    if starting and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def raise_from_here() -> None:
    """Makes Ctrl-C a KeyboardInterrupt again, one that is not lost.

    Python drops exceptions of finalizers and of what is called at garbage collections, as
    JAX has something be called; an interrupt that falls there comes again a moment later.
    """
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.unraisablehook = _dropped


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(sys.stderr.fileno(), b"interrupted\n")
    os._exit(130)


def _dropped(dropped: "sys.UnraisableHookArgs") -> None:
    if issubclass(dropped.exc_type, KeyboardInterrupt):
        timer = threading.Timer(_AGAIN_S, _thread.interrupt_main)
        timer.daemon = True
        timer.start()
    else:
        sys.__unraisablehook__(dropped)
