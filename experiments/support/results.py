"""Reads what `eval_corrector` writes: one row a variant, and one row an episode beside it."""

import csv
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from specmpc_jax import files
from specmpc_jax.errors import UserError

EPISODES_FILE = "episodes.csv"
OFFSETS_FILE = "offsets.csv"
BASELINE = "baseline"
OPEN_LOOP = "open_loop"
POLICY = "policy"
# How a table may say that blocks are executed as planned.
_NO_CORRECTOR = ("", "none", "naive", OPEN_LOOP)
_PERCENT = re.compile(r"_(accept|replan|adaptive)(\d+)")
_OFFSET_COLUMNS = ("task", "model_id", "variant", "offset", "steps")
_EPISODE_COLUMNS = ("task", "model_id", "variant", "env_seed", "return")


# Columns that older tables lack, and are read without.
_OPTIONAL = ("mean_ms", "mean_jerk")


class AtOffset(NamedTuple):
    """What happened at one offset of a variant's blocks; NaN where nothing was corrected."""

    offset: int
    mean_mismatch: float
    p90_mismatch: float
    mean_correction: float


@dataclasses.dataclass(frozen=True)
class Result:
    """One variant of one model on one task; numbers that were not measured are NaN.

    Fields bear the names of the CSV's columns. `exec_horizon` and
    `planner_calls_per_step` count agent steps, `*_ms` are milliseconds.
    `returns` maps the seed of an environment to the return of its episode, and
    `offsets` tells what happened at each; they are empty where it was not recorded.
    """

    task: str
    model_id: str
    model_size: int | None
    seed: str
    variant: str
    exec_horizon: int
    corrector: str
    mean_return: float
    ci_low: float
    ci_high: float
    paired_difference: float
    paired_ci_low: float
    paired_ci_high: float
    planner_calls_per_step: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    mean_ms: float = math.nan
    mean_jerk: float = math.nan
    offsets: tuple["AtOffset", ...] = dataclasses.field(default=(), compare=False)
    returns: Mapping[str, float] = dataclasses.field(default_factory=dict, compare=False)

    @property
    def kind(self) -> str:
        """What acts between two plans: a corrector's name, `open_loop`, or `baseline`."""
        if self.variant == BASELINE:
            return BASELINE
        return OPEN_LOOP if self.corrector in _NO_CORRECTOR else self.corrector

    @property
    def in_blocks(self) -> bool:
        """Whether plans are run for more than one step."""
        return self.kind not in (BASELINE, POLICY)

    @property
    def options(self) -> str:
        """What the variant's suffixes ask for, in words; empty if it has none."""
        words = [f"{match[1]} {match[2]}%" for match in _PERCENT.finditer(self.variant)]
        if match := re.search(r"_valued(\d*)$", self.variant):
            words.append(f"by value {match[1]}%" if match[1] else "by value")
        return ", ".join(words)

    @property
    def drops_plans(self) -> bool:
        """Whether anything but the end of its block drops a plan."""
        return bool(re.search(r"_replan|_adaptive|_valued", self.variant))


@dataclasses.dataclass(frozen=True)
class Model:
    """A teacher with all its results on one task."""

    label: str
    size: int | None
    results: tuple[Result, ...]

    @property
    def baseline(self) -> Result | None:
        """The result of planning at every step, if it was measured."""
        return next((r for r in self.results if r.kind == BASELINE), None)

    @property
    def blocks(self) -> list[Result]:
        """The results of running plans for more than one step."""
        return [result for result in self.results if result.in_blocks]


def read_results(path: files.PathLike) -> list[Result]:
    """Reads a results table, with the episodes of `episodes.csv` where that lies beside it.

    Raises:
      UserError: if the file is missing, empty, lacks columns, or holds what is no number.
    """
    path = Path(path)
    own = {"returns", "offsets", *_OPTIONAL}
    columns = [field.name for field in dataclasses.fields(Result) if field.name not in own]
    returns = _read_returns(path.with_name(EPISODES_FILE))
    offsets = _read_offsets(path.with_name(OFFSETS_FILE))
    results: dict[tuple[str, ...], Result] = {}
    for place, row in _read_rows(path, columns):
        values = {name: _parse(row, name, place) for name in columns}
        key = (row["task"], row["model_id"], row["variant"])
        values |= {
            name: _parse(row, name, place) if row.get(name) else math.nan for name in _OPTIONAL
        }
        result = Result(**values, returns=returns.get(key, {}), offsets=offsets.get(key, ()))
        if results.setdefault((*key, row["model_size"], row["seed"]), result) is not result:
            raise UserError(f"{place}: {result.variant} on {result.task} is there twice")
    return list(results.values())


