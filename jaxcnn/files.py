"""Writes files atomically, locks them, and knows the folder of caches."""

import contextlib
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

_LOCKED_BYTE = 1024


class LockedError(Exception):
    """Another process holds a lock.

    Attributes:
      holder: number of that process.
    """

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"process {holder} holds the lock {str(path)!r}")
        self.holder = holder


def cache_folder() -> Path:
    """Returns the folder for files that can be made again.

    It is that of the environment variable JAXCNN_CACHE_DIR, `$XDG_CACHE_HOME/jaxcnn`, or `~/.cache/jaxcnn`.
    """
    if folder := os.environ.get("JAXCNN_CACHE_DIR"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxcnn"


@contextlib.contextmanager
def locked(path: str | os.PathLike[str], *, patience: float = 0.0) -> Iterator[None]:
    """Holds a lock while the block runs. The system releases it when the process ends, however it ends.

    Args:
      path: file of the lock, in an existing folder; it is created and not removed.
      patience: seconds to wait for another process.

    Raises:
      LockedError: another process holds the lock.
      OSError: the file cannot be written, or its file system has no locks.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        deadline = time.monotonic() + patience
        while not _hold(lock):
            if time.monotonic() >= deadline:
                os.lseek(lock, 0, os.SEEK_SET)
                holder = os.read(lock, 20).decode(errors="replace").strip()
                raise LockedError(Path(path), holder)
            time.sleep(0.1)
        os.lseek(lock, 0, os.SEEK_SET)
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
        yield
    finally:
        os.close(lock)


def _hold(lock: int) -> bool:
    """Locks an open file until it is closed; returns False if another process holds it."""
    try:
        try:
            import fcntl
        except ImportError:  # Windows, where nobody else can read the locked byte: it is one after the text.
            import msvcrt

            os.lseek(lock, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(lock, msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
        else:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def check_target(path: str | os.PathLike[str]) -> Path:
    """Refuses a path that cannot be written to. Call it before long work whose result goes to the file.

    The path must be new or a regular file: a rename onto a device or a pipe would remove it for every program that uses
    it. A symbolic link is kept; its target is written.

    Args:
      path: the file to write.

    Returns:
      The path with all symbolic links resolved.

    Raises:
      FileNotFoundError: the folder does not exist.
      IsADirectoryError: the path is a folder.
      FileExistsError: the path exists and is neither a folder nor a regular file.
      PermissionError: the folder or the file is write-protected.
    """
    target = Path(os.path.realpath(path))
    name = repr(os.fspath(path)) if os.path.abspath(path) == str(target) else f"{os.fspath(path)!r} ({str(target)!r})"
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        mode = None
    if mode is not None and stat.S_ISDIR(mode):
        raise IsADirectoryError(f"expected a file to write, got the folder {name}; give the name of a file")
    # A link in /proc can lead to an open file that was deleted and has no name.
    if mode is not None and not (stat.S_ISREG(mode) and target.exists()):
        kind = _KINDS.get(stat.S_IFMT(mode), "a file without a name")
        raise FileExistsError(f"expected a new name or a regular file to write, got {name}, which is {kind}")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"the folder of {name} does not exist; create it first")
    if not os.access(target.parent, os.W_OK | os.X_OK) or (mode is not None and not os.access(target, os.W_OK)):
        raise PermissionError(f"expected a file that can be written, got {name}, which is write-protected")
    return target


@contextlib.contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a file for atomic writing: it gets its name when the block succeeds and is deleted when the block fails.

    The data go to a temporary file in the same folder, which is flushed to disk and then renamed. So `path` always
    holds the older file or the complete new one. The permissions of an older file are kept.

    Args:
      path: the file to write: a new name or a regular file in an existing folder, or a link to one.

    Yields:
      The file, open for binary writing.

    Raises:
      OSError: as in `check_target`, or the disk is full.
    """
    target = check_target(path)
    # `tempfile` is not used: only the owner may read the files that it creates.
    temporary = target.with_name(f".{target.name[:50]}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield cast(BinaryIO, file)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
        sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file atomically, in UTF-8.

    Args:
      path: the file, as for `written_whole`; an older file is replaced.
      text: its contents.

    Raises:
      OSError: as in `written_whole`.
      UnicodeEncodeError: the text holds a lone surrogate.
    """
    with written_whole(path) as file:
        file.write(text.encode())


def sync_folder(folder: Path) -> None:
    """Flushes the names of a folder's files to disk on systems that can open folders.

    Args:
      folder: the folder.
    """
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
