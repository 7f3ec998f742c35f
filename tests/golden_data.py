"""Finds and reads golden data: what the official TD-MPC2 code computes (see golden/README.md)."""

import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

GOLDEN = Path(__file__).parent / "golden"
SHARED = Path(__file__).parents[2] / "shared"


class Golden(NamedTuple):
    """One golden case."""

    path: Path
    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]


def golden_dir(case: str) -> Path:
    """Directory of a case: shipped with the tests, else in ../shared, else the test is skipped."""
    places = (GOLDEN / case, SHARED / "golden" / case)
    for place in places:
        if place.is_dir():
            return place
    pytest.skip(f"golden case {case} is neither in tests/golden nor in ../shared/golden")


def load(case: str) -> Golden:
    """Reads the arrays and meta.json of a case; the arrays are read once and not writable."""
    return _load(golden_dir(case))


@functools.cache
def _load(path: Path) -> Golden:
    arrays = {}
    for file in sorted(path.glob("*.npz")):
        with np.load(file, allow_pickle=False) as stored:
            arrays |= {name: stored[name] for name in stored.files}
    for array in arrays.values():
        array.setflags(write=False)
    return Golden(path, json.loads((path / "meta.json").read_text()), arrays)
