"""What belongs to a release agrees with the code: versions, files that an image copies, imports."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import specmpc_jax as sm

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == sm.__version__
    assert citation["license"] == PROJECT["license"]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest[1] == sm.__version__


def test_the_library_imports_no_simulator_no_torch_and_no_plotting():
    code = (
        "import sys, specmpc_jax; "
        "print([n for n in ('torch', 'mujoco', 'dm_control', 'matplotlib', 'gymnasium') "
        "if n in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.stdout == "[]\n", result.stderr


def test_every_step_of_the_image_is_understood_and_copies_what_is_there():
    steps = tool("run_image_steps")
    found = list(steps.instructions((ROOT / "Dockerfile").read_text()))
    for instruction, rest in found:
        assert hasattr(steps.Image, f"_{instruction.lower()}"), instruction
        if instruction == "COPY":
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
    assert [name for name, _ in found].count("RUN") >= 4
    copied = {source for name, rest in found if name == "COPY" for source in rest.split()[:-1]}
    assert {"specmpc_jax", "converters", "experiments", "tests"} <= copied


def test_image_steps_run_below_a_directory(tmp_path, monkeypatch):
    steps = tool("run_image_steps")
    image = steps.Image(tmp_path, {"EXTRA": "given"}, skip_apt=True)
    text = (
        "FROM x\nARG EXTRA=default\nRUN apt-get update\nWORKDIR /app\n# comment\n"
        'ENV PATH="/app/bin:${PATH}" PLACE="/app/${EXTRA}"\nCOPY LICENSE pyproject.toml ./\n'
        'RUN mkdir bin \\\n && echo "$PLACE" > told && pwd > where\n'
    )
    for instruction, rest in steps.instructions(text):
        image.carry_out(instruction, rest)
    assert (tmp_path / "app" / "told").read_text() == f"{tmp_path}/app/given\n"
    assert (tmp_path / "app" / "where").read_text() == f"{tmp_path}/app\n"
    assert (tmp_path / "app" / "LICENSE").is_file() and image.ran == 1
    with pytest.raises(subprocess.CalledProcessError):
        image.carry_out("RUN", "false")
    with pytest.raises(ValueError, match="HEALTHCHECK"):
        image.carry_out("HEALTHCHECK", "x")


def test_files_that_the_wheel_needs_are_packed():
    data = PYPROJECT["tool"]["setuptools"]["package-data"]
    packed = {
        path.relative_to(ROOT).as_posix()
        for package, patterns in data.items()
        for pattern in patterns
        for path in (ROOT / package).glob(pattern)
    }
    assert packed >= set(tool("check_wheel").NEEDED)


@pytest.mark.parametrize(
    ("accelerator", "extras", "asked"),
    [("cpu", "", "."), ("cuda", "", ".[cuda]"), ("cpu", ",convert", ".[convert]"),
     ("cuda", ",convert,mjx", ".[cuda,convert,mjx]")],
)  # fmt: skip
def test_image_extras(accelerator, extras, asked):
    text = (ROOT / "Dockerfile").read_text()
    (command,) = re.findall(r'RUN (extras=.*?) \\\n.*--editable (".*")', text)
    environment = {"ACCELERATOR": accelerator, "EXTRAS": extras, "PATH": os.environ["PATH"]}
    shell = f"{command[0]} && echo {command[1]}"
    result = subprocess.run(["bash", "-c", shell], env=environment, capture_output=True, text=True)
    assert result.stdout.strip() == asked
    named = re.findall(r"[\w-]+", asked)
    assert set(named) <= set(PROJECT["optional-dependencies"])


def test_conda_environment_asks_for_what_the_project_has():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert (ROOT / pip[0].removeprefix("--constraint ")).is_file()
    (extras,) = re.findall(r"--editable \.\[(.*)\]", pip[1])
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
