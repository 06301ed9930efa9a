"""Classified pictures, in a folder for each class."""

import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxcnn.data.pictures import EXTENSIONS
from jaxcnn.data.sources.parts import part_folders, visible_entries
from jaxcnn.data.sources.picture_files import PictureFiles, left_out
from jaxcnn.data.sources.picture_index import Listed, examine, listed


def image_folder(
    path: str | os.PathLike[str],
    *,
    channels: int = 3,
    skip_bad: bool = False,
    class_names: Sequence[str] | None = None,
) -> PictureFiles | dict[str, PictureFiles]:
    """Reads classified pictures from a folder for each class.

        path/cat/one.jpg   path/dog/two.png   path/dog/more/three.webp

    Or these folders are in `path/train`, and in `path/val` (or `valid`, `validation`) and `path/test` if there are such
    parts. The name of a folder is the name of its class; the classes are sorted by name, in the order of Unicode. All
    files below it, at any depth, are its examples, sorted too: JPEG, PNG, GIF, BMP, TIFF, WebP and PPM, whatever their
    extension. Links are followed, except to a folder that the link itself is in. Hidden files and folders are left out,
    and so are files beside the folders of the classes that are no pictures, such as a README.

    The first time, the header of every file is read, later only those of files that have changed; see
    `jaxcnn.data.sources.picture_index`. No picture is decoded before it is asked for.

    Args:
      path: the folder.
      channels: 1 reads the pictures as grey, 3 as red, green and blue, whatever they are.
      skip_bad: leave out files that are no pictures. Each file is decoded once then, the first time, so that no damaged
        pixels are found in the middle of a training; `faults` of the result has a line for each.
      class_names: the classes in another order; a class may have no folder. None: the folders.

    Returns:
      The examples, with "image", uint8, and "label"; or parts of them by name, "train" and what else is there.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: a file is no picture, there are fewer than two classes, a class has no pictures to train with, or the
        folders are neither classes nor parts. The message names them.
      ImportError: Pillow is not installed.
    """
    root = Path(path)
    if channels not in (1, 3):
        raise ValueError(f"image_folder expects 1 or 3 channels, got {channels}")
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {os.fspath(path)!r}; expected one with a folder for each class")
    parts = _part_folders(root)
    classes = {part: _class_folders(folder) for part, folder in parts.items()}
    names = _class_names(root, classes, class_names)
    numbers = {name: number for number, name in enumerate(names)}
    files: dict[str, list[tuple[int, Listed]]] = {
        part: sorted(
            (number, file)
            for number, folder in ((numbers[name], folder) for name, folder in folders.items())
            for file in _files_below(parts[part] / folder, f"{folder}/", _identities(parts[part]))
        )
        for part, folders in classes.items()
    }
    sources = {}
    for part, folder in parts.items():
        own = [file for _, file in files[part]]
        found = examine(folder, folder, own, pixels=skip_bad)
        kept, faults = left_out(folder, found, skip_bad=skip_bad)
        labels = np.array([files[part][i][0] for i in kept], np.int32)
        _check_labels(folder, part, labels, names if class_names is None else ())
        sources[part] = PictureFiles(
            str(folder),
            tuple(own[i].name for i in kept),
            {"label": labels},
            names,
            channels,
            found.sizes[kept],
            found.digests[kept],
            faults,
        )
    return sources["train"] if parts == {"train": root} else sources


def _part_folders(root: Path) -> dict[str, Path]:
    """Returns the folders that hold those of the classes, by the name of the part."""
    parts = part_folders(root)
    if not parts:
        return {"train": root}
    known = {folder.name for folder in parts.values()}
    others = sorted(entry.name for entry in visible_entries(root) if entry.name not in known and os.path.isdir(entry))
    if others:
        raise ValueError(
            f"expected a folder for each part in {os.fspath(root)!r}, train, val and test, or one for each class, got "
            f"both: {', '.join(map(repr, others[:5]))} beside a folder of training pictures; move or rename them"
        )
    return parts


