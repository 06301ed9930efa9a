"""Keeps compiled programs in files, so that the next process does not compile them again."""

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import filelock
import jax

from jaxcnn.files import cache_folder
from jaxcnn.ops.lowering.native.build import describe_processor

_LOG = logging.getLogger("jaxcnn")

_DEFAULTS = {"jax_compilation_cache_max_size": -1, "jax_persistent_cache_min_compile_time_secs": 1.0}
"""Values of JAX's settings that nobody has set."""

_MOST_PROGRAMS = 4000
"""JAX looks at each kept program when it writes another: a tenth of a second for so many."""

_PATIENCE = 2.0
"""Seconds to wait for another process that reads or writes a program."""


def enable_compilation_cache(
    folder: str | os.PathLike[str] | None = None, *, max_bytes: int | None = 2**29
) -> Path | None:
    """Keeps the programs that this process compiles from now on, and reads those that earlier processes kept.

    It sets up JAX's persistent compilation cache, which compares the program, the versions and the options: results are
    the same to the last bit. Programs that call back into Python are not kept. What the user has set stays: JAX's
    settings, by `jax.config` or by environment variables such as JAX_COMPILATION_CACHE_DIR. The environment variable
    JAXCNN_COMPILATION_CACHE=0 turns this function off.

    A new folder is private to the user, since anyone who can write to it can make this process run code.

    Args:
      folder: where to keep them; each kind of processor has a folder in it. "programs" in
        `jaxcnn.files.cache_folder()` if None.
      max_bytes: bound of the size of all kept programs, in bytes, at least 1; the least recently used ones are
        removed. No bound if None.

    Returns:
      The folder in which programs are kept, which may be one that was set before; None if they are not kept, because
      this is turned off or the folder cannot be written. Then a warning of the logger "jaxcnn" says why.

    Raises:
      ValueError: `max_bytes` is less than 1.
    """
    if max_bytes is not None and max_bytes < 1:
        raise ValueError(f"max_bytes expects a number of bytes, at least 1, or None for no bound, got {max_bytes}")
    if os.environ.get("JAXCNN_COMPILATION_CACHE") == "0" or not _setting("jax_enable_compilation_cache"):
        return None
    if (given := _setting("jax_compilation_cache_dir")) is not None:
        return Path(given) if given else None
    try:
        parent = cache_folder() / "programs" if folder is None else Path(folder)
        programs = parent.absolute() / _processor_name()
        programs.mkdir(mode=0o700, parents=True, exist_ok=True)
        _tidy(programs)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder.
        _LOG.warning(
            "compiled programs are not kept for the next start: %s; set JAXCNN_CACHE_DIR to a folder that can be "
            "written, or JAXCNN_COMPILATION_CACHE=0",
            error,
        )
        return None
    wanted = {
        "jax_compilation_cache_max_size": -1 if max_bytes is None else max_bytes,
        # Keep small programs too: those that draw the parameters take a second or two together.
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    for name, value in wanted.items():
        if name.upper() not in os.environ and _setting(name) == _DEFAULTS[name]:
            jax.config.update(name, value)
    jax.config.update("jax_compilation_cache_dir", str(programs))
    return programs


def _setting(name: str) -> Any:
    return getattr(jax.config, name)


def _processor_name() -> str:
    """Names the kind of processor, since a kept program has machine code for it."""
    return hashlib.sha256(describe_processor().encode()).hexdigest()[:16]


def _tidy(programs: Path) -> None:
    """Removes what a killed process has left, which JAX stumbles over at every write, and all but the newest programs.

    A program is two files: the code, "KEY-cache", and then the time of its last use, "KEY-atime".
    """
    try:
        with filelock.FileLock(programs / ".lockfile", timeout=_PATIENCE):  # JAX's own lock
            codes, times = (
                {path.name.removesuffix(suffix) for path in programs.glob(f"*{suffix}")}
                for suffix in ("-cache", "-atime")
            )
            by_use = sorted(codes & times, key=lambda key: _last_use(programs, key))
            for key in (codes ^ times).union(by_use[:-_MOST_PROGRAMS]):
                for suffix in ("-cache", "-atime"):
                    (programs / (key + suffix)).unlink(missing_ok=True)
    except filelock.Timeout:
        pass  # The next start tidies.


def _last_use(programs: Path, key: str) -> int:
    return int.from_bytes((programs / f"{key}-atime").read_bytes(), "little")
