"""Videos of episodes."""

import contextlib
import importlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from specmpc_jax.errors import UserError


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: float) -> None:
    """Writes frames to an MP4 file (H.264), whole or not at all.

    Frames are encoded as they come, so a generator keeps memory small. Odd
    heights and widths are scaled up by one pixel, which the codec needs.

    Args:
      path: where to write; missing folders are made, an existing file is replaced.
      frames: each `[H, W, 3]` uint8, all of one size.
      fps: frames per second.

    Raises:
      UserError: if imageio or imageio-ffmpeg is missing, the path does not end in
        .mp4, there are no frames, a frame has another shape or type, or the encoder
        cannot write them all, as on a full disk.
    """
    path = Path(path)
    if path.suffix != ".mp4":
        raise UserError(f"video path {path} must end in .mp4")
    open_writer, count_frames = _import_imageio()
    path.parent.mkdir(parents=True, exist_ok=True)
    # A folder of its own, beside the target: the rename stays on one file system.
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder:
        partial = os.path.join(folder, path.name)
        writer = None
        shape = None
        written = 0
        try:
            for frame in frames:
                frame = _checked(frame, shape)
                shape = frame.shape
                writer = writer or open_writer(
                    partial,
                    format="FFMPEG",
                    mode="I",
                    fps=fps,
                    macro_block_size=2,
                    ffmpeg_log_level="quiet",
                )
                with _encoder_errors(path):
                    writer.append_data(frame)
                written += 1
        finally:
            if writer is not None:
                writer.close()
        if writer is None:
            raise UserError(f"there are no frames to write to {path}")
        # An encoder that fails at the very end says so to nobody.
        with _encoder_errors(path):
            if count_frames(partial)[0] != written:
                raise OSError
        os.replace(partial, path)


@contextlib.contextmanager
def _encoder_errors(path: Path) -> Iterator[None]:
    """Turns the lines that a broken encoder leaves into one."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise UserError(f"cannot write {path}: the encoder failed; is the disk full?") from error


def _checked(frame: np.ndarray, shape: tuple[int, ...] | None) -> np.ndarray:
    frame = np.asarray(frame)
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise UserError(
            f"a video frame is {frame.dtype} of shape {frame.shape}; it must be uint8 [H, W, 3]"
        )
    if shape is not None and frame.shape != shape:
        raise UserError(f"a video frame has shape {frame.shape}, the first one had {shape}")
    return frame


def _import_imageio() -> tuple[Callable[..., Any], Callable[[str], tuple[int, float]]]:
    """What opens a writer, and what counts the frames of a file."""
    try:
        encoder = importlib.import_module("imageio_ffmpeg")
        return importlib.import_module("imageio.v2").get_writer, encoder.count_frames_and_secs
    except ModuleNotFoundError as error:
        raise UserError(
            f"videos need the package {error.name}: pip install imageio imageio-ffmpeg"
        ) from error
