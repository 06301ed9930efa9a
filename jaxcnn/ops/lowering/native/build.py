"""Builds the C++ kernels with the system's compiler, once for each version and processor, and registers them."""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import jax
import jaxlib

_LOG = logging.getLogger("jaxcnn")

_FOLDER = Path(__file__).parent
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-shared", "-w")
_TARGETS = (
    "jaxcnn_convolve",
    "jaxcnn_input_gradient",
    "jaxcnn_kernel_gradient",
    "jaxcnn_moments",
    "jaxcnn_own_moments",
)


@functools.cache
def ready() -> bool:
    """Loads the kernels, after building them where that has not been done.

    The environment variable JAXCNN_NATIVE=0 turns them off, CXX names the compiler, and JAXCNN_CACHE_DIR the folder to
    keep them in (`$XDG_CACHE_HOME/jaxcnn` or `~/.cache/jaxcnn` if not set).

    Returns:
      Whether they can be used. Where they cannot, a warning of the logger "jaxcnn" says why, once.
    """
    if os.environ.get("JAXCNN_NATIVE") == "0":
        return False
    try:
        library = _library()
    except (OSError, RuntimeError) as error:
        _LOG.warning("convolutions on CPU run without the C++ kernels of jaxcnn, and slower: %s", error)
        return False
    for target in _TARGETS:
        jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(library, target)), platform="cpu")
    return True


@functools.cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(str(_built(_compiler(), cache_folder())))


class BuildError(RuntimeError):
    """The kernels cannot be built here."""


def cache_folder() -> Path:
    """Returns the folder that the built kernels are kept in."""
    if folder := os.environ.get("JAXCNN_CACHE_DIR"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxcnn"


def _compiler() -> str:
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    for name in names:
        if path := shutil.which(name):
            return path
    raise BuildError(f"no C++ compiler found (looked for {', '.join(names)}); install one, or name it in CXX")


def _built(compiler: str, folder: Path) -> Path:
    """Returns the shared library, built if it is not there; of several processes at once one builds."""
    sources = sorted(path for path in _FOLDER.iterdir() if path.suffix in (".cc", ".h"))
    digest = hashlib.sha256(repr((_FLAGS, compiler, jaxlib.version.__version__, _processor())).encode())
    for source in sources:
        digest.update(source.read_bytes())
    library = folder / f"kernels-{digest.hexdigest()[:16]}.so"
    if library.exists():
        return library
    try:
        import fcntl
    except ImportError:
        raise BuildError("they are built on POSIX systems only") from None
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            _LOG.info("building the C++ kernels of jaxcnn in %s; this takes some seconds, once", folder)
            _build(compiler, library)
    return library


def _build(compiler: str, library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as work:
        output = Path(work) / library.name
        command = [compiler, *_FLAGS, f"-I{jax.ffi.include_dir()}", str(_FOLDER / "kernels.cc"), "-o", str(output)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BuildError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        # Renamed when it is complete: a build that is stopped leaves nothing behind that could be loaded.
        output.rename(library)


def _processor() -> str:
    """Describes what the compiler builds for: a cache folder may be shared by machines of several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())
