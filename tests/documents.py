"""What the documents hold: links, commands, Python blocks and names of files."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^|\n\n)((?: {4}.*\n)+)")
_INLINE = re.compile(r"`(python -m [^`]+\w)`")
_LINK = re.compile(r"(?:\]\(|<img src=\")([^)\s\"]+)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_FILE_NAME = re.compile(
    r"`((?:specmpc_jax|experiments|converters|tests|docs|results)/[\w./*-]*\w[/\w]*)`"
)


class Command(NamedTuple):
    """One command line of a document."""

    document: str
    arguments: tuple[str, ...]  # beginning with "python"

    @property
    def module(self) -> str | None:
        """The module that `python -m` runs; None for other commands."""
        return self.arguments[2] if self.arguments[:2] == ("python", "-m") else None


def commands(path: Path, *, inline: bool = False) -> Iterator[Command]:
    """Command lines of a document's code blocks that run Python, in order.

    Args:
      path: the document.
      inline: also those in running text and tables, last.
    """
    text = path.read_text(encoding="utf-8")
    found = list(_commands_in_blocks(text))
    if inline:
        found += [shlex.split(match) for match in _INLINE.findall(_without_blocks(text))]
    for arguments in found:
        yield Command(path.name, tuple(arguments))


def python_blocks(path: Path) -> list[str]:
    """The Python code of a document's fenced blocks."""
    return [code for kind, code in _FENCE.findall(path.read_text()) if kind == "python"]


def links(path: Path) -> list[str]:
    """Targets of links and pictures."""
    return _LINK.findall(_FENCE.sub("", path.read_text(encoding="utf-8")))


def anchors(path: Path) -> set[str]:
    """What a link may name behind `#`, by GitHub's rule."""
    text = _FENCE.sub("", path.read_text(encoding="utf-8"))
    kept = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in _HEADING.findall(text)]
    return {heading.strip().replace(" ", "-") for heading in kept}


def file_names(path: Path) -> list[str]:
    """Files of this repository that the text names in backticks."""
    return _FILE_NAME.findall(_FENCE.sub("", path.read_text(encoding="utf-8")))


def _commands_in_blocks(text: str) -> Iterator[list[str]]:
    fenced = [code for kind, code in _FENCE.findall(text) if kind in ("", "bash", "sh")]
    indented = _INDENTED.findall(_FENCE.sub("\n", text))
    order = sorted((*fenced, *indented), key=text.find)
    for block in order:
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            if line.strip().startswith("python "):
                yield shlex.split(line, comments=True)


def _without_blocks(text: str) -> str:
    return _INDENTED.sub("\n", _FENCE.sub("\n", text))
