"""Where a run's numbers go: CSV always, TensorBoard and wandb if asked for."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from specmpc_jax import files
from specmpc_jax.errors import UserError

STEP = "step"


class MetricsWriter(Protocol):
    """Takes rows of numbers; each row has a step that never falls."""

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Records `values` at a step, durable when the call returns."""
        ...

    def close(self) -> None:
        """Ends the record; harmless when repeated."""
        ...


class CsvWriter:
    """A CSV file that grows line by line, with `step` as its first column.

    A row with a new column rewrites the file once, so columns need not be
    known in advance.
    """

    def __init__(self, path: files.PathLike, resume_step: int | None = None) -> None:
        """Opens the file.

        Args:
          path: the file.
          resume_step: keep the rows up to this step and drop later ones; None
            drops all.
        """
        self._path = Path(path)
        rows = [] if resume_step is None else _rows_up_to(self._path, resume_step)
        self._columns = list(rows[0]) if rows else [STEP]
        self._rewrite(rows)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends one row; columns that it lacks stay empty."""
        row = {STEP: step, **values}
        new = [name for name in row if name not in self._columns]
        if new:
            self._columns += new
            self._rewrite([*_read_rows(self._path), row])
            return
        with self._path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, lineterminator="\n")
            writer.writerow(files.to_plain(row))

    def close(self) -> None:
        """Does nothing: every row is on disk already."""

    def _rewrite(self, rows: Iterable[Mapping[str, Any]]) -> None:
        files.write_csv(self._path, rows, self._columns)


class TensorBoardWriter:
    """TensorBoard event files in a directory; tags are prefixed."""

    def __init__(
        self, directory: files.PathLike, prefix: str, resume_step: int | None = None
    ) -> None:
        """Opens a new event file; TensorBoard hides older events after `resume_step`.

        Raises:
          UserError: if tensorboardX is not installed.
        """
        try:
            from tensorboardX import SummaryWriter
        except ModuleNotFoundError as error:
            raise UserError("TensorBoard logs need: pip install tensorboardX") from error
        purge = None if resume_step is None else resume_step + 1
        self._writer = SummaryWriter(str(directory), purge_step=purge)
        self._prefix = prefix

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Adds one scalar a value."""
        for name, value in values.items():
            self._writer.add_scalar(f"{self._prefix}/{name}", value, step)
        self._writer.flush()

    def close(self) -> None:
        """Closes the event file."""
        self._writer.close()


class WandbWriter:
    """A Weights & Biases run that the caller has started."""

    def __init__(self, run: Any, prefix: str) -> None:
        self._run = run
        self._prefix = prefix

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Logs the values; the step is a value too, since the run has one counter for all."""
        named = {f"{self._prefix}/{name}": value for name, value in values.items()}
        self._run.log({STEP: step, **named})

    def close(self) -> None:
        """Leaves the run open: its owner ends it."""


def start_wandb(project: str, directory: files.PathLike) -> Any:
    """Starts a Weights & Biases run that is named after, and kept under, a directory.

    A directory always gives the same run, so that a resumed run goes on with it.

    Raises:
      UserError: if wandb is not installed.
    """
    try:
        import wandb
    except ModuleNotFoundError as error:
        raise UserError("logging to wandb needs: pip install wandb") from error
    name = "-".join(Path(directory).parts[-3:])
    return wandb.init(project=project, dir=str(directory), id=name, name=name, resume="allow")


class Writers:
    """Several writers as one."""

    def __init__(self, writers: Iterable[MetricsWriter]) -> None:
        self._writers = tuple(writers)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Passes the row on to every writer."""
        for writer in self._writers:
            writer.write(step, values)

    def close(self) -> None:
        """Closes every writer."""
        for writer in self._writers:
            writer.close()


def _read_rows(path: Path) -> list[dict[str, str]]:
    """Complete rows of a CSV file; a last line that was cut off in writing is left out."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    lines = text[: text.rfind("\n") + 1].splitlines()
    return list(csv.DictReader(lines))


def _rows_up_to(path: Path, step: int) -> list[dict[str, str]]:
    return [row for row in _read_rows(path) if int(row[STEP]) <= step]
