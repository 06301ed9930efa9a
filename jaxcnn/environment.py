"""Describes the environment of a measurement: versions, processor, other programs, commit."""

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

_MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Files in which Linux tells the limit of a container, of control groups of version 2 and 1."""


def versions(*packages: str) -> dict[str, str]:
    """Lists the versions of Python and of packages.

    Args:
      *packages: names of distributions, such as "jax".

    Returns:
      The versions by name, "python" first; "not installed" for a package that is not.
    """
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def usable_cores() -> int:
    """Counts the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """Returns the memory that this process may use: that of the computer, or less in a container with a limit.

    8 GB where the system does not tell.
    """
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 8 * 10**9
    for limit in _MEMORY_LIMITS:
        # "max" where there is no limit; a number of 2**63 or so in older systems.
        with contextlib.suppress(OSError, ValueError):
            memory = min(memory, int(limit.read_text()))
    return memory


class OtherWork:
    """Measures how many CPU cores other programs keep busy: a context manager that sets `cores` at its end.

    Attributes:
      cores: the mean number of cores that other programs used within the block; None on systems without /proc/stat.
        This process and its children that have ended do not count.
    """

    cores: float | None = None

    def __enter__(self) -> Self:
        self._started, self._before = time.monotonic(), _others_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        after, elapsed = _others_seconds(), time.monotonic() - self._started
        if after is not None and self._before is not None and elapsed > 0:
            self.cores = max(after - self._before, 0.0) / elapsed


def _others_seconds() -> float | None:
    """Returns the CPU seconds that all programs but this one and its ended children have used since the start."""
    try:
        counts = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _, _, interrupts, soft_interrupts, stolen = (int(count) for count in counts[:8])
    busy = (user + nice + system + interrupts + soft_interrupts + stolen) / os.sysconf("SC_CLK_TCK")
    return busy - sum(os.times()[:4])


def processor() -> str:
    """Names the CPU, as the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str | None:
    """Names the commit of the library, with "+changes" if its files differ; None if it is not a git checkout."""
    git = ["git", "-C", str(Path(sys.modules["jaxcnn"].__file__ or "").parent)]
    try:
        name, changes = (
            subprocess.run([*git, *words], capture_output=True, text=True, check=True).stdout.strip()
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--", "."))
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return name + ("+changes" if changes else "")
