"""Files written whole or not at all."""

import contextlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_target(path: str | os.PathLike[str]) -> Path:
    """Refuses a path that no file can be written to, before the work for it is done.

    Only a new name or a regular file can be written: what replaces a device or a pipe would take it from all programs
    that use it. A symbolic link stays, and what it points to is written.

    Args:
      path: where a file is to be.

    Returns:
      The path that all symbolic links lead to.

    Raises:
      FileNotFoundError: the folder is not there.
      IsADirectoryError: there is a folder of that name.
      FileExistsError: there is something else that is not a regular file.
      PermissionError: the folder or the file must not be written.
    """
    target = Path(os.path.realpath(path))
    name = repr(os.fspath(path)) if os.path.abspath(path) == str(target) else f"{os.fspath(path)!r} ({str(target)!r})"
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        mode = None
    if mode is not None and stat.S_ISDIR(mode):
        raise IsADirectoryError(f"expected a file to write, got the folder {name}; give the name of a file")
    # Without a name are the open files in /proc that were deleted.
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
    """Opens a file for writing that takes its name when the block ends well, and leaves nothing when it does not.

    It is written beside `path`, brought to the disk and renamed, so that `path` always holds the older file or the
    complete new one. An older file's permissions are kept.

    Args:
      path: where the file is to be; a new name or a regular file in a folder that exists, or a link to one.

    Yields:
      The file, open for binary writing.

    Raises:
      OSError: as in `check_target`, or the disk is full.
    """
    target = check_target(path)
    # Not by tempfile, whose files only their owner may read.
    temporary = target.with_name(f".{target.name[:50]}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield cast(BinaryIO, file)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
        _sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Brings a rename to the disk, where the system can open folders."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