def models_by_task(results: Sequence[Result]) -> dict[str, list[Model]]:
    """Groups results by task, then by teacher: smallest first, under the shortest clear label."""
    return {
        task: _models([result for result in results if result.task == task])
        for task in sorted({result.task for result in results})
    }


def paired_differences(result: Result, reference: Result | None) -> list[float]:
    """Difference in return on each environment seed that both were run on."""
    theirs = reference.returns if reference else {}
    return [own - theirs[seed] for seed, own in result.returns.items() if seed in theirs]


def compared_to_open_loop(model: Model) -> dict[Result, Result]:
    """Maps each corrected variant to the open loop of its own horizon, where that was measured."""
    plain = [r for r in model.blocks if r.kind == OPEN_LOOP and not r.options]
    open_loop = {result.exec_horizon: result for result in plain}
    return {
        result: open_loop[result.exec_horizon]
        for result in model.blocks
        if result not in plain and result.exec_horizon in open_loop
    }


def pareto_front(results: Sequence[Result], cost: str) -> list[Result]:
    """Variants that no other beats in return at the same or a lower `cost`, cheapest first."""
    front: list[Result] = []
    for result in sorted(results, key=lambda r: (getattr(r, cost), -r.mean_return)):
        if not front or result.mean_return > front[-1].mean_return:
            front.append(result)
    return front


def _models(results: Sequence[Result]) -> list[Model]:
    def identity(result: Result) -> tuple[float, str, str]:
        return (result.model_size or math.inf, result.model_id, result.seed)

    identities = sorted({identity(result) for result in results})
    models = []
    for key in identities:
        size, model_id, seed = key
        parts = [f"{size:g}M" if size < math.inf else model_id]
        if size < math.inf and len({other[1] for other in identities if other[0] == size}) > 1:
            parts.append(model_id)
        if sum(other[:2] == key[:2] for other in identities) > 1:
            parts.append(f"seed {seed}")
        members = tuple(result for result in results if identity(result) == key)
        models.append(Model(", ".join(parts), members[0].model_size, members))
    return models


def _read_returns(path: Path) -> dict[tuple[str, ...], dict[str, float]]:
    """Return of each environment seed, by task, model and variant."""
    if not path.exists():
        return {}
    returns: dict[tuple[str, ...], dict[str, float]] = {}
    ambiguous = set()
    for place, row in _read_rows(path, _EPISODE_COLUMNS):
        key = (row["task"], row["model_id"], row["variant"])
        episodes = returns.setdefault(key, {})
        if row["env_seed"] in episodes:
            ambiguous.add(key)  # runs with several seeds: which one cannot be told
        episodes[row["env_seed"]] = _number(row["return"], "return", place)
    return {key: episodes for key, episodes in returns.items() if key not in ambiguous}


def _read_offsets(path: Path) -> dict[tuple[str, ...], tuple[AtOffset, ...]]:
    """What happened at each offset, by task, model and variant."""
    if not path.exists():
        return {}
    names = AtOffset._fields[1:]
    offsets: dict[tuple[str, ...], list[AtOffset]] = {}
    for place, row in _read_rows(path, (*_OFFSET_COLUMNS, *names)):
        numbers = [_number(row[name], name, place) if row[name] else math.nan for name in names]
        entry = AtOffset(_whole_number(row["offset"], "offset", place), *numbers)
        offsets.setdefault((row["task"], row["model_id"], row["variant"]), []).append(entry)
    return {key: tuple(sorted(entries)) for key, entries in offsets.items()}


def _read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields each row of a CSV file with words that say where it stands."""
    try:
        with files.existing_path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header, rows = reader.fieldnames, list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no CSV file: {error}") from error
    missing = [name for name in columns if name not in (header or ())]
    if header and missing:
        raise UserError(f"{path} lacks the columns {', '.join(missing)}")
    if not rows:
        raise UserError(f"{path} holds no results; experiments.eval_corrector writes such files")
    for number, row in enumerate(rows, 1):
        place = f"{path}, row {number}"
        if None in row or None in row.values():
            raise UserError(f"{place} has not as many fields as the header")
        yield place, row


def _parse(row: Mapping[str, str], name: str, place: str) -> str | int | float | None:
    text = row[name]
    if name in ("task", "model_id", "seed", "variant", "corrector"):
        return text
    if name == "model_size":
        return _whole_number(text, name, place) if text else None
    if name == "exec_horizon":
        return _whole_number(text, name, place)
    if text == "" and name != "mean_return":
        return math.nan
    return _number(text, name, place)


def _number(text: str, name: str, place: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.inf
    if not math.isfinite(value):
        raise UserError(f"{place}: {name} is {text!r}, not a number")
    return value


def _whole_number(text: str, name: str, place: str) -> int:
    if not text.isdecimal():
        raise UserError(f"{place}: {name} is {text!r}, not a whole number")
    return int(text)
