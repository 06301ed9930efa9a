"""Reads images and labels from .npz files."""

import math
import os
import zipfile

import numpy as np

from jaxcnn.data.sources.arrays import Arrays, arrays, check_counts


def load_npz(path: str | os.PathLike[str]) -> Arrays:
    """Reads images and labels from an .npz file, as `numpy.savez(path, images=images, labels=labels)` writes it.

    Nothing is unpickled, so an untrusted file cannot run code. Other arrays in the file are ignored.

    Args:
      path: a file with the arrays 'images' and 'labels', as in `arrays`. If the labels are strings, the classes are
        the distinct labels in sorted order. An optional array 'class_names' of strings names the classes, as in
        `arrays`; for labels that are strings, it sets their order.

    Returns:
      The source, with "image" and "label".

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is not an .npz file, is damaged or lacks an array, or `arrays` refuses a value or a dtype.
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"there is no file {path!r}; expected an .npz file with 'images' and 'labels'")
    # Reading from a pipe or a device may never end.
    if not os.path.isfile(path) or not zipfile.is_zipfile(path):
        raise ValueError(f"{path!r} is not an .npz file; write one with numpy.savez(path, images=..., labels=...)")
    try:
        found, others = _read_arrays(path, "images", "labels", "class_names")
    # On damaged files the decoders of zip, deflate and NumPy raise many kinds of exceptions.
    except Exception as error:
        raise ValueError(
            f"{path!r} has an array that cannot be read ({str(error)[:200]}); write the file again"
        ) from error
    for name in ("images", "labels"):
        if name not in found:
            raise ValueError(f"{path!r} has no array {name!r}, only {[*found, *others]}; add it with numpy.savez")
    try:
        return classified(found["images"], found["labels"], found.get("class_names"))
    except MemoryError as error:
        raise ValueError(f"{path!r} holds arrays that do not fit into memory; split the file") from error
    # Strings may hold invalid characters.
    except (ValueError, TypeError, SystemError) as error:
        raise ValueError(f"{path!r}: {error}") from error


def _read_arrays(path: str, *names: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """Reads the known arrays of an .npz file, checks their sizes, and lists the names of the others."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        for name in names:
            if name not in entries:
                continue
            entry = entries[name]
            with archive.open(entry) as file:
                version = np.lib.format.read_magic(file)
                read_header = (
                    np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = read_header(file)
                if dtype.hasobject:
                    raise ValueError(f"{name!r} holds pickled Python objects, which are not read")
                if dtype.itemsize == 0:
                    raise ValueError(f"{name!r} holds values of no bytes, which a file may claim any number of")
                if min((*shape, 0)) < 0 or math.prod(shape) * dtype.itemsize != entry.file_size - file.tell():
                    raise ValueError(f"the size of {name!r} does not match its shape {shape}")
    with np.load(path, allow_pickle=False) as file:
        found = {name: file[entries[name].filename] for name in names if name in entries}
    return found, sorted(entries.keys() - set(names))[:10]


def classified(images: np.ndarray, labels: np.ndarray, class_names: np.ndarray | None) -> Arrays:
    """Makes a source from images and from labels that are numbers or strings, as `load_npz` explains.

    Args:
      images: as in `arrays`.
      labels: one for each image, shape (examples,).
      class_names: the names of the classes; None for those of the labels.

    Returns:
      The source, with "image" and "label".

    Raises:
      ValueError: a label is not among the names, or `arrays` refuses a value.
      TypeError: `arrays` refuses a dtype.
    """
    names = None if class_names is None else _as_text(class_names).tolist()
    if labels.dtype.kind not in "US" or labels.ndim != 1:
        return arrays(image=images, label=labels, class_names=names)
    if images.ndim:
        # Strings take far more memory than the bytes of a file.
        check_counts(images, labels)
    texts = _as_text(labels)
    names = sorted(set(texts.tolist())) if names is None else names
    numbers = {name: number for number, name in enumerate(names)}
    unknown = [text for text in texts.tolist() if text not in numbers]
    if unknown:
        raise ValueError(f"labels must be among class_names, got {unknown[0]!r}; the names are {names[:10]}")
    label = np.array([numbers[text] for text in texts.tolist()], np.int32)
    return arrays(image=images, label=label, class_names=names)


def _as_text(array: np.ndarray) -> np.ndarray:
    """Returns strings; decodes bytes as UTF-8."""
    return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array.astype(str)
