"""Downloads a file over HTTP(S) so that its final name only ever holds the whole of it."""

import contextlib
import dataclasses
import fcntl
import http.client
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path
from typing import IO

from specmpc_jax import files
from specmpc_jax.checkpointing import file_sha256
from specmpc_jax.errors import UserError

_CHUNK = 1 << 18  # bytes
_HEADERS = {"User-Agent": "specmpc-jax", "Accept-Encoding": "identity"}
# Answers that may be others soon: a timeout, too many requests, trouble of the server.
_TEMPORARY = (408, 425, 429, 500, 502, 503, 504)


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long to try; times are in seconds.

    `attempts` counts tries in a row that bring no byte. The pause after the
    n-th is `pause * 2 ** (n - 1)` or what the server asks for, but no more
    than `longest_pause`. `timeout` is the longest silence of the server.
    """

    attempts: int = 5
    pause: float = 1.0
    longest_pause: float = 30.0
    timeout: float = 30.0


def download(
    url: str,
    destination: files.PathLike,
    *,
    sha256: str | None = None,
    size: int | None = None,
    patience: Patience | None = None,
    on_progress: Callable[[int, int | None], None] | None = None,
    on_retry: Callable[[str], None] | None = None,
) -> str:
    """Downloads `url` to `destination`, going on where an earlier download stopped.

    Bytes gather in `<destination>.part`, which stays when the connection is
    lost for good, so that the next call continues it. It takes the final name
    once length and hash are right. Where no hash is given but the server tells
    one, as Hugging Face does, that one is checked.

    Args:
      url: where the file is; redirects must lead to https, or stay on the same
        server where that is a plain http one.
      destination: path of the file; parents are created, a file there is replaced.
      sha256: what the file must hash to, in lower case hexadecimal digits.
      size: how many bytes the file must have.
      patience: how often and how long to try.
      on_progress: called with the bytes there and the bytes in all, None if unknown.
      on_retry: called with the reason before each pause.

    Returns:
      The SHA-256 of the file.

    Raises:
      UserError: if the file is not there or not the expected one, the
        connection fails for good, or the disk cannot take it.
    """
    _check_address(url)
    destination = Path(destination)
    part = destination.with_name(destination.name + ".part")
    patience = patience or Patience()
    source = _Source(url, part, sha256, size, patience.timeout, on_progress or _ignore)
    with _sole_writer(part):
        resumed = _length(part) > 0
        while True:
            expected = _persist(source, patience, on_retry or _ignore)
            with _disk_errors(part):
                found = file_sha256(part)
                if expected in (None, found):
                    os.replace(part, destination)
                    return found
                os.truncate(part, 0)
            if not resumed:
                raise UserError(
                    f"{url} has SHA-256 {found} instead of {expected}; nothing was kept"
                )
            resumed = False  # what was there before may have belonged to another file


@dataclasses.dataclass(frozen=True)
class _Source:
    """What is to be brought, and where it gathers."""

    url: str
    part: Path
    sha256: str | None
    size: int | None
    timeout: float
    on_progress: Callable[[int, int | None], None]


class _DroppedError(Exception):
    """The connection ended early; `wait` seconds are what the server asks for, if it does."""

    def __init__(self, reason: object, wait: float | None = None) -> None:
        super().__init__(getattr(reason, "strerror", None) or str(reason) or type(reason).__name__)
        self.wait = wait


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects only to where the file cannot be swapped on its way.

    `sha256` is the hash that the redirecting server tells of the file, if it does.
    """

    sha256: str | None = None

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Message,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Refuses to leave https, or one plain http server for another."""
        here, there = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        same_server = (here.scheme, here.netloc) == (there.scheme, there.netloc)
        if there.scheme != "https" and not same_server:
            raise UserError(f"{req.full_url} redirects to {newurl}, which is not https")
        tag = headers.get("X-Linked-ETag", "").strip('"')
        if re.fullmatch(r"[0-9a-f]{64}", tag):
            self.sha256 = tag
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _persist(source: _Source, patience: Patience, on_retry: Callable[[str], None]) -> str | None:
    """Fetches until all bytes are there; returns the hash that they must have, if known."""
    failures, furthest = 0, _length(source.part)
    while True:
        try:
            return _fetch(source)
        except _DroppedError as error:
            failures = 1 if _length(source.part) > furthest else failures + 1
            furthest = max(furthest, _length(source.part))
            if failures >= patience.attempts:
                there = _length(source.part)
                kept = f"; {there:,} bytes are kept in {source.part}" if there else ""
                raise UserError(f"cannot download {source.url}: {error}{kept}") from error
            wait = patience.pause * 2 ** (failures - 1) if error.wait is None else error.wait
            wait = min(wait, patience.longest_pause)
            on_retry(f"{error}; trying again in {wait:g} s")
            time.sleep(wait)


def _fetch(source: _Source) -> str | None:
    """Asks once for the bytes that are missing; returns the hash that all must have, if known."""
    done = _length(source.part)
    if done and done == source.size and source.sha256:
        return source.sha256
    redirects = _Redirects()
    request = urllib.request.Request(source.url, headers=dict(_HEADERS))
    if done:
        request.add_header("Range", f"bytes={done}-")
    try:
        with _network_errors(source.url):
            opener = urllib.request.build_opener(redirects)
            response = opener.open(request, timeout=source.timeout)
    except urllib.error.HTTPError as error:
        with error:
            _explain(error, source, done)
        return source.sha256 or redirects.sha256
    with response:
        _receive(response, source, done, source.sha256 or redirects.sha256)
    return source.sha256 or redirects.sha256


def _receive(
    response: http.client.HTTPResponse, source: _Source, done: int, sha256: str | None
) -> None:
    """Writes an answer's bytes behind the `done` ones that are there, or in their place."""
    start, total = _range(response)
    if start not in (0, done):
        _start_over(source, f"the server sends from byte {start} instead of {done}")
    _check_length(source, total)
    if total is None and source.size is None and sha256 is None and not response.chunked:
        raise UserError(
            f"{source.url} does not tell its length; give its size or sha256 in a manifest"
        )
    total = source.size if total is None else total
    with _disk_errors(source.part):
        _check_space(source, (total or 0) - start)
        with open(source.part, "ab" if start else "wb") as file:
            for chunk in _chunks(response, source.url):
                file.write(chunk)
                source.on_progress(file.tell(), total)
            file.flush()
            os.fsync(file.fileno())
    there = _length(source.part)
    if total is not None and there > total:
        _start_over(source, f"the server sends {there:,} bytes instead of {total:,}")
    if total is not None and there < total:
        raise _DroppedError(f"the connection ended after {there:,} of {total:,} bytes")


