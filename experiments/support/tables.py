"""Rows of results as an aligned plain-text table."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

Rows = Sequence[Mapping[str, Any]]

# Significant digits that the largest number of a column is shown with.
_DIGITS = 4
_MOST_DECIMALS = 6


def format_text(rows: Rows, columns: Sequence[str] | None = None) -> str:
    """Aligns rows under a header, numbers to the right and words to the left.

    Args:
      rows: one dict a row.
      columns: which keys to show, in order; the first row's keys by default.

    Returns:
      The table without a final newline. Missing values, None and NaN show as "-".
    """
    cells, numeric = _layout(rows, columns)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    return "\n".join(_join(line, widths, numeric, "  ").rstrip() for line in cells)


def _layout(rows: Rows, columns: Sequence[str] | None) -> tuple[list[list[str]], list[bool]]:
    """Header and cells as strings, and whether each column holds numbers."""
    columns = list(columns or (rows[0] if rows else ()))
    values = [[_to_python(row.get(name)) for row in rows] for name in columns]
    texts = [[name, *_format_column(column)] for name, column in zip(columns, values, strict=True)]
    cells = [list(line) for line in zip(*texts, strict=True)]
    return cells or [[]], [all(map(_is_number_or_none, column)) for column in values]


def _to_python(value: Any) -> Any:
    """A Python value for a NumPy or JAX scalar; None for NaN."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return None if isinstance(value, float) and math.isnan(value) else value


def _is_number_or_none(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _format_column(values: Sequence[Any]) -> list[str]:
    """Cells with one number of decimals for the whole column, so that digits line up."""
    sizes = [abs(value) for value in values if isinstance(value, float) and math.isfinite(value)]
    largest = max(sizes, default=0.0)
    leading = math.floor(math.log10(largest)) if largest > 0 else 0
    decimals = min(max(_DIGITS - 1 - leading, 0), _MOST_DECIMALS)
    return [_format_cell(value, decimals) for value in values]


def _format_cell(value: Any, decimals: int) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.{decimals}f}" if isinstance(value, float) else str(value)


def _join(line: Sequence[str], widths: Sequence[int], numeric: Sequence[bool], gap: str) -> str:
    return gap.join(
        cell.rjust(width) if right else cell.ljust(width)
        for cell, width, right in zip(line, widths, numeric, strict=True)
    )
