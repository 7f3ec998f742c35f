"""What a binary prints about itself: its help, its start line, and colours on a terminal."""

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from absl import flags

# What the groups of shared flags are called, by the module that defines them.
_TITLES = {
    "experiments.support.launch": "Flags of every binary",
    "experiments.support.planner_flags": "Planner",
    "experiments.support.teachers": "Task and teacher",
    "experiments.support.tracing": "Trace of an episode",
}
_LAST = "experiments.support.launch"
_BOLD, _RED = "1", "1;31"
# absl's names of types; the others are shown as they are.
_KINDS = {
    "string": "TEXT",
    "int": "NUMBER",
    "float": "NUMBER",
    "comma separated list of strings": "A,B,...",
}
_NARROWEST, _WIDEST = 60, 100
_INDENT = 4


def help_text(main_module: str, description: str, by_module: Mapping[str, Iterable[Any]]) -> str:
    """The text of `--help`: what the binary does, then its flags in groups.

    Args:
      main_module: name under which the binary's own flags are registered.
      description: the binary's docstring.
      by_module: this project's flags by the module that defines them.
    """
    order = sorted(by_module, key=lambda name: (name != main_module, name == _LAST, name))
    parts = [description.strip()]
    for module in order:
        described = [_describe(flag) for flag in sorted(by_module[module], key=lambda f: f.name)]
        if described:
            title = "Flags of this binary" if module == main_module else _title(module)
            parts.append("\n".join([bold(title + ":", sys.stdout), *described]))
    return "\n\n".join(parts) + "\n"


def start_line(program: str, values: Mapping[str, Any], machine: str, seed: int) -> str:
    """The line that a binary begins with: what it works on, and where.

    Args:
      program: its name.
      values: its flags by name.
      machine: devices and versions.
      seed: of the run.
    """
    task = values.get("task") or values.get("task_set")
    model = values.get("checkpoint") or _sizes(values.get("model_size") or values.get("sizes"))
    facts = [
        f"task {_joined(task)}" if task else "",
        f"model {model}" if model else "",
        _joined(values.get("precision") or "float32") if _computes(values) else "",
        machine,
        f"seed {seed}",
    ]
    return f"{program}: {', '.join(fact for fact in facts if fact)}"


def bold(text: str, stream: TextIO) -> str:
    """The text, in bold if the stream is a terminal that shows it."""
    return _escaped(text, _BOLD, stream)


def red(text: str, stream: TextIO) -> str:
    """The text, in red if the stream is a terminal that shows it."""
    return _escaped(text, _RED, stream)


def _escaped(text: str, code: str, stream: TextIO) -> str:
    # https://no-color.org: any value but the empty one switches colours off.
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain or not stream.isatty() else f"\033[{code}m{text}\033[0m"


def _computes(values: Mapping[str, Any]) -> bool:
    """Whether the binary runs a model, so that a precision means something."""
    return any(name in values for name in ("precision", "num_samples", "corrector_type"))


def _sizes(sizes: Any) -> str:
    parts = sizes if isinstance(sizes, Sequence) and not isinstance(sizes, str) else [sizes]
    return ", ".join(f"{size}M" if str(size).isdigit() else str(size) for size in parts if size)


def _joined(value: Any) -> str:
    return value if isinstance(value, str) else ", ".join(map(str, value))


def _title(module: str) -> str:
    last = module.rsplit(".", 1)[-1].removesuffix("_flags").replace("_", " ")
    return _TITLES.get(module, last.capitalize())


def _describe(flag: flags.Flag) -> str:
    """A flag with its type, its meaning and its default."""
    width = min(max(shutil.get_terminal_size((_WIDEST, 24)).columns, _NARROWEST), _WIDEST)
    # absl puts an enum's values before its help; they are shown beside the name.
    text = re.sub(r"^<[^>]*>: ", "", " ".join((flag.help or "").split()))
    default = _default(flag)
    if default and "default" not in text.lower() and "if empty" not in text.lower():
        text = f"{text.rstrip('.')} ({default})."
    body = textwrap.wrap(text, width - 2 * _INDENT, break_on_hyphens=False)
    return "\n".join([f"  {_form(flag)}", *(" " * 2 * _INDENT + line for line in body)])


def _form(flag: flags.Flag) -> str:
    if flag.boolean:
        return f"--[no]{flag.name}"
    kind = flag.flag_type()
    if hasattr(flag.parser, "enum_values"):
        return f"--{flag.name}={'|'.join(map(str, flag.parser.enum_values))}"
    return f"--{flag.name}={_KINDS.get(kind, kind.upper())}"


def _default(flag: flags.Flag) -> str:
    if flag.default in (None, "", []):
        return ""
    if flag.boolean:
        return "default on" if flag.default else "default off"
    value = flag.default
    return f"default {','.join(map(str, value)) if isinstance(value, list) else value}"
