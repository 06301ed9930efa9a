"""Builds the C++ kernels with the system's compiler, once for each version and processor, and registers them."""

import contextlib
import ctypes
import functools
import logging
import os
import platform
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib

from jaxcnn.files import LockedError, cache_folder, locked
from jaxcnn.ops.lowering.native import variants

_LOG = logging.getLogger("jaxcnn")

_TARGETS = (
    "jaxcnn_convolve",
    "jaxcnn_input_gradient",
    "jaxcnn_kernel_gradient",
    "jaxcnn_moments",
    "jaxcnn_own_moments",
)
# What the log says of each library, and how loudly: a user who waits for long must see why.
_BUILDS = {
    "kernels": (logging.WARNING, "convolutions", "about 15 seconds"),
    "resample": (logging.INFO, "pictures", "a second or two"),
}
# The lines of /proc/cpuinfo that describe a processor, on x86 and on ARM.
_PROCESSOR = ("vendor_id", "cpu family", "model", "flags", "CPU implementer", "CPU variant", "CPU part", "Features")
# Timeout of a build in seconds; a build takes about 15.
_PATIENCE = 300.0


@functools.cache
def ready() -> bool:
    """Loads the kernels of the package; where it has none for this processor, builds them first.

    The environment variable JAXCNN_NATIVE=0 turns them off, CXX names the compiler, optionally with arguments
    (`CXX="ccache g++"`), and JAXCNN_CACHE_DIR the folder to keep them in (see `jaxcnn.files.cache_folder`). A
    damaged library in that folder is built again. With JAXCNN_LARGE_PAGES=0 they never ask for large pages, with 1 at
    once (pages.h).

    Returns:
      Whether they can be used. If not, a warning of the logger "jaxcnn" says why, once. Another announces a build.
    """
    if os.environ.get("JAXCNN_NATIVE") == "0":
        return False
    try:
        library = _library("kernels", _TARGETS)
        for target in _TARGETS:
            jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(library, target)), platform="cpu")
    except (OSError, RuntimeError) as error:
        _LOG.warning("convolutions on CPU run without the C++ kernels of jaxcnn, and slower: %s", error)
        return False
    return True


@functools.cache
def reads(dtype: Any) -> bool:
    """Tells whether the kernels read and write numbers of a dtype, and loads them first; `ready` must be true.

    Args:
      dtype: of the images. bfloat16 is read everywhere, float16 where the processor converts it.
    """
    if dtype == jnp.float16:
        return ctypes.c_bool.in_dll(_library("kernels", _TARGETS), "jaxcnn_reads_float16").value
    return dtype in (jnp.bfloat16, jnp.float32, jnp.float64)


@functools.cache
def resampler() -> Any:
    """Loads the function that resizes pictures of 8 bits, and builds it first if necessary, in a second.

    Returns:
      The function `jaxcnn_resample` of resample.cc; None if it cannot be built, or is turned off as the kernels are.
    """
    if os.environ.get("JAXCNN_NATIVE") == "0":
        return None
    try:
        function = _library("resample", ("jaxcnn_resample",)).jaxcnn_resample
    except (OSError, RuntimeError) as error:
        _LOG.info("pictures are resized by Pillow, slower than by the C++ of jaxcnn: %s", error)
        return None
    number, array = ctypes.c_int, ctypes.c_void_p
    function.argtypes = (array, ctypes.c_int64, number, number, ctypes.c_float * 4, array, number, number)
    function.restype = None
    return function


@functools.cache
def _library(name: str, functions: tuple[str, ...]) -> ctypes.CDLL:
    library = ctypes.CDLL(str(_packaged(name) or _built(_compiler(), cache_folder(), name)))
    if missing := [function for function in functions if not hasattr(library, function)]:
        raise BuildError(f"the library that was built lacks {', '.join(missing)}; is CXX a C++ compiler?")
    return library


def _packaged(name: str, folder: Path = variants.BUILT) -> Path | None:
    """Returns the best library of the package for this processor; None if the package has none that can be used.

    One of other sources is not used, nor a damaged one, nor one for an interface that this version of jax lacks.
    """
    try:
        installed = variants.interface(Path(jax.ffi.include_dir()))
    except (OSError, ValueError):
        return None
    for variant in variants.best(_features()):
        for library in sorted(folder.glob(f"{name}-{variant.name}-ffi*.so")):
            version = variants.version_of(library)
            # XLA takes what was built for an older minor version.
            fits = version[0] == installed[0] and version[1] <= installed[1]
            if fits and variants.is_sound(library, variants.key(library.name)):
                return library
    return None


