"""A trace as one HTML page that needs nothing else: no network, no other file, no library."""

import base64
import html
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from specmpc_jax import files
from specmpc_jax.evaluation.trace import Trace

# Bytes of all pictures in the page; with base64 a third more.
FRAME_BUDGET = 4_000_000
# JPEG qualities, best first, and how many steps share a picture. Sharp and few is worse than
# soft and many: motion is what the pictures are there for.
_ATTEMPTS = tuple((quality, 1) for quality in (85, 75, 60, 45)) + tuple(
    (45, stride) for stride in (2, 4, 8, 16, 32, 64)
)
_TEMPLATES = Path(__file__).parent / "templates"
_PLACE = re.compile(r"@@(TITLE|STYLE|SCRIPT|DATA|FRAMES)@@")


def write_trace(path: str | Path, trace: Trace, facts: Mapping[str, Any]) -> tuple[Path, Path]:
    """Writes the page, and its numbers as CSV beside it.

    Args:
      path: the page; the table takes the same name with `.csv`.
      trace: what happened.
      facts: JSON about the run for the page's head; needs `task`, `variant`,
        `exec_horizon`, `corrector`, `env_seed`, `mismatch` and `plans`.

    Returns:
      Both paths.
    """
    page, table = Path(path), Path(path).with_suffix(".csv")
    columns = trace.columns()
    rows = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    files.write_csv(table, rows, list(columns))
    files.write_text(page, page_text(trace, facts))
    return page, table


def page_text(trace: Trace, facts: Mapping[str, Any]) -> str:
    """The page's HTML; arguments are those of `write_trace`."""
    episode = trace.episode
    data = {
        "facts": {
            **facts,
            "return": episode.episode_return,
            "length": episode.length,
            "planner_calls": episode.planner_calls,
            "corrected": episode.corrected,
            "mismatch_replans": episode.mismatch_replans,
        },
        "action_dim": trace.action.shape[1],
        "columns": trace.columns(),
    }
    pictures, stride = encode_frames(trace.frames)
    frames = {"stride": stride, "missing": trace.no_frames, "jpeg": pictures}
    content = {
        "TITLE": html.escape(f"{facts['task']} · {facts['variant']} · speculation trace"),
        "STYLE": _template("trace.css"),
        "SCRIPT": _template("trace_charts.js") + _template("trace.js"),
        "DATA": embedded_json(data),
        "FRAMES": embedded_json(frames),
    }
    # One pass: what is put in is not searched for places again.
    return _PLACE.sub(lambda place: content[place[1]], _template("trace.html"))


def embedded_json(value: Any) -> str:
    """Strict JSON that cannot end the `<script>` element it stands in."""
    text = json.dumps(files.to_plain(value), allow_nan=False, separators=(",", ":"))
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")


def encode_frames(
    frames: Sequence[np.ndarray], budget: int = FRAME_BUDGET
) -> tuple[list[str], int]:
    """Compresses pictures until all of them fit.

    Args:
      frames: T pictures `[H, W, 3]` uint8, one a step.
      budget: bytes of all JPEG files together.

    Returns:
      The JPEG files as base64, and how many steps each one stands for. Frames
      that do not fit even so are given as they are at the strongest setting.
    """
    pictures: list[bytes] = []
    stride = 1
    for quality, stride in _ATTEMPTS:
        pictures = [_jpeg(frame, quality) for frame in frames[::stride]]
        if sum(map(len, pictures)) <= budget:
            break
    return [base64.b64encode(picture).decode("ascii") for picture in pictures], stride


def _jpeg(frame: np.ndarray, quality: int) -> bytes:
    from PIL import Image  # comes with imageio and Matplotlib

    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def _template(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")
