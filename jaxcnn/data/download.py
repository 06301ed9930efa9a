"""Downloads published files: checked, and resumed where an earlier download stopped."""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with the name of a file, the bytes that are there, and its size."""

_ATTEMPTS = 4
"""Connections that are made for a file. Each goes on where the one before it stopped."""

_TIMEOUT = 30.0
"""Seconds without a byte, after which a connection has failed."""

_CHUNK = 1 << 20


class DownloadError(OSError):
    """A file cannot be downloaded. The message names the file and what was received."""


class PublishedFile(NamedTuple):
    """A file on the web, as its publisher describes it.

    Attributes:
      url: its address.
      size: in bytes.
      sha256: of its bytes, hexadecimal.
    """

    url: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rpartition("/")[2]


def download(published: PublishedFile, folder: str | os.PathLike[str], progress: Progress | None = None) -> Path:
    """Downloads a file, or finds it in the folder.

    What arrives is kept in NAME.part until it is whole and has the right checksum. Call it in one process at a time.

    Args:
      published: the file.
      folder: an existing folder.
      progress: is told after each part.

    Returns:
      The path of the file, whose checksum is right.

    Raises:
      DownloadError: the server cannot be reached, has no such file, or sends another one.
      OSError: the disk is full, or the folder cannot be written.
    """
    target = Path(folder, published.name)
    part = target.with_name(target.name + ".part")
    if target.is_file() and _difference(target, published) is None:
        return target
    resumed = part.exists()
    _receive(published, part, progress)
    difference = _difference(part, published)
    if difference is not None and resumed:  # the beginning may be of an older file
        part.unlink()
        _receive(published, part, progress)
        difference = _difference(part, published)
    if difference is not None:
        part.unlink()
        raise DownloadError(f"{published.url} is not the file that was published: {difference}; it was removed")
    os.replace(part, target)
    return target


def check_published(path: str | os.PathLike[str], published: PublishedFile) -> None:
    """Refuses a file that is not the published one.

    Args:
      path: the file.
      published: what it should be.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the size or the checksum differs.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"there is no file {os.fspath(path)!r}; expected {published.name}, from {published.url}"
        )
    difference = _difference(path, published)
    if difference is not None:
        raise ValueError(f"expected {published.name} as {published.url} has it, got {os.fspath(path)!r}: {difference}")


def _difference(path: str | os.PathLike[str], published: PublishedFile) -> str | None:
    size = os.path.getsize(path)
    if size != published.size:
        return f"expected {published.size:,} bytes, got {size:,}"
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return None if digest == published.sha256 else f"expected sha256 {published.sha256}, got {digest}"


class _InterruptedError(Exception):
    """A connection failed; another attempt may succeed."""


def _receive(published: PublishedFile, part: Path, progress: Progress | None) -> None:
    """Receives the rest of a file, in several connections if need be."""
    reason = ""
    for _ in range(_ATTEMPTS):
        try:
            _connect(published, part, progress)
        except _InterruptedError as error:
            reason = str(error)
            continue
        if _size(part) >= published.size:
            return
        reason = "the connection ended early"
    raise DownloadError(
        f"the download of {published.url} failed: {reason}; {_size(part):,} of {published.size:,} bytes are kept in "
        f"{str(part)!r}: try again, which goes on from there"
    )


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _connect(published: PublishedFile, part: Path, progress: Progress | None) -> None:
    """Appends to a file what one connection sends of the rest."""
    have = _size(part)
    if have == published.size:
        return
    request = urllib.request.Request(published.url, headers={"User-Agent": "jaxcnn"})
    if 0 < have < published.size:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()
        elif error.code < 500:  # asking again would not help
            raise DownloadError(f"{published.url} cannot be downloaded: {error.code} {error.reason}") from error
        raise _InterruptedError(f"{error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _InterruptedError(str(getattr(error, "reason", error)) or type(error).__name__) from error
    with response:
        # A server that does not know ranges sends the whole file.
        resumes = response.status == http.HTTPStatus.PARTIAL_CONTENT
        if resumes and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink(missing_ok=True)
            raise _InterruptedError("the server sent another range than asked for")
        try:
            with open(part, "ab" if resumes else "wb") as file:
                _copy(response, file, published, progress)
        except OSError as error:
            raise OSError(
                f"cannot write {str(part)!r}: {error.strerror or error}; check the free space and the permissions"
            ) from error


def _copy(
    response: http.client.HTTPResponse, file: BinaryIO, published: PublishedFile, progress: Progress | None
) -> None:
    # Nothing beyond the published size is stored. read1 gives what has arrived, also before a connection breaks.
    while file.tell() <= published.size:
        try:
            chunk = response.read1(min(_CHUNK, published.size + 1 - file.tell()))
        except (OSError, http.client.HTTPException) as error:
            raise _InterruptedError(str(error) or type(error).__name__) from error
        if not chunk:
            return
        file.write(chunk)
        if progress is not None:
            progress(published.name, file.tell(), published.size)
