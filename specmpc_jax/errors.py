"""The one exception type that users are meant to read."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what the user asked for, said in one line.

    Binaries print the message and exit with status 1; the library raises it so
    that callers can catch it. The message says what was wrong and what would
    be right.
    """


def nearest_names(name: str, known: Iterable[str], count: int = 3) -> str:
    """Lists the known names closest to a misspelt one.

    Args:
      name: what the user wrote.
      known: every name that would have been accepted.
      count: how many names to list at most.

    Returns:
      The names joined by commas; the first few known ones if none is close.
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=count, cutoff=0.5)
    return ", ".join(close or known[:count])
