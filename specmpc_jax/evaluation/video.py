"""Videos of episodes."""

import importlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

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
        .mp4, there are no frames, or a frame has another shape or type.
    """
    path = Path(path)
    if path.suffix != ".mp4":
        raise UserError(f"video path {path} must end in .mp4")
    open_writer = _import_imageio().get_writer
    path.parent.mkdir(parents=True, exist_ok=True)
    # A folder of its own, beside the target: the rename stays on one file system.
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder:
        partial = os.path.join(folder, path.name)
        writer = None
        shape = None
        try:
            for frame in frames:
                frame = _checked(frame, shape)
                shape = frame.shape
                writer = writer or open_writer(
                    partial, format="FFMPEG", mode="I", fps=fps, macro_block_size=2
                )
                writer.append_data(frame)
        finally:
            if writer is not None:
                writer.close()
        if writer is None:
            raise UserError(f"there are no frames to write to {path}")
        os.replace(partial, path)


def _checked(frame: np.ndarray, shape: tuple[int, ...] | None) -> np.ndarray:
    frame = np.asarray(frame)
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise UserError(
            f"a video frame is {frame.dtype} of shape {frame.shape}; it must be uint8 [H, W, 3]"
        )
    if shape is not None and frame.shape != shape:
        raise UserError(f"a video frame has shape {frame.shape}, the first one had {shape}")
    return frame


def _import_imageio() -> ModuleType:
    try:
        importlib.import_module("imageio_ffmpeg")
        return importlib.import_module("imageio.v2")
    except ModuleNotFoundError as error:
        raise UserError(
            f"videos need the package {error.name}: pip install imageio imageio-ffmpeg"
        ) from error
