"""Documents: links lead somewhere, named files exist, commands have the flags they use."""

import json
import os
import re
import subprocess
import sys

import pytest

import documents
from documents import DOCUMENTS, ROOT

INDEX = ROOT / "docs" / "README.md"
by_name = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)


@by_name
def test_links_lead_somewhere(path):
    for link in documents.links(path):
        if re.match(r"https?://", link):
            continue
        target, _, anchor = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), f"{link} is not there"
        if anchor:
            assert anchor in documents.anchors(file), f"{link}: no such heading"


@by_name
def test_named_files_exist(path):
    for name in documents.file_names(path):
        if "*" not in name:
            assert (ROOT / name).exists(), f"{name} is not there"
        else:
            assert list(ROOT.glob(name)), f"nothing is called {name}"


@by_name
def test_python_blocks_compile(path):
    for code in documents.python_blocks(path):
        compile(code, path.name, "exec")


def test_index_names_every_document():
    linked = {(INDEX.parent / link.partition("#")[0]).resolve() for link in documents.links(INDEX)}
    assert {path for path in DOCUMENTS if path.parent == INDEX.parent} - {INDEX} <= linked


def test_every_binary_has_an_example():
    binaries = {
        f"{path.parent.name}.{path.stem}"
        for folder in ("experiments", "converters")
        for path in (ROOT / folder).glob("*.py")
        if '\nif __name__ == "__main__":' in path.read_text()
    }
    page = ROOT / "docs" / "binaries.md"
    shown = {command.module for command in documents.commands(page)}
    assert binaries - shown == set()
    # No heading for something that is not there any more.
    assert shown - binaries - {None} == set()


def check_flags(commands):
    """What `documented_flags` says of commands, as a list of lines."""
    result = subprocess.run(
        [sys.executable, ROOT / "tests" / "documented_flags.py"],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_commands_have_the_flags_they_use():
    commands = [
        (command.module, *command.arguments[3:])
        for path in DOCUMENTS
        for command in documents.commands(path, inline=True)
        if command.module and command.module.split(".")[0] in ("experiments", "converters")
    ]
    assert len(commands) > 50
    wrong = [
        ["experiments.evaluate", "--tsk=walker-walk"],
        ["experiments.train", "--obs=audio"],
        ["experiments.nothing"],
        ["experiments.train", "walker-walk"],
    ]
    said = check_flags([*commands, *wrong])
    assert len(said) == len(wrong), "\n".join(said)


@pytest.mark.parametrize("script", ["generate_api.py", "generate_results.py"])
def test_generated_pages_are_up_to_date(script):
    result = subprocess.run(
        [sys.executable, ROOT / "docs" / script, "--check"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stdout + result.stderr
