"""The scaffold of the binaries, seen from outside through a tiny one."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

BINARY = '''
"""Does one of several things."""

import gc
import json
import os
import sys
import time

from absl import flags

from experiments.support import launch
from specmpc_jax.errors import UserError

STEPS = flags.DEFINE_integer("steps", 10, "Environment steps.")
SCALE = flags.DEFINE_float("scale", 1.0, "Scale.")
VIDEO = flags.DEFINE_boolean("save_video", False, "Write a video.")
SIZES = flags.DEFINE_list("sizes", ["1", "5"], "Model sizes.")
DO = flags.DEFINE_string("do", "", "What to do.")
TASK = flags.DEFINE_string("task", None, "Task.", required=True)


def main():
    match DO.value:
        case "user_error":
            raise UserError("task 'wlk' is unknown;\\nnearest: walker-walk")
        case "bug":
            raise ZeroDivisionError("a bug")
        case "read":
            open(TASK.value)
        case "write":
            open(TASK.value + "/", "w")
        case "disk_full":
            with open("/dev/full", "w") as file:
                file.write("x")
        case "device_full":
            import jax

            jax.block_until_ready(jax.jit(lambda: jax.numpy.ones((1 << 46,)))())
        case "import":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        case "sleep":
            print("ready", flush=True)
            for _ in range(600):  # a signal just before a single long sleep would wait for its end
                time.sleep(0.1)
        case "collect":  # where Python drops exceptions
            gc.callbacks.append(lambda *_: (print("ready", flush=True), time.sleep(0.5)))
            gc.collect()
            gc.callbacks.pop()
            for _ in range(600):
                time.sleep(0.1)
        case "pipe":
            for i in range(100_000):
                print(i)
        case "record":
            launch.write_run_record(TASK.value + ".npz")
        case "report":
            print(json.dumps([launch.flag_values(), launch.provenance()]))
        case "jax":
            import jax

            print(jax.config.jax_compilation_cache_dir, jax.device_count())
            print(os.environ.get("XLA_FLAGS", ""))


def before_devices():
    if DO.value == "jax":
        launch.use_virtual_cpu_devices(3)


if __name__ == "__main__":
    launch.run(main, before_devices)
'''


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    path = tmp_path_factory.mktemp("binary") / "tiny.py"
    path.write_text(BINARY)
    return path


@pytest.fixture
def environment(tmp_path):
    return os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path / "cache")}


@pytest.fixture
def run(binary, environment, tmp_path):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, binary, *arguments],
            capture_output=True,
            text=True,
            env=environment,
            cwd=tmp_path,
            timeout=120,
        )

    return run


def assert_one_line_error(result, *parts):
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    for part in parts:
        assert part in result.stderr


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--stps=3"], ["unknown flag --stps", "steps"]),
        (["--steps=many"], ["--steps=many", "an integer"]),
        (["--seed=-1"], ["--seed=-1", "non-negative"]),
        (["quick"], ["'quick'", "--name=value"]),
        ([], ["--task"]),
        (["--config_file=none.json"], ["none.json", "notes.txt"]),
        (["--config_file=notes.txt"], ["notes.txt", "not valid JSON"]),
        (["--config_file=list.json"], ["list.json", "object"]),
        (["--config_file=typo.json"], ["typo.json", "unknown flag sizs", "sizes"]),
        (["--config_file=nested.json"], ["nested.json", "steps"]),
        (["--config_file=value.json"], ["--steps=many", "an integer"]),
    ],
)
def test_bad_flags_give_one_line_and_nothing_begins(run, tmp_path, arguments, parts):
    (tmp_path / "notes.txt").write_text("steps: 3")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "typo.json").write_text('{"sizs": 1}')
    (tmp_path / "nested.json").write_text('{"steps": {"first": 1}}')
    (tmp_path / "value.json").write_text('{"steps": "many"}')
    result = run(*arguments, *(["--task=walker-walk"] if arguments else []))
    assert_one_line_error(result, *parts)
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("do", "parts"),
    [
        ("user_error", ["task 'wlk' is unknown; nearest: walker-walk"]),
        ("read", ["there is no missing.pt", "other.pt"]),
        ("write", ["missing.pt/"]),
        pytest.param(
            "disk_full",
            ["No space left on device"],
            marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full"),
        ),
        ("device_full", ["no room for 281474976710656 bytes", "fewer environments"]),
        ("import", ["torch is not installed", ".[convert]"]),
    ],
)
def test_mistakes_in_main_give_one_line(run, tmp_path, do, parts):
    (tmp_path / "other.pt").touch()
    assert_one_line_error(run("--task=missing.pt", f"--do={do}", "--device=cpu"), *parts)


def test_bugs_keep_their_traceback(run):
    result = run("--task=t", "--do=bug")
    assert result.returncode == 1
    assert "Traceback" in result.stderr and "ZeroDivisionError" in result.stderr


@pytest.mark.parametrize(("device", "right"), [("tpu", "cpu, cuda"), ("cuda", "sees only cpu")])
def test_absent_device(run, device, right):
    import jax

    if device == jax.default_backend():
        pytest.skip("this machine has the device")
    assert_one_line_error(run("--task=t", f"--device={device}"), f"device '{device}'", right)


def test_help_names_own_and_common_flags(run):
    result = run("--help")
    assert result.returncode == 0
    assert result.stdout.startswith("Does one of several things.")
    own, common = result.stdout.split("Flags of every binary:")
    for flag in ("--steps=", "--[no]save_video"):
        assert flag in own and flag not in common
    for flag in ("--device=", "--[no]compilation_cache", "--seed="):
        assert flag in common and flag not in own
    assert "--pdb" not in result.stdout


def test_config_file_gives_way_to_the_command_line_and_can_be_an_earlier_run(run, tmp_path):
    config = {"task": "cup-catch", "steps": 5, "scale": 2, "save_video": True, "sizes": [19, 48]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    result = run("--config_file=config.json", "--steps=7", "--do=report", "--quiet")
    assert result.returncode == 0, result.stderr
    values, provenance = json.loads(result.stdout)
    assert values["steps"] == 7
    assert values["scale"] == 2.0
    assert values["save_video"] is True
    assert values["sizes"] == ["19", "48"]
    assert values["task"] == "cup-catch"
    assert "config_file" not in values and "pdb" not in values
    assert provenance["versions"]["jax"] and provenance["cpu_cores"] >= 1
    assert "--steps=7" in provenance["command"]

    (tmp_path / "run.json").write_text(json.dumps({"flags": values, "provenance": provenance}))
    assert run("--config_file=run.json", "--task=t", "--do=record", "--quiet").returncode == 0
    recorded = json.loads((tmp_path / "t.run.json").read_text())
    assert recorded["flags"] == values | {"task": "t", "do": "record"}
    assert "--do=record" in recorded["provenance"]["command"]

    again = run("--config_file=run.json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)[0] == values


def test_start_line_and_quiet(run):
    result = run("--task=t", "--device=cpu", "--seed=4")
    assert result.returncode == 0
    assert result.stdout.count("\n") == 1
    assert "tiny.py: task t, model 1M, 5M, 1 x cpu" in result.stdout and "seed 4" in result.stdout
    assert run("--task=t", "--quiet").stdout == ""


def test_compilation_cache_and_virtual_devices(run, tmp_path):
    first = run("--task=t", "--do=jax", "--quiet").stdout.splitlines()[0]
    assert first.split()[-1] == "3"
    kept = run("--task=t", "--do=jax", "--quiet").stdout
    assert kept.startswith(str(tmp_path / "cache" / "specmpc_jax"))
    off = run("--task=t", "--do=jax", "--quiet", "--nocompilation_cache").stdout
    assert off.startswith("None")


def test_wide_vectors_leave_the_users_xla_flags_alone(run, environment):
    def xla_flags(**changes):
        environment.update(changes)
        return run("--task=t", "--do=jax", "--quiet").stdout.splitlines()[1].split()

    wide = Path("/proc/cpuinfo").exists() and "avx512f" in Path("/proc/cpuinfo").read_text()
    added = ["--xla_cpu_prefer_vector_width=512"] * wide
    other = "--xla_cpu_enable_fast_min_max=false"
    assert xla_flags(XLA_FLAGS="") == added
    assert xla_flags(XLA_FLAGS=other) == [other, *added]
    chosen = "--xla_cpu_prefer_vector_width=256"
    assert xla_flags(XLA_FLAGS=chosen) == [chosen]


def interrupt(command, ready, environment, directory):
    """Ctrl-C once the process has printed the line `ready`; asserts that one line answers it."""
    # Jobs that a script started in the background ignore Ctrl-C, and their children inherit it.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=directory,
    )
    signal.signal(signal.SIGINT, inherited)
    assert process.stdout.readline() == f"{ready}\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "interrupted\n"


@pytest.mark.parametrize("do", ["sleep", "collect"])
def test_interrupt(binary, environment, tmp_path, do):
    interrupt([binary, "--task=t", f"--do={do}", "--quiet"], "ready", environment, tmp_path)


@pytest.mark.parametrize("module", ["experiments.train", "converters.convert"])
def test_interrupt_of_the_imports(module, tmp_path):
    """Held in the first import of JAX, whose own answer to Ctrl-C is a traceback."""
    (tmp_path / "jax.py").write_text("print('importing', flush=True)\nwhile True: pass\n")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    interrupt(["-m", module, "--help"], "importing", environment, tmp_path)


def test_a_reader_that_leaves_is_no_error(binary, environment):
    process = subprocess.Popen(
        [sys.executable, binary, "--task=t", "--do=pipe", "--quiet"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    process.wait(timeout=60)
    process.stderr.close()
