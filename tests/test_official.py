"""Released teachers by name: `sm.load("official:...")` against a server on this machine."""

import functools
import http.server
import shutil
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

import golden_data
import specmpc_jax as sm
from specmpc_jax.errors import UserError
from specmpc_jax.machine import cache_directory

pytest.importorskip("torch")

from converters import load_torch, official, released  # noqa: E402

TEACHER = "dmcontrol/walker-walk-1"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one teacher; yields its file and the paths that were asked for."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *arguments):
            pass

    root = tmp_path / "hub"
    file = root / "nicklashansen/tdmpc2/resolve" / released.REVISION / f"{TEACHER}.pt"
    file.parent.mkdir(parents=True)
    shutil.copy(golden_data.golden_dir("single_tiny") / "checkpoint.pt", file)
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=root)
    )
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield file, asked
    server.shutdown()
    server.server_close()


def test_is_brought_converted_and_kept(hub, capfd):
    file, asked = hub
    agent = sm.load(f"official:{TEACHER}")
    expected, config = load_torch(file, task="walker-walk")
    assert agent.config == config and agent.config.tasks == ("walker-walk",)
    assert jax.tree.all(jax.tree.map(np.array_equal, agent.params, expected))
    assert max(agent.metadata["parity"].values()) < 1e-3
    assert len(asked) == 1
    again = sm.load("official:walker-walk")  # the first seed's
    assert again.fingerprint == agent.fingerprint and len(asked) == 1
    kept = sorted(path.name for path in cache_directory().glob("teachers/*/dmcontrol/*"))
    assert kept == ["walker-walk-1", "walker-walk-1.pt"]


def test_what_is_not_there(hub, tmp_path):
    for name, message in (
        ("walker-fly", "nearest tasks"),
        ("metaworld/walker-walk-1", "it is called dmcontrol/walker-walk-1.pt"),
        ("mt30-6M", "model size 6 is unknown"),
        ("walker-walk-2", "404"),
    ):
        with pytest.raises(UserError, match=message):
            official.fetch(name, quiet=True)
    with pytest.raises(UserError, match="unofficial:walker-walk"):
        sm.load("unofficial:walker-walk")


def test_another_file_than_the_released_one(hub, monkeypatch):
    """Nothing of it stays."""
    monkeypatch.setitem(released.SHA256, f"{TEACHER}.pt", "0" * 64)
    with pytest.raises(UserError, match="instead of 0000"):
        official.fetch("walker-walk", quiet=True)
    assert not [path for path in cache_directory().rglob("*") if path.suffix == ".pt"]


def test_a_file_that_is_no_teacher(hub):
    file, _ = hub
    file.write_bytes(b"not a checkpoint")
    with pytest.raises(UserError):
        official.fetch("walker-walk", quiet=True)
    assert not (Path(cache_directory()) / "teachers" / released.REVISION[:12] / TEACHER).exists()
