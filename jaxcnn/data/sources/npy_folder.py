"""Reads images and labels from .npy files in a folder."""

import os
from pathlib import Path

import numpy as np

from jaxcnn.data.sources.arrays import Arrays
from jaxcnn.data.sources.npz import classified
from jaxcnn.data.sources.parts import part_folders

IMAGES, LABELS = "images.npy", "labels.npy"
"""Files that such a folder has."""

_CLASS_NAMES = "class_names.npy"


def npy_folder(path: str | os.PathLike[str]) -> Arrays | dict[str, Arrays]:
    """Reads images and labels from a folder of .npy files, as `numpy.save` writes them.

        path/images.npy   path/labels.npy   path/class_names.npy (optional)

    Or these files are in `path/train`, and in `path/val` (or `valid`, `validation`) and `path/test` if there are such
    parts; then `path/class_names.npy` names the classes of all. The arrays are as those of `load_npz`, but they are
    mapped into memory: an image is read from the disk when it is used, so the set may be larger than the memory.
    Nothing is unpickled.

    Args:
      path: the folder. Other files in it are ignored.

    Returns:
      The source, with "image" and "label"; or parts of it by name, "train" and what else is there, whose classes are
      those of the training set unless there are names.

    Raises:
      FileNotFoundError: there is no such folder, or it lacks a file.
      ValueError: a file is no .npy file or is damaged, or `arrays` refuses a value or a dtype.
    """
    root = Path(path)
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing"
        raise FileNotFoundError(
            f"expected a folder with {IMAGES!r} and {LABELS!r}, got {found} at {os.fspath(path)!r}; name the folder"
        )
    class_names = _mapped(root / _CLASS_NAMES) if (root / _CLASS_NAMES).exists() else None
    parts = {} if (root / IMAGES).exists() or (root / LABELS).exists() else part_folders(root)
    if not parts:
        return _read(root, class_names)
    sources = {"train": _read(parts["train"], class_names)}
    names = np.array(sources["train"].class_names)
    return sources | {part: _read(folder, names) for part, folder in parts.items() if part != "train"}


def _read(folder: Path, class_names: np.ndarray | None) -> Arrays:
    images, labels = _mapped(folder / IMAGES), _mapped(folder / LABELS)
    try:
        return classified(images, labels, class_names)
    # Strings may hold invalid characters.
    except (ValueError, TypeError, SystemError) as error:
        raise ValueError(f"{os.fspath(folder)!r}: {error}") from error


def _mapped(path: Path) -> np.ndarray:
    """Maps the array of a file into memory."""
    if not path.exists():
        raise FileNotFoundError(
            f"expected {IMAGES!r} and {LABELS!r} in {os.fspath(path.parent)!r}, got no {path.name!r}; write it with "
            "numpy.save"
        )
    # Reading from a pipe or a device may never end.
    if not path.is_file():
        raise ValueError(f"expected the file of an array, got {os.fspath(path)!r}, which is no file")
    try:
        return np.asarray(np.lib.format.open_memmap(path, mode="r"))
    # On damaged headers NumPy raises many kinds of exceptions.
    except Exception as error:
        raise ValueError(
            f"{os.fspath(path)!r} holds no array that can be mapped into memory ({str(error)[:200]}); write it again "
            "with numpy.save"
        ) from error