def _chunks(response: http.client.HTTPResponse, url: str) -> Iterator[bytes]:
    while True:
        with _network_errors(url):
            chunk = response.read1(_CHUNK)
        if not chunk:
            return
        yield chunk


def _range(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    """First byte of an answer and length of the whole file, None if it is not told."""
    length = response.headers.get("Content-Length", "")
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        return 0, int(length) if length.isdecimal() else None
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", ""))
    if not match:
        raise _DroppedError("the server does not tell which part it sends")
    return int(match[1]), int(match[3]) if match[3] != "*" else int(match[2]) + 1


def _explain(error: urllib.error.HTTPError, source: _Source, done: int) -> None:
    """Turns an error status into one line, except that of a part that is complete already."""
    if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and done:
        total = error.headers.get("Content-Range", "").removeprefix("bytes */")
        if total != str(done):
            _start_over(source, "the part there is not one of this file")
        _check_length(source, done)
        return
    if error.code in _TEMPORARY:
        wait = error.headers.get("Retry-After", "")
        raise _DroppedError(f"HTTP {error.code}", float(wait) if wait.isdecimal() else None)
    if error.code in (http.HTTPStatus.NOT_FOUND, http.HTTPStatus.GONE):
        raise UserError(f"there is no file {source.url} (HTTP {error.code})")
    if 300 <= error.code < 400:
        raise UserError(f"{source.url} redirects in circles, or to where no file can be")
    reason = error.reason.splitlines()[0] if error.reason else ""
    raise UserError(f"{source.url} is refused: HTTP {error.code} {reason}".rstrip())


def _start_over(source: _Source, reason: str) -> None:
    with _disk_errors(source.part):
        os.truncate(source.part, 0)
    raise _DroppedError(reason)


def _check_address(url: str) -> None:
    try:
        address = urllib.parse.urlsplit(url)
        usable = address.scheme in ("http", "https") and bool(address.hostname)
    except ValueError:
        usable = False
    if not usable or re.search(r"[\s\x00-\x1f]", url):
        raise UserError(f"{url!r} is no web address; it has to be https://server/path")


def _check_length(source: _Source, total: int | None) -> None:
    if None not in (total, source.size) and total != source.size:
        with _disk_errors(source.part):
            os.truncate(source.part, 0)
        raise UserError(f"{source.url} has {total:,} bytes instead of {source.size:,}")


def _check_space(source: _Source, needed: int) -> None:
    free = shutil.disk_usage(source.part.parent).free
    if needed > free:
        raise UserError(
            f"{source.part.parent} has {free / 1e6:,.0f} MB left; "
            f"{source.part.name} needs {needed / 1e6:,.0f} MB"
        )


@contextlib.contextmanager
def _network_errors(url: str) -> Iterator[None]:
    """Turns a lost connection into `_DroppedError`; leaves error statuses as they are."""
    try:
        yield
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise UserError(f"{url}: {reason.verify_message}") from error
        raise _DroppedError(reason) from error


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def _sole_writer(part: Path) -> Iterator[None]:
    """Keeps other processes from `part`; removes it in the end if it holds nothing."""
    with contextlib.ExitStack() as stack:
        with _disk_errors(part):
            part.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(part, "ab"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Another process may have finished, and so renamed, what was opened.
                alone = part.exists() and os.path.samestat(os.fstat(file.fileno()), part.stat())
            except BlockingIOError:
                alone = False
        if not alone:
            raise UserError(f"another download is writing {part}")
        try:
            yield
        finally:
            if _length(part) == 0:
                part.unlink(missing_ok=True)


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _ignore(*values: object) -> None:
    del values