def _class_folders(folder: Path) -> dict[str, str]:
    """Returns the names of the folders of the classes by the names of the classes."""
    entries = list(visible_entries(folder))
    loose = sorted(
        entry.name for entry in entries if Path(entry.name).suffix.lower() in EXTENSIONS and not os.path.isdir(entry)
    )
    around = _identities(folder)
    folders = sorted(entry.name for entry in entries if os.path.isdir(entry) and _identity(entry) not in around)
    if loose:
        raise ValueError(
            f"expected pictures only in the folders of their classes in {os.fspath(folder)!r}, got {loose[0]!r}"
            + (f" and {len(loose) - 1:,} more beside them" if len(loose) > 1 else " beside them" if folders else "")
            + "; move them into a folder for each class, or name the folder above if this is the folder of one class"
        )
    classes: dict[str, str] = {}
    for name in folders:
        # Some systems spell an accented letter with one character, others with two.
        spelling = unicodedata.normalize("NFC", name)
        if spelling in classes:
            raise ValueError(
                f"expected one folder for each class in {os.fspath(folder)!r}, got two with the name {spelling!r}, "
                "which differ only in how their characters are coded; join them"
            )
        classes[spelling] = name
    if not classes:
        raise ValueError(f"expected a folder of pictures for each class in {os.fspath(folder)!r}, got no folder")
    return classes


def _class_names(root: Path, classes: dict[str, dict[str, str]], class_names: Sequence[str] | None) -> tuple[str, ...]:
    found = sorted({name for folders in classes.values() for name in folders})
    if class_names is None:
        if len(found) < 2:
            raise ValueError(
                f"expected at least two classes in {os.fspath(root)!r}, got only the folder {found[0]!r}; a classifier "
                "needs something to tell apart"
            )
        return tuple(found)
    if unknown := [name for name in found if name not in class_names]:
        raise ValueError(
            f"expected the classes {', '.join(map(repr, class_names))} in {os.fspath(root)!r}, got unknown "
            f"{', '.join(map(repr, unknown))}; rename the folders, or remove them"
        )
    return tuple(class_names)


def _check_labels(folder: Path, part: str, labels: np.ndarray, needed: Sequence[str]) -> None:
    """Refuses a part without pictures, and classes that have none to train with."""
    if not len(labels):
        raise ValueError(f"expected pictures in {os.fspath(folder)!r}, got none; add some, or remove the folder")
    counts = np.bincount(labels, minlength=len(needed))
    missing = [name for name, count in zip(needed, counts, strict=False) if not count]
    if part == "train" and missing:
        raise ValueError(
            f"expected pictures of every class in {os.fspath(folder)!r}, got none of "
            f"{', '.join(map(repr, missing))}; add some, or remove the folder everywhere"
        )


def _files_below(folder: Path, prefix: str, around: frozenset[tuple[int, int]]) -> Iterator[Listed]:
    """Yields the files below a folder; no hidden ones, and those of a link to a folder around it neither.

    Args:
      folder: the folder.
      prefix: of the names.
      around: identities of the folders that it is in.
    """
    around = around | {_identity(folder)}
    for entry in visible_entries(folder):
        try:
            is_folder = entry.is_dir()
            status = None if is_folder else entry.stat()
        except OSError as error:  # a link to nothing, or to itself
            yield Listed(prefix + entry.name, 0, 0, 0, f"which cannot be read: {error.strerror}")
            continue
        if status is not None:
            yield listed(prefix + entry.name, status)
        elif not entry.is_symlink() or _identity(entry) not in around:
            yield from _files_below(Path(entry.path), f"{prefix}{entry.name}/", around)


def _identities(folder: Path) -> frozenset[tuple[int, int]]:
    return frozenset(map(_identity, (folder, *Path(os.path.realpath(folder)).parents)))


def _identity(path: str | os.PathLike[str]) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
