"""Videos are whole, readable files or nothing."""

import sys

import imageio.v2 as imageio
import imageio_ffmpeg
import numpy as np
import pytest

from specmpc_jax.errors import UserError
from specmpc_jax.evaluation.video import write_video


def _frames(count, height=64, width=96):
    """Pictures that grow brighter from left to right and from frame to frame."""
    ramp = np.linspace(0, 100, width)[None, :, None]
    for index in range(count):
        yield np.broadcast_to(ramp + 10 * index, (height, width, 3)).astype(np.uint8)


def test_frames_come_back(tmp_path):
    path = tmp_path / "videos" / "episode.mp4"
    write_video(path, _frames(12), fps=25)
    with imageio.get_reader(path) as reader:
        assert reader.get_meta_data()["fps"] == 25
        read = np.stack([frame for frame in reader])
    written = np.stack(list(_frames(12)))
    assert read.shape == written.shape
    assert np.abs(read.astype(int) - written.astype(int)).mean() < 4
    assert list(path.parent.iterdir()) == [path]


def test_odd_sizes_are_written(tmp_path):
    path = tmp_path / "odd.mp4"
    write_video(path, _frames(3, height=33, width=65), fps=10)
    with imageio.get_reader(path) as reader:
        assert next(iter(reader)).shape == (34, 66, 3)


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "episode.mp4"
    path.write_bytes(b"older video")

    def failing():
        yield from _frames(2)
        raise RuntimeError("simulation lost")

    with pytest.raises(RuntimeError, match="simulation lost"):
        write_video(path, failing(), fps=10)
    assert path.read_bytes() == b"older video"
    assert list(tmp_path.iterdir()) == [path]


def test_a_video_that_lacks_frames_is_not_kept(tmp_path, monkeypatch):
    """As an encoder leaves it that finds the disk full when it closes the file."""
    counted = imageio_ffmpeg.count_frames_and_secs

    def cut_off(path):
        assert counted(path)[0] == 3
        with open(path, "r+b") as file:
            file.truncate(600)
        return counted(path)

    monkeypatch.setattr(imageio_ffmpeg, "count_frames_and_secs", cut_off)
    with pytest.raises(UserError, match=r"episode\.mp4: the encoder failed"):
        write_video(tmp_path / "episode.mp4", _frames(3), fps=10)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name, frames, message",
    [
        ("a.avi", [], "must end in .mp4"),
        ("a.mp4", [], "no frames"),
        ("a.mp4", [np.zeros((8, 8, 3))], r"float64 of shape \(8, 8, 3\); it must be uint8"),
        ("a.mp4", [np.zeros((8, 8), np.uint8)], r"must be uint8 \[H, W, 3\]"),
        (
            "a.mp4",
            [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 6, 3), np.uint8)],
            r"has shape \(8, 6, 3\), the first one had \(8, 8, 3\)",
        ),
    ],
)
def test_wrong_input_is_refused_in_one_line(tmp_path, name, frames, message):
    with pytest.raises(UserError, match=message) as caught:
        write_video(tmp_path / name, frames, fps=10)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(UserError, match="imageio_ffmpeg: pip install imageio imageio-ffmpeg"):
        write_video(tmp_path / "a.mp4", _frames(1), fps=10)