class BuildError(RuntimeError):
    """The kernels cannot be built here."""


def _compiler() -> tuple[str, ...]:
    """Returns the command of the compiler: its path and the arguments in CXX."""
    given = os.environ.get("CXX", "").strip()
    names = [given] if given else ["c++", "g++", "clang++"]
    for name in names:
        try:
            words = [name] if shutil.which(name) else shlex.split(name)
        except ValueError as error:
            raise BuildError(f"CXX expects a C++ compiler, optionally with arguments, got {name!r}: {error}") from None
        if path := shutil.which(words[0]):
            return path, *words[1:]
    raise BuildError(f"no C++ compiler found (looked for {', '.join(names)}); install one, or name it in CXX")


def _built(compiler: tuple[str, ...], folder: Path, name: str = "kernels") -> Path:
    """Returns a library, building it if it is missing or damaged. Only one process builds at a time."""
    command = variants.command(compiler, name, ("-march=native",))
    key = variants.key(command, jaxlib.version.__version__, describe_processor())
    library = folder / f"{name}-{key.hex()[:16]}.so"
    if variants.is_sound(library, key):
        return library
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        if not variants.is_sound(library, key):
            level, purpose, time = _BUILDS[name]
            note = "building the C++ kernels of jaxcnn in %s (%s); this takes %s, once"
            _LOG.log(level, note, folder, purpose, time)
            source = variants.FOLDER / f"{name}.cc"
            _build([*command, f"-I{jax.ffi.include_dir()}", str(source)], library, key)
    return library


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds the build lock of a folder."""
    if os.name != "posix":
        raise BuildError("they are built on POSIX systems only")
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(folder / "lock", patience=_PATIENCE))
        except LockedError:
            raise BuildError(
                f"another process has been building them in {folder} for {_PATIENCE:g} seconds; stop it, or "
                "set JAXCNN_CACHE_DIR to another folder"
            ) from None
        yield


def _build(command: list[str], library: Path, key: bytes) -> None:
    """Builds a library; the caller holds the lock."""
    work = library.parent / "building"
    # Remove the leftovers of a killed build.
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        output = Path(tempfile.mkdtemp(dir=work)) / library.name
        _run([*command, "-o", str(output)])
        if not output.is_file():
            raise BuildError(f"{shlex.join(command)} left no library; is it a C++ compiler?")
        with output.open("r+b") as file:
            content = file.read()
            file.write(variants.sealed(content, key)[len(content) :])
            file.flush()
            os.fsync(file.fileno())
        # Renamed when it is complete: a build that is stopped leaves nothing that could be loaded.
        output.replace(library)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _run(command: list[str]) -> None:
    """Runs a compiler. Kills its process group on timeout or interrupt."""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    ) as compiler:
        try:
            _, errors = compiler.communicate(timeout=_PATIENCE)
        except BaseException as error:
            os.killpg(compiler.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise BuildError(f"{shlex.join(command)} did not end within {_PATIENCE:g} seconds") from None
            raise
    if compiler.returncode:
        text = errors.decode(errors="backslashreplace")[-2000:]
        text = "".join(character if character.isprintable() or character == "\n" else "?" for character in text)
        raise BuildError(f"{shlex.join(command)} failed with status {compiler.returncode}:\n{text}")


def describe_processor() -> str:
    """Describes the processor to build for: machines of several kinds may share a cache folder."""
    if not (found := _cpuinfo()):
        return f"{platform.machine()} {platform.processor()}"
    return repr([platform.machine(), *(found.get(name) for name in _PROCESSOR)])


def _features() -> set[str]:
    """Returns what the processor can do, as the system names it."""
    return set(_cpuinfo().get("flags", "").split())


def _cpuinfo() -> dict[str, str]:
    """Reads what the system says about the first processor; nothing on systems that say it elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return {}
    return {name.strip(): value for name, _, value in (line.partition(":") for line in reversed(lines))}
