"""The prepared form of a data set: arrays in files that are mapped into memory, with checksums."""

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from jaxcnn.data.sources.source import checksum
from jaxcnn.files import sync_folder

_DESCRIPTION = "set.json"
_SCHEMA = 1


class PreparedError(ValueError):
    """A prepared data set is damaged, or of another version. The message names the folder."""


class Prepared(NamedTuple):
    """A data set as arrays.

    Attributes:
      parts: for each part, its contiguous arrays by name, with the examples as their first axis.
      class_names: the names of the classes, for each array of labels.
    """

    parts: Mapping[str, Mapping[str, np.ndarray]]
    class_names: Mapping[str, tuple[str, ...]]


def write_prepared(folder: Path, data: Prepared) -> None:
    """Writes a data set. The folder gets its name when all is written, so it is never half there.

    The caller holds a lock: what a killed process has left beside the folder is removed.

    Args:
      folder: a folder in an existing one; an older one is replaced.
      data: the data set.

    Raises:
      OSError: the disk is full, or the folder cannot be written.
    """
    for leftover in folder.parent.glob(f".{folder.name}.*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.tmp")
    temporary.mkdir()
    try:
        parts = {}
        for part, entries in data.parts.items():
            parts[part] = checksum(*(piece for name in sorted(entries) for piece in (name, entries[name])))
            for name, array in entries.items():
                with _synced(temporary / f"{part}.{name}.npy") as file:
                    # np.save tells neither the reason nor the file if the disk is full.
                    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
                    file.write(array.data)
        description = {
            "schema": _SCHEMA,
            "entries": {part: sorted(entries) for part, entries in data.parts.items()},
            "checksums": parts,
            "class_names": {name: list(names) for name, names in data.class_names.items()},
        }
        with _synced(temporary / _DESCRIPTION) as file:
            file.write(json.dumps(description, indent=2).encode())
        sync_folder(temporary)
        if folder.exists():
            folder.rename(folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.old.tmp"))
        temporary.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise OSError(
            f"cannot write the data set {str(folder)!r}: {error.strerror or error}; check the free space and the "
            "permissions"
        ) from error
    finally:
        for leftover in folder.parent.glob(f".{folder.name}.*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)


def read_prepared(folder: Path) -> Prepared:
    """Reads a data set, and compares its checksums: about a second for a gigabyte.

    Args:
      folder: the folder.

    Returns:
      The data set; its arrays are mapped into memory, and read-only.

    Raises:
      PreparedError: a file is missing or damaged, or the folder is of another version.
    """
    try:
        description = json.loads((folder / _DESCRIPTION).read_bytes())
        if description["schema"] != _SCHEMA:
            raise ValueError(f"expected version {_SCHEMA}, got {description['schema']}")
        parts = {
            part: {
                name: np.asarray(np.load(folder / f"{part}.{name}.npy", mmap_mode="r", allow_pickle=False))
                for name in names
            }
            for part, names in description["entries"].items()
        }
        for part, entries in parts.items():
            found = checksum(*(piece for name in sorted(entries) for piece in (name, entries[name])))
            if found != description["checksums"][part]:
                raise ValueError(f"the checksum of {part!r} does not match")
        return Prepared(parts, {name: tuple(names) for name, names in description["class_names"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        raise PreparedError(
            f"the data set in {str(folder)!r} is damaged: {error!r:.200}; prepare it again, as by "
            f"`jaxcnn data prepare {folder.name}`"
        ) from error


@contextlib.contextmanager
def _synced(path: Path) -> Iterator[BinaryIO]:
    """Opens a new file for writing, and flushes it to disk at the end."""
    with open(path, "xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
