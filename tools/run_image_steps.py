"""Runs the steps of the Dockerfile below a directory, without a container engine.

    python tools/run_image_steps.py [--directory=DIR] [--build_arg=ACCELERATOR=cuda] [--skip_apt]

COPY takes files from this checkout, RUN runs in bash, ENV and ARG are set, and
the image's WORKDIR lies below the directory instead of at the root: every step
names it by a relative path or through ENV. FROM is not carried out, so this
machine's Python and system stand for the base image; apt-get needs root.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from string import Template

ROOT = Path(__file__).parents[1]
# Commands that change the system itself, and not only the directory.
SYSTEM = re.compile(r"\bapt-get\b")


class Image:
    """What the steps so far have made: directory, variables, working directory."""

    def __init__(self, root: Path, build_args: dict[str, str], skip_apt: bool) -> None:
        self._root = root
        self._build_args = build_args
        self._skip_apt = skip_apt
        self._inside: str | None = None  # the image's WORKDIR
        self._variables: dict[str, str] = {}
        self.ran = 0

    def carry_out(self, instruction: str, rest: str) -> None:
        """Carries out one instruction.

        Raises:
          ValueError: if this script does not know it.
        """
        step = getattr(self, f"_{instruction.lower()}", None)
        if step is None:
            raise ValueError(f"{instruction} is not understood here")
        step(rest)

    def _from(self, rest: str) -> None:
        print(f"FROM {self._filled(rest)}: this machine stands for it", flush=True)

    def _arg(self, rest: str) -> None:
        name, _, default = rest.partition("=")
        self._variables[name] = self._build_args.get(name, default)

    def _workdir(self, rest: str) -> None:
        self._inside = rest
        self._directory.mkdir(parents=True, exist_ok=True)

    def _env(self, rest: str) -> None:
        for name, value in re.findall(r'(\w+)="([^"]*)"', rest):
            here = value.replace(str(self._inside), str(self._directory))
            self._variables[name] = self._filled(here)

    def _copy(self, rest: str) -> None:
        *sources, target = rest.split()
        for source in sources:
            place = self._directory / target
            if target.endswith("/"):
                place = place / Path(source).name
            place.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / source).is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
                shutil.copytree(ROOT / source, place, dirs_exist_ok=True, ignore=ignored)
            else:
                shutil.copy2(ROOT / source, place)

    def _run(self, rest: str) -> None:
        if self._skip_apt and SYSTEM.search(rest):
            print(f"skipped: {rest[:70]}", flush=True)
            return
        print(f"RUN {rest[:90]}", flush=True)
        unset = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
        environment = {k: v for k, v in os.environ.items() if k not in unset}
        subprocess.run(
            ["bash", "-euo", "pipefail", "-c", rest],
            cwd=self._directory,
            env=environment | self._variables,
            check=True,
        )
        self.ran += 1

    def _cmd(self, rest: str) -> None:
        """The program has to be there; it is not started."""
        program, *_ = json.loads(rest)
        if shutil.which(program, path=self._variables["PATH"]) is None:
            raise ValueError(f"CMD names {program}, which is not on the image's PATH")

    @property
    def _directory(self) -> Path:
        return self._root / (self._inside or "").lstrip("/")

    def _filled(self, text: str) -> str:
        return Template(text).safe_substitute(os.environ | self._variables)


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Instructions of a Dockerfile with what follows them, continued lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        if line.strip():
            instruction, _, rest = line.partition(" ")
            yield instruction, rest.strip()


def main(directory: Path, build_args: dict[str, str], skip_apt: bool) -> None:
    """Runs all steps; the first that fails ends it."""
    image = Image(directory, build_args, skip_apt)
    try:
        for instruction, rest in instructions((ROOT / "Dockerfile").read_text(encoding="utf-8")):
            image.carry_out(instruction, rest)
    except (ValueError, OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: {error}")
    print(f"all steps ran ({image.ran} commands)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Runs the Dockerfile's steps in a directory.")
    parser.add_argument("--directory", type=Path, help="where to work; kept")
    parser.add_argument("--build_arg", action="append", default=[], help="NAME=VALUE")
    parser.add_argument("--skip_apt", action="store_true", help="leave the system as it is")
    options = parser.parse_args()
    given = dict(argument.split("=", 1) for argument in options.build_arg)
    if options.directory:
        main(options.directory.absolute(), given, options.skip_apt)
    else:
        with tempfile.TemporaryDirectory(prefix="image-") as scratch:
            main(Path(scratch), given, options.skip_apt)
