"""Plain-text tables, compared with tables written by hand."""

import jax.numpy as jnp
import numpy as np

from experiments.support import tables

ROWS = [
    {"variant": "baseline", "return": 935.25, "calls": 1.0, "episodes": 10, "done": True},
    {"variant": "2_step", "return": np.float32(81.5), "calls": jnp.float32(0.5), "episodes": None},
]


def test_text_lines_up_numbers_and_words():
    assert tables.format_text(ROWS) == (
        "variant   return  calls  episodes  done\n"
        "--------  ------  -----  --------  ----\n"
        "baseline   935.2  1.000        10  yes\n"
        "2_step      81.5  0.500         -  -"
    )


def test_chosen_columns_and_what_is_not_a_number():
    rows = [{"name": "a", "x": 1}, {"name": "cd", "x": float("nan")}]
    assert tables.format_text(rows, ["x", "name"]) == "x  name\n-  ----\n1  a\n-  cd"


def test_decimals_follow_the_columns_largest_number():
    rows = [{"a": 12345.678, "b": 0.012345, "c": 0.0}, {"a": 1.5, "b": -0.001, "c": float("inf")}]
    assert tables.format_text(rows).splitlines()[2:] == [
        "12346   0.01235  0.000",
        "    2  -0.00100    inf",
    ]


def test_no_rows():
    assert tables.format_text([], ["a", "b"]) == "a  b\n-  -"
    assert tables.format_text([]) == "\n"
