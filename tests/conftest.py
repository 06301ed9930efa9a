import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

# Set before jax is imported, and only where nothing is set, so that the suite can be sent to an accelerator.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Nothing of the tests belongs in the user's cache, which would also hide what they compile.
os.environ.setdefault("JAXCNN_COMPILATION_CACHE", "0")
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
from jax._src.interpreters import mlir
from jax.experimental.compilation_cache import compilation_cache

jax.config.update("jax_numpy_dtype_promotion", "strict")


class SharedContext(threading.local):
    """Gives all programs that a thread compiles one MLIR context.

    jax makes a new one for each program, which takes a third of the time of compiling a small one. What is compiled is
    the same. A context keeps the constants of its programs, so that a new one is made now and then.
    """

    def __init__(self, make):
        self.make, self.context, self.uses = make, None, 0

    def __call__(self):
        if self.uses % 500 == 0:
            self.context = self.make()
        self.uses += 1
        return self.context


# The name is not public: where jax has another, every program has its own context.
if hasattr(mlir, "make_ir_context"):
    mlir.make_ir_context = SharedContext(mlir.make_ir_context)


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "error")
    if config.getoption("skipped"):
        config.pluginmanager.register(Skipped(config.getoption("skipped")))
    for option, group in (("share", heavy_group), ("modules", lambda item: item.path)):
        if config.getoption(option):
            config.pluginmanager.register(Share(*map(int, config.getoption(option).split("/")), group))


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collects without garbage collection: the tests live until the end, and to search them again and again is slow."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_collection_modifyitems(config, items):
    """Leaves out what takes a night, unless -m names it."""
    if "nightly" not in config.getoption("markexpr"):
        nightly = [item for item in items if item.get_closest_marker("nightly")]
        items[:] = [item for item in items if item not in nightly]
        config.hook.pytest_deselected(items=nightly)


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture(scope="session")
def compilation_cache_settings(tmp_path_factory):
    return {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }


@pytest.fixture(scope="module")
def compile_once(compilation_cache_settings):
    """Keeps compiled programs for the runs to come, in this module and in others that use it."""
    before = {name: getattr(jax.config, name) for name in compilation_cache_settings}

    def update(settings):
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()

    update(compilation_cache_settings)
    yield
    update(before)


@pytest.fixture
def optimized():
    """Compiles as users' programs are: for a test whose programs run so often that it saves more than it costs."""
    name = "jax_disable_most_optimizations"
    before = jax.config.values[name]
    jax.config.update(name, False)
    yield
    jax.config.update(name, before)


@pytest.fixture
def float64():
    """Runs the test with 64-bit types, so that a wrong formula cannot hide behind rounding."""
    with jax.enable_x64(True):
        yield


def pytest_addoption(parser):
    parser.addoption(
        "--skipped",
        type=Path,
        metavar="FILE",
        help="write the tests and modules that skip themselves because something is missing, and what, into a file",
    )
    parser.addoption(
        "--share", metavar="I/N", help="run every N-th group of heavy tests, from group I on; counts from 0"
    )
    parser.addoption("--modules", metavar="I/N", help="run every N-th module, from module I on; counts from 0")


class Skipped:
    """Writes down what is skipped, unless the reason begins with "does not apply": there nothing is wanting.

    It runs in every process: xdist's workers report a skipped module only once for each reason.
    """

    def __init__(self, path):
        self.path = path

    def pytest_runtest_logreport(self, report):
        # A test that is expected to fail, and does, is reported as skipped too.
        if not report.skipped or hasattr(report, "wasxfail"):
            return
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not reason.startswith("does not apply: "):
            with self.path.open("a") as file:
                file.write(f"{report.nodeid}\t{reason}\n")

    pytest_collectreport = pytest_runtest_logreport


def heavy_group(item):
    """The group of a heavy test, which is the test itself where the marker names none; None for other tests."""
    heavy = item.get_closest_marker("heavy")
    return (heavy.args or (item.nodeid,))[0] if heavy else None


class Share:
    """Runs one of several shares of the tests that have a group, and all others; a group is in one share."""

    def __init__(self, which, count, group):
        self.which, self.count, self.group = which, count, group

    def pytest_collection_modifyitems(self, config, items):
        numbers, chosen, others = {None: self.which}, [], []
        for item in items:
            number = numbers.setdefault(self.group(item), len(numbers) - 1)
            (chosen if number % self.count == self.which else others).append(item)
        items[:] = chosen
        config.hook.pytest_deselected(items=others)
