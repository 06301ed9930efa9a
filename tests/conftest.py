import os

# Set before jax is imported, and only where nothing is set, so that the suite can be sent to an accelerator.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Thousands of small programs that run once each: with LLVM's optimizations, compiling them is half of the suite's time.
# `XLA_FLAGS= python -m pytest` runs it with them, as `.ci/run` does once.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "error")


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def float64():
    """Runs the test with 64-bit types, so that a wrong formula cannot hide behind rounding."""
    with jax.enable_x64(True):
        yield
