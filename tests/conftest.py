import os
import subprocess
import sys

# Set before jax is imported, and only where nothing is set, so that the suite can be sent to an accelerator.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Thousands of small programs that run once each: fully optimized, compiling them is half of the suite's time.
# `JAX_DISABLE_MOST_OPTIMIZATIONS=0 python -m pytest` compiles them as users' programs are, and `.ci/run` does so once.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1" and "XLA_FLAGS" not in os.environ:
    # Another third. Options come and go with the version of XLA, and one that it does not know ends the process.
    faster = os.environ | {"XLA_FLAGS": "--xla_cpu_use_fusion_emitters=false"}
    check = [sys.executable, "-c", "import jax; jax.devices()"]
    if subprocess.run(check, env=faster, capture_output=True, check=False).returncode == 0:
        os.environ["XLA_FLAGS"] = faster["XLA_FLAGS"]

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "error")


def pytest_collection_modifyitems(config, items):
    """Leaves out what takes a night, unless -m names it."""
    if "nightly" not in config.getoption("markexpr"):
        nightly = [item for item in items if item.get_closest_marker("nightly")]
        items[:] = [item for item in items if item not in nightly]
        config.hook.pytest_deselected(items=nightly)


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def float64():
    """Runs the test with 64-bit types, so that a wrong formula cannot hide behind rounding."""
    with jax.enable_x64(True):
        yield
