"""Help in groups, the start line, and colours where they are wanted."""

import io

import pytest
from absl import flags

from experiments.support import command_line


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def registry():
    """Flags of a binary, of planner_flags and of the scaffold, by module."""
    values = flags.FlagValues()
    defined = {
        "binary.py": [],
        "experiments.support.planner_flags": [],
        "experiments.support.launch": [],
    }

    def add(module, define, name, default, text, **options):
        define(name, default, text, flag_values=values, module_name=module, **options)
        defined[module].append(values[name])

    add("experiments.support.launch", flags.DEFINE_string, "device", "", "Device; any if empty.")
    add("experiments.support.launch", flags.DEFINE_boolean, "quiet", False, "Results only.")
    add(
        "experiments.support.planner_flags", flags.DEFINE_integer, "iterations", None, "Iterations."
    )
    add("binary.py", flags.DEFINE_list, "sizes", ["1", "5"], "Sizes.")
    add("binary.py", define_enum, "obs", "state", "What is seen.")
    return defined


def define_enum(name, default, text, **options):
    flags.DEFINE_enum(name, default, ["a", "state"], text, **options)


def test_help_has_the_binarys_own_flags_first_and_the_common_ones_last(registry, monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    text = command_line.help_text("binary.py", "Does a thing.\n\n    python -m x\n", registry)
    assert text.startswith("Does a thing.\n\n    python -m x\n\nFlags of this binary:\n")
    order = ["Flags of this binary:", "--obs=a|state", "--sizes=A,B,...", "Planner:"]
    order += ["--iterations=NUMBER", "Flags of every binary:", "--device=TEXT", "--[no]quiet"]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    assert "Sizes (default 1,5)." in text and "Results only (default off)." in text
    assert "any if empty.\n" in text and "\033" not in text
    assert max(map(len, text.splitlines())) <= 70


def test_start_line_says_what_is_known():
    values = {"task": "walker-walk", "checkpoint": "bundled:w", "num_samples": None}
    line = command_line.start_line("evaluate", values, "1 x cpu", 3)
    assert line == "evaluate: task walker-walk, model bundled:w, float32, 1 x cpu, seed 3"
    values = {"task": [], "sizes": ["1", "5"], "precision": ["bfloat16", "float32"]}
    line = command_line.start_line("benchmark", values, "1 x cpu", 0)
    assert line == "benchmark: model 1M, 5M, bfloat16, float32, 1 x cpu, seed 0"
    assert command_line.start_line("plot", {}, "1 x cpu", 0) == "plot: 1 x cpu, seed 0"


def test_colours_only_on_a_terminal_that_wants_them(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert command_line.red("error", Terminal()) == "\033[1;31merror\033[0m"
    assert command_line.red("error", io.StringIO()) == "error"
    monkeypatch.setenv("TERM", "dumb")
    assert command_line.bold("Flags", Terminal()) == "Flags"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert command_line.bold("Flags", Terminal()) == "Flags"
