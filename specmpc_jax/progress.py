"""How far a long job is: a bar on a terminal, sparse plain lines elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import Any, Self, TextIO, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


class Progress:
    """Counts finished units and shows count, rate and time left.

    On a terminal this is one bar that is redrawn in place; into a file or a
    pipe it is one line every `interval` seconds at most; if `quiet`, nothing.
    Used as a context manager it closes itself.
    """

    def __init__(
        self,
        total: int | None,
        description: str,
        *,
        unit: str = "it",
        quiet: bool = False,
        initial: int = 0,
        interval: float = 5.0,
        stream: TextIO | None = None,
    ) -> None:
        self._stream = stream or sys.stderr
        terminal = self._stream.isatty()
        self._plain = not quiet and not terminal
        self._interval = interval
        self._description, self._total, self._unit = description, total, unit
        self._initial = self._count = initial
        self._figures: dict[str, Any] = {}
        self._start = self._last_line = time.monotonic()
        self._bar = tqdm(
            total=total,
            desc=description,
            unit=f" {unit}",
            initial=initial,
            file=self._stream,
            dynamic_ncols=True,
            disable=quiet or not terminal,
        )

    def advance(self, count: int = 1, **figures: Any) -> None:
        """Counts `count` more units as done; `figures` are shown beside the rate."""
        self._count += count
        self._figures |= {name: _short(value) for name, value in figures.items()}
        if figures:
            self._bar.set_postfix(self._figures, refresh=False)
        self._bar.update(count)
        if self._plain and time.monotonic() - self._last_line >= self._interval:
            self._print_line()

    def write(self, line: str) -> None:
        """Prints a line of its own, without breaking the bar; nothing if quiet."""
        if self._plain:
            print(line, file=self._stream, flush=True)
        elif not self._bar.disable:
            self._bar.write(line, file=self._stream)

    def close(self) -> None:
        """Draws the final state and ends the bar; harmless when repeated."""
        self._bar.close()
        if self._plain and self._count > self._initial:
            self._print_line()
        self._plain = False

    def _print_line(self) -> None:
        self._last_line = time.monotonic()
        line = tqdm.format_meter(
            self._count,
            self._total,
            self._last_line - self._start,
            ncols=0,
            prefix=self._description,
            unit=f" {self._unit}",
            initial=self._initial,
            postfix=", ".join(f"{name}={value}" for name, value in self._figures.items()),
        )
        print(line, file=self._stream, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class ByteProgress:
    """Progress in megabytes of a transfer whose length is known once it answers."""

    def __init__(self, name: str, *, quiet: bool = False) -> None:
        self._name, self._quiet = name, quiet
        self._bar: Progress | None = None
        self._shown = 0

    def show(self, done: int, total: int | None) -> None:
        """Shows `done` of `total` bytes."""
        megabytes = done // 10**6
        if self._bar is None:
            whole = None if total is None else total // 10**6
            self._bar = Progress(whole, self._name, unit="MB", quiet=self._quiet, initial=megabytes)
            self._shown = megabytes
        self._bar.advance(megabytes - self._shown)
        self._shown = megabytes

    def write(self, reason: str) -> None:
        """Prints why a transfer pauses; nothing if quiet."""
        if not self._quiet:
            print(f"{self._name}: {reason}", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()


def track(items: Iterable[Item], description: str, **options: Any) -> Iterator[Item]:
    """Yields `items` while showing progress.

    Args:
      items: what to go through; its length is the total, if it has one.
      description: what is being done.
      **options: further arguments of `Progress`; `total` for a lengthless iterable.
    """
    total = options.pop("total", len(items) if isinstance(items, Sized) else None)
    with Progress(total, description, **options) as progress:
        for item in items:
            yield item
            progress.advance()


def _short(value: Any) -> str:
    return value if isinstance(value, str) else f"{float(value):.4g}"
