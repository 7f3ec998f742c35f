"""Files of the planning benchmark: tables, provenance and figures."""

import os
import sys
from pathlib import Path
from typing import Any

from experiments.support import launch, plot_planning, plot_style, step_latency
from experiments.support.planning_settings import Setting
from specmpc_jax import files

_FIGURES = (
    "calls", "compile_s", "p50_ms", "p95_ms", "ms_per_environment", "needed_gflop",
    "peak_gflops", "square_gflops", "peak_share", "peak_memory_mb",
)  # fmt: skip


class Report:
    """Rows so far, written anew after each setting.

    `base` is the default row of the sweep, as columns.
    """

    columns = (
        "implementation", *Setting().columns(),
        "calls", "compile_s", "p50_ms", "p95_ms", "p99_ms", "mean_ms", "ms_per_environment",
        "needed_gflop", "peak_gflops", "square_gflops", "peak_share", "peak_memory_mb",
        "memory_source", "device",
    )  # fmt: skip

    def __init__(self, directory: str, base: dict[str, Any]):
        self.directory, self.base = Path(directory), base
        facts = launch.provenance()
        self.device = facts["cpu"] if facts["device"] == "cpu" else facts["device"]
        self.rows: list[dict[str, Any]] = []
        self.steps: list[dict[str, Any]] = []
        self.left_out: list[str] = []
        self._run = {
            "flags": launch.flag_values(),
            "provenance": facts,
            "load_average_before": os.getloadavg(),
        }

    def leave_out(self, line: str) -> bool:
        """Keeps a line on why rows are missing; whether it is new."""
        new = line not in self.left_out
        if new:
            self.left_out.append(line)
        return new

    def write(self, complete: bool = False) -> None:
        """Writes tables and provenance; figures too, once all is measured."""
        planning, steps = self.directory / "planning", self.directory / "steps"
        if not complete:
            for figure in self.directory.glob("planning*.png"):
                figure.unlink()  # of an earlier run
        # The main table last: where it is, what belongs to it is there too.
        run = {**self._run, "torch": _torch_facts(), "left_out": self.left_out}
        files.write_json(planning.with_suffix(".run.json"), {**run, "complete": complete})
        files.write_json(steps.with_suffix(".json"), self.steps)
        files.write_csv(steps.with_suffix(".csv"), self.steps, step_latency.COLUMNS)
        files.write_csv(planning.with_suffix(".csv"), self.rows, self.columns)
        files.write_json(planning.with_suffix(".json"), self.rows)
        if complete and self.rows:
            self._write_figures()

    def _write_figures(self) -> None:
        for axis in plot_planning.varied_axes(self.rows):
            name = "planning.png" if axis == "model_size" else f"planning_{axis}.png"
            with plot_style.styled(), files.atomic_path(self.directory / name) as path:
                figure = plot_planning.figure(self.rows, axis, self.base)
                figure.savefig(path, dpi=plot_style.RESOLUTION)

    def table_columns(self) -> list[str]:
        """What a printed table shows: the settings that vary, and the main figures."""
        varied = [name for name in Setting().columns() if len({row[name] for row in self.rows}) > 1]
        return ["implementation", *varied, *_FIGURES]


def _torch_facts() -> dict[str, Any] | None:
    """Version and threads of PyTorch, if it was used."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    return {
        "version": torch.__version__,
        "num_threads": torch.get_num_threads(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cuda": torch.version.cuda,
    }
