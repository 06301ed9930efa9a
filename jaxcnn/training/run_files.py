"""The files of a run folder: JSON with a checksum, and errors that name the file."""

import contextlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxcnn.files import written_whole
from jaxcnn.text import printable

RESTORE = "restore the file from a copy, or start a new run"
"""What to do about a damaged file; the end of messages."""


class RunFolderError(ValueError):
    """A path is not a run folder, or its files are damaged, were edited, belong to another run or cannot be written."""


@contextlib.contextmanager
def writing_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns the system's errors of writing into `RunFolderError`."""
    try:
        yield
    except OSError as error:
        raise RunFolderError(
            f"cannot write to the run folder {printable(path)}: {error.strerror or error}; check the free space and "
            "the permissions"
        ) from error


@contextlib.contextmanager
def reading_errors(file: Path) -> Iterator[None]:
    """Turns the system's errors of reading into `RunFolderError`."""
    try:
        yield
    except OSError as error:
        raise RunFolderError(f"cannot read {printable(file)}: {error.strerror or error}") from error


def read_json(file: Path) -> dict[str, Any]:
    """Reads a JSON object from a file."""
    with reading_errors(file):
        content = file.read_bytes()
    return parse_json(content, file)


def parse_json(content: bytes, where: Path | str) -> dict[str, Any]:
    """Parses a JSON object; `where` names it in messages."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"expected JSON in {printable(where)}, got: {error}; {RESTORE}") from error
    if not isinstance(value, dict):
        raise RunFolderError(f"expected a JSON object in {printable(where)}, got {value!r:.40}; {RESTORE}")
    return value


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON object into a file, whole or not at all."""
    with written_whole(file) as opened:
        opened.write((json.dumps(content, indent=2) + "\n").encode())


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Adds a checksum of the content."""
    return {**content, "checksum": _checksum(content)}


def verified(content: dict[str, Any], where: Path | str) -> dict[str, Any]:
    """Checks and removes the checksum."""
    rest = {name: value for name, value in content.items() if name != "checksum"}
    if content.get("checksum") != _checksum(rest):
        raise RunFolderError(
            f"expected the content that jaxcnn wrote to {printable(where)}, got an edited or damaged one: its checksum "
            f"does not match; {RESTORE}"
        )
    return rest


def _checksum(content: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(content, sort_keys=True).encode()):08x}"
