"""Builds the wheel, installs it into an empty environment, and tries it there.

    python tools/check_wheel.py [--directory=DIR]

The environment gets every dependency but the simulators (mujoco, dm-control),
and no PyTorch: the library has to import, plan and control without them, and
the binaries have to say in one line what is missing. Takes some minutes and
about 1 GB below the directory, a temporary one if none is named.
"""

import argparse
import email
import os
import re
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEFT_OUT = ("mujoco", "dm-control")
# Files that have to be in the wheel, beside the modules.
NEEDED = (
    "specmpc_jax/py.typed",
    "specmpc_jax/teachers/walker-walk-1m/checksums.json",
    "specmpc_jax/correctors/bundled/walker-walk-1m-bc/checksums.json",
    "experiments/reference_curves/walker-walk.csv",
    "experiments/support/templates/trace.html",
)

TRY = """
import importlib.util, sys
for name in ("torch", "mujoco", "dm_control"):
    assert importlib.util.find_spec(name) is None, f"{name} is installed"
import numpy as np
import specmpc_jax as sm
assert "site-packages" in sm.__file__, sm.__file__
agent = sm.load("bundled:walker-walk-1m").with_planner(num_samples=32, num_elites=4, iterations=2)
controller = agent.controller(exec_horizon=3, corrector="bundled:walker-walk-1m-bc")
for _ in range(4):
    action, info = controller(np.zeros(24, np.float32))
assert action.shape == (6,) and np.isfinite(action).all()
print(f"specmpc_jax {sm.__version__}: loads, plans and acts without torch and MuJoCo")
"""


def main(directory: Path) -> None:
    """Runs all checks; the first that fails ends it."""
    wheel = build(directory)
    check_content(wheel)
    python = install(wheel, directory)
    elsewhere = directory / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    print(run([python, "-c", TRY], elsewhere).stdout.strip(), flush=True)
    said = run([python, "-m", "experiments.evaluate", "--help"], elsewhere).stdout
    assert "--eval_episodes" in said, said
    asked = [python, "-m", "experiments.evaluate", "--checkpoint=bundled:walker-walk-1m"]
    refused = run([*asked, "--quiet"], elsewhere, status=1).stderr
    assert refused.startswith("error: ") and refused.count("\n") == 1, refused
    print(f"evaluate without a simulator: {refused.strip()}")
    print("the wheel is fine")


def build(directory: Path) -> Path:
    """Builds the wheel of the committed and uncommitted tree."""
    print("building the wheel", flush=True)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    run([*pip, f"--wheel-dir={directory}", str(ROOT)], ROOT)
    (wheel,) = directory.glob("specmpc_jax-*.whl")
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB", flush=True)
    return wheel


def check_content(wheel: Path) -> None:
    """Holds the wheel's list of files against what has to be there and what must not."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    missing = [name for name in NEEDED if name not in names]
    assert not missing, f"the wheel lacks {missing}"
    tests = [name for name in names if name.startswith(("tests/", "docs/", "results/"))]
    assert not tests, f"the wheel holds {tests[:3]}"


def install(wheel: Path, directory: Path) -> str:
    """Installs the wheel and its dependencies, but the simulators; returns the interpreter."""
    print("installing it into an empty environment", flush=True)
    venv.create(directory / "venv", with_pip=True)
    python = str(directory / "venv" / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*pip, f"--constraint={ROOT / 'requirements.txt'}", *dependencies(wheel)], directory)
    run([*pip, "--no-deps", str(wheel)], directory)
    return python


def dependencies(wheel: Path) -> list[str]:
    """What the wheel requires without extras, but the simulators."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(name))
    required = metadata.get_all("Requires-Dist") or []
    plain = [line for line in required if "extra ==" not in line]
    kept = [line for line in plain if re.split(r"[^\w-]", line)[0] not in LEFT_OUT]
    assert len(kept) == len(plain) - len(LEFT_OUT), plain
    return kept


def run(command: list[str], cwd: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs a command without this process's Python paths; fails on another exit status."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    result = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    if result.returncode != status:
        sys.exit(f"error: {' '.join(command)}\n{result.stdout}{result.stderr}")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Builds, installs and tries the wheel.")
    parser.add_argument("--directory", type=Path, help="where to work; kept")
    chosen = parser.parse_args().directory
    if chosen:
        chosen.mkdir(parents=True, exist_ok=True)
        main(chosen.absolute())
    else:
        with tempfile.TemporaryDirectory(prefix="wheel-") as scratch:
            main(Path(scratch))
