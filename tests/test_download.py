"""Downloads from servers that drop, stall, lie, redirect and ignore what they are asked."""

import contextlib
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from converters import download as download_module
from converters import released
from converters.download import Patience, download
from specmpc_jax.errors import UserError

ROOT = Path(__file__).parents[1]
CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
QUICK = Patience(attempts=3, pause=0.01, longest_pause=0.02, timeout=0.5)


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT under every path, as badly as the paths' first parts ask for.

    `requests` lists path and first requested byte of each request so far.
    """

    daemon_threads = True
    content = CONTENT

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []
        self.release = threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_GET(self):
        range_header = self.headers.get("Range", "bytes=0-")
        start = int(range_header.removeprefix("bytes=").removesuffix("-"))
        self.server.requests.append((self.path, start))
        behaviour = self.path.split("/")[1]
        count = len(self.server.requests)
        content = self.server.content
        match behaviour:
            case "missing":
                return self.send_error(404)
            case "denied":
                return self.send_error(403)
            case "busy" if count <= 2:
                return self.answer(503, b"", {"Retry-After": "0"})
            case "circle":
                return self.answer(302, b"", {"Location": self.path})
            case "away":
                return self.answer(302, b"", {"Location": "http://localhost:1/x"})
            case "file":
                return self.answer(302, b"", {"Location": "file:///etc/hostname"})
            case "moved" | "tagged":
                tag = {"X-Linked-ETag": f'"{SHA256}"'} if behaviour == "tagged" else {}
                return self.answer(302, b"", {"Location": "/good/x", **tag})
            case "lengthless":
                return self.answer(200, content, {}, length=False)
            case "ignores" | "ignores-drop":
                end = len(content) // 2 if behaviour == "ignores-drop" and count == 1 else None
                return self.answer(200, content, {}, sent=end)
            case "elsewhere" if start:
                headers = {"Content-Range": f"bytes 7-{len(content) - 1}/{len(content)}"}
                return self.answer(206, content[7:], headers)
            case "chunked":
                self.protocol_version = "HTTP/1.1"
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for piece in (content[:1000], content[1000:]):
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                ending = b"" if count == 1 else b"0\r\n\r\n"
                self.close_connection = True
                return self.wfile.write(ending)
        if start >= len(content):
            return self.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        rest = content[start:]
        headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        sent = None
        if behaviour == "drops":
            sent = 300_000
        elif behaviour == "dies":
            sent = 100_000 if start == 0 else 0
        elif behaviour == "stalls" and count == 1:
            sent = 100_000
        self.answer(206 if start else 200, rest, headers if start else {}, sent=sent)
        if behaviour == "stalls" and count == 1:
            self.wfile.flush()
            self.server.release.wait(10)

    def answer(self, status, body, headers, sent=None, length=True):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body[:sent])


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()
    thread.join()


def bring(server, behaviour, directory, **options):
    options = {"patience": QUICK} | options
    return download(f"{server.url}/{behaviour}/x", directory / "teacher.pt", **options)


def assert_whole(directory, content=CONTENT):
    assert os.listdir(directory) == ["teacher.pt"]
    assert (directory / "teacher.pt").read_bytes() == content


@pytest.mark.parametrize(
    "behaviour",
    ["good", "drops", "stalls", "busy", "moved", "tagged", "ignores", "ignores-drop"],
)
@pytest.mark.parametrize("known", [True, False])
def test_the_whole_file_arrives(server, tmp_path, behaviour, known):
    directory = tmp_path / "new" / "directory"
    expected = {"sha256": SHA256, "size": len(CONTENT)} if known else {}
    assert bring(server, behaviour, directory, **expected) == SHA256
    assert_whole(directory)


def test_a_drop_is_continued_and_not_started_over(server, tmp_path):
    seen, reasons = [], []
    bring(
        server,
        "drops",
        tmp_path,
        on_progress=lambda done, total: seen.append((done, total)),
        on_retry=reasons.append,
    )
    assert [start for _, start in server.requests] == [0, 300_000, 600_000, 900_000]
    assert seen == sorted(seen) and seen[-1] == (len(CONTENT), len(CONTENT))
    assert len(reasons) == 3 and "300,000 of 1,048,576 bytes" in reasons[0]


def test_what_a_dead_server_sent_is_kept_for_the_next_call(server, tmp_path):
    with pytest.raises(UserError, match=r"ended after 100,000 of 1,048,576.*are kept in") as caught:
        bring(server, "dies", tmp_path)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["teacher.pt.part"]
    assert len(server.requests) == QUICK.attempts
    assert bring(server, "good", tmp_path) == SHA256
    assert server.requests[-1] == ("/good/x", 100_000)
    assert_whole(tmp_path)


@pytest.mark.parametrize("behaviour", ["good", "tagged", "ignores"])
@pytest.mark.parametrize("stale", [b"another file", CONTENT[::-1], CONTENT + b"more"])
def test_the_part_of_another_file_is_not_used(server, tmp_path, behaviour, stale):
    (tmp_path / "teacher.pt.part").write_bytes(stale)
    expected = {} if behaviour == "tagged" else {"sha256": SHA256}
    bring(server, behaviour, tmp_path, **expected)
    assert_whole(tmp_path)


def test_a_complete_part_only_takes_its_name(server, tmp_path):
    (tmp_path / "teacher.pt.part").write_bytes(CONTENT)
    assert bring(server, "good", tmp_path) == SHA256
    assert_whole(tmp_path)
    os.rename(tmp_path / "teacher.pt", tmp_path / "teacher.pt.part")
    bring(server, "missing", tmp_path, sha256=SHA256, size=len(CONTENT))  # not even asked
    assert_whole(tmp_path)


def test_a_part_that_the_server_does_not_continue_is_started_over(server, tmp_path):
    (tmp_path / "teacher.pt.part").write_bytes(CONTENT[:500])
    assert bring(server, "elsewhere", tmp_path) == SHA256
    assert [start for _, start in server.requests] == [500, 0]


def test_chunked_answers_count_only_with_their_end(server, tmp_path):
    assert bring(server, "chunked", tmp_path, sha256=SHA256) == SHA256
    assert len(server.requests) == 2
    assert_whole(tmp_path)


@pytest.mark.parametrize(
    ("behaviour", "expected", "message"),
    [
        ("missing", {}, "there is no file http.*404"),
        ("denied", {}, "refused: HTTP 403 Forbidden$"),
        ("circle", {}, "redirects in circles"),
        ("away", {}, "redirects to http://localhost:1/x, which is not https"),
        ("file", {}, "or to where no file can be"),
        ("lengthless", {}, "does not tell its length"),
        ("good", {"size": 17}, "has 1,048,576 bytes instead of 17"),
        ("chunked", {"size": 2**20 + 1}, "ended after 1,048,576 of 1,048,577"),
        ("good", {"sha256": "0" * 64}, f"has SHA-256 {SHA256} instead of 000.*nothing was kept"),
    ],
)
def test_failures_are_one_line_and_leave_what_was_there(
    server, tmp_path, behaviour, expected, message
):
    (tmp_path / "teacher.pt").write_bytes(b"an earlier teacher")
    with pytest.raises(UserError, match=message) as caught:
        bring(server, behaviour, tmp_path, **expected)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "teacher.pt").read_bytes() == b"an earlier teacher"
    if behaviour != "chunked":
        assert os.listdir(tmp_path) == ["teacher.pt"]


def test_the_hash_that_the_server_tells_is_checked(server, tmp_path):
    server.content = b"not what the tag says"
    with pytest.raises(UserError, match=f"instead of {SHA256}"):
        bring(server, "tagged", tmp_path)
    assert not os.listdir(tmp_path)


def test_a_lengthless_answer_is_checked_by_its_hash(server, tmp_path):
    assert bring(server, "lengthless", tmp_path, sha256=SHA256) == SHA256
    assert_whole(tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/hostname",
        "ftp://a/b",
        "huggingface.co/x",
        "https://",
        "http://[",
        "http://a/ b",
    ],
)
def test_addresses_that_are_none(tmp_path, url):
    with pytest.raises(UserError, match="is no web address"):
        download(url, tmp_path / "x")


def test_nobody_there(server, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match="cannot download http.*refused"):
        bring(server, "good", tmp_path)
    assert not os.listdir(tmp_path)


def test_disk_trouble(server, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write .*file"):
        bring(server, "good", tmp_path / "file")
    (tmp_path / "taken" / "teacher.pt").mkdir(parents=True)
    with pytest.raises(UserError, match="cannot write .*directory"):
        bring(server, "good", tmp_path / "taken")
    usage = download_module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        download_module.shutil, "disk_usage", lambda path: usage._replace(free=500_000)
    )
    with pytest.raises(UserError, match="has 0 MB left; teacher.pt.part needs 1 MB"):
        bring(server, "good", tmp_path / "full")
    assert not os.listdir(tmp_path / "full")


def test_two_downloads_of_one_file_do_not_mix(server, tmp_path):
    refusals = []

    def second(done, total):
        if not refusals:
            with pytest.raises(UserError, match="another download is writing") as caught:
                bring(server, "good", tmp_path)
            refusals.append(caught.value)

    bring(server, "good", tmp_path, on_progress=second)
    assert refusals
    assert_whole(tmp_path)


def test_released_names():
    paths = [
        released.single_task_file(f"{task}-{seed}").path
        for tasks in released.SINGLE_TASKS.values()
        for task in tasks
        for seed in released.SEEDS
    ]
    assert len(set(paths)) == len(paths) == 312
    assert set(released.SHA256) < set(paths)
    assert released.single_task_file("walker-walk").path == "dmcontrol/walker-walk-1.pt"
    assert released.single_task_file("mw-push-wall-3.pt").path == "metaworld/mw-push-wall-3.pt"
    assert released.single_task_file("humanoid-run-2").sha256.startswith("7f6514a9")
    assert released.single_task_file("humanoid-run-2", "main").sha256 is None
    names = [file.name for file in released.multitask_files("mt30", [1, 317])]
    assert names == ["mt30-1M.pt", "mt30-317M.pt"]


@pytest.mark.parametrize("name", ["walker-wlk", "walker-walk-4", "", "../walker-walk", "mt30"])
def test_teachers_that_were_not_released(name):
    with pytest.raises(UserError, match="the nearest tasks are"):
        released.single_task_file(name)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"path": "a.pt"}, "must hold a JSON list"),
        ([], "must hold a JSON list"),
        ([{"path": "a.pt"}, "b.pt"], "entry 2 has no path"),
        ([{"path": 3}], "entry 1 has no path"),
        ([{"path": "a.pt", "md5": "0"}], "unknown field md5"),
        *[
            ([{"path": path}], "no plain relative path")
            for path in (
                *("../a.pt", "a/../../b.pt", "/etc/a.pt", "a//b.pt", "", "a/", ".a", "C:\\a.pt"),
                *("~/a.pt", "a\n.pt", "a.pt?x=1", "%2e%2e/a.pt", "http://b/a.pt"),
            )
        ],
        ([{"path": "a.pt", "sha256": "12"}], "64 hexadecimal"),
        ([{"path": "a.pt", "sha256": 12}], "64 hexadecimal"),
        ([{"path": "a.pt", "size": -1}], "number of bytes"),
        ([{"path": "a.pt", "size": True}], "number of bytes"),
        ([{"path": "a/x.pt"}, {"path": "b/X.pt"}], "more than one file"),
    ],
)
def test_bad_manifests(tmp_path, manifest, message):
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=message):
        released.read_manifest(path)


def run_binary(server, tmp_path, *arguments):
    # With torch out of reach: a download must not need it.
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('torch', name='torch')")
    command = [sys.executable, "-m", "experiments.download_teachers", "--device=cpu"]
    places = [f"--base_url={server.url}/good/{{revision}}", f"--output_dir={tmp_path / 'out'}"]
    return subprocess.run(
        [*command, *places, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )


def test_the_binary(server, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mt30-5M.pt").write_bytes(b"mine")
    result = run_binary(server, tmp_path, "--task_set=mt30", "--sizes=5", "--include_smallest")
    assert result.returncode == 0, result.stderr
    assert [path for path, _ in server.requests] == [
        f"/good/{released.REVISION}/multitask/mt30-1M.pt"
    ]
    assert (tmp_path / "out" / "mt30-1M.pt").read_bytes() == CONTENT
    assert (tmp_path / "out" / "mt30-5M.pt").read_bytes() == b"mine"
    assert SHA256 in result.stdout and "mt30-5M.pt is there already" in result.stdout

    result = run_binary(server, tmp_path, "--task=walker-run-2", "--quiet")
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert f"walker-run-2.pt has SHA-256 {SHA256} instead of 0c45" in result.stderr
    assert sorted(os.listdir(tmp_path / "out")) == ["mt30-1M.pt", "mt30-5M.pt"]


def test_the_binary_takes_a_manifest_and_one_kind_of_selection(server, tmp_path):
    manifest = tmp_path / "manifest.json"
    entry = {"path": "any/a-1.pt", "sha256": SHA256.upper(), "size": len(CONTENT)}
    manifest.write_text(json.dumps([entry]))
    result = run_binary(server, tmp_path, f"--manifest={manifest}", "--revision=refs/pr/1")
    assert result.returncode == 0, result.stderr
    assert server.requests[0][0] == "/good/refs%2Fpr%2F1/any/a-1.pt"
    assert os.listdir(tmp_path / "out") == ["a-1.pt"]

    (tmp_path / "out" / "a-1.pt").write_bytes(b"mine")
    result = run_binary(server, tmp_path, f"--manifest={manifest}")
    assert result.returncode == 1 and "has 4 bytes instead of 1,048,576" in result.stderr
    assert (tmp_path / "out" / "a-1.pt").read_bytes() == b"mine"

    result = run_binary(server, tmp_path, "--task=walker-walk", "--sizes=19")
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert "--sizes is for multi-task teachers" in result.stderr
