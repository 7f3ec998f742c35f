"""Strict numerics, eight virtual CPU devices, and the fixtures that all tests share."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Collectives over more virtual devices than XLA has threads deadlock; it reads
# the size of its thread pool from here.
os.environ.setdefault("NPROC", "16")

# PyTorch's CUDA builds load Triton when they first need it, which crashed where the
# process held hundreds of compiled programs by then.
with contextlib.suppress(ImportError):
    import triton  # noqa: F401

import hypothesis
import jax
import pytest

import golden_data
from specmpc_jax.machine import enable_compilation_cache

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
enable_compilation_cache()
hypothesis.settings.register_profile("default", deadline=None, derandomize=True, max_examples=40)
hypothesis.settings.load_profile("default")


@pytest.fixture(autouse=True, scope="module")
def compilation(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compiles without optimising where no last bits are compared; drops a file's programs."""
    exact = request.module.__name__.endswith(("_golden", "_fused_model"))
    jax.config.update("jax_disable_most_optimizations", not exact)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    # A compiled program holds some thirty memory maps, of which Linux gives a
    # process 65,530; the whole suite's programs are more than that.
    jax.clear_caches()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out tests that make NaNs on purpose while JAX looks for accidental ones."""
    if not jax.config.jax_debug_nans:
        return
    skip = pytest.mark.skip(reason="makes NaNs on purpose, and JAX_DEBUG_NANS is on")
    for item in items:
        if item.get_closest_marker("nans"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Directory of large reference data beside the repository; skips where it is absent."""
    if not golden_data.SHARED.is_dir():
        pytest.skip("needs the reference data in ../shared, which is not there")
    return golden_data.SHARED


@pytest.fixture(scope="session")
def golden_dir() -> Callable[[str], Path]:
    """`golden_data.golden_dir`: the directory of a golden case, or a skip."""
    return golden_data.golden_dir


@pytest.fixture(scope="session")
def golden() -> Callable[[str], golden_data.Golden]:
    """`golden_data.load`: arrays and settings of a golden case, or a skip."""
    return golden_data.load
