"""Progress output on a terminal, into a file, and silenced."""

import io

import pytest

from specmpc_jax.progress import Progress, track


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self):
        return True


def test_plain_lines_are_sparse_and_the_last_one_is_complete():
    stream = io.StringIO()
    with Progress(1000, "collect", unit="step", stream=stream) as progress:
        for step in range(1000):
            progress.advance(reward=step / 2)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("collect: 100%") and "1000/1000" in lines[0]
    assert "reward=499.5" in lines[0] and "step/s" in lines[0]


def test_plain_lines_come_at_the_interval():
    stream = io.StringIO()
    assert list(track(iter("abc"), "letters", interval=0.0, stream=stream)) == ["a", "b", "c"]
    assert stream.getvalue().count("letters") >= 3
    assert "\r" not in stream.getvalue()


def test_terminal_gets_a_bar():
    stream = Terminal()
    with Progress(2, "train", stream=stream) as progress:
        progress.advance(2, loss=0.125)
        progress.write("step 2: saved")
    assert "\r" in stream.getvalue()
    assert "2/2" in stream.getvalue() and "loss=0.125" in stream.getvalue()
    assert "step 2: saved\n" in stream.getvalue()


@pytest.mark.parametrize("stream_type", [io.StringIO, Terminal])
def test_quiet_is_silent(stream_type):
    stream = stream_type()
    with Progress(2, "train", quiet=True, interval=0.0, stream=stream) as progress:
        progress.advance()
        progress.write("line")
    assert stream.getvalue() == ""


def test_a_job_that_did_nothing_says_nothing():
    stream = io.StringIO()
    with Progress(5, "resume", initial=5, stream=stream):
        pass
    assert stream.getvalue() == ""
