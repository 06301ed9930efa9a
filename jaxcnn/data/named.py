"""Data sets by name: what `jaxcnn train --data NAME` and `load` read.

A new kind of data is one line in a table here: `NAMES` for a data set, `SCHEMES` for what reads a path or another text.
"""

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jaxcnn.data.download import Progress
from jaxcnn.data.pictures import FitMode, FitPicture
from jaxcnn.data.resizing import resized
from jaxcnn.data.sources import archives
from jaxcnn.data.sources import manifest as manifests
from jaxcnn.data.sources.coco import coco
from jaxcnn.data.sources.digit_scenes import digit_scenes
from jaxcnn.data.sources.digits import digits
from jaxcnn.data.sources.hugging_face import load_hugging_face
from jaxcnn.data.sources.image_folder import image_folder
from jaxcnn.data.sources.manifest import Kind, manifest
from jaxcnn.data.sources.mask_folder import mask_folder
from jaxcnn.data.sources.npy_folder import IMAGES, LABELS, npy_folder
from jaxcnn.data.sources.npz import load_npz
from jaxcnn.data.sources.parts import PARTS, visible_entries
from jaxcnn.data.sources.shapes import shapes
from jaxcnn.data.sources.source import Source, Splits
from jaxcnn.data.sources.tfds import tfds
from jaxcnn.data.sources.voc import voc
from jaxcnn.data.sources.web_dataset import web_dataset
from jaxcnn.data.sources.yolo import yolo

NAMES: dict[str, Callable[[], Source | Splits]] = {
    "digits": digits,
    "digit_scenes": digit_scenes,
    "digit_instances": functools.partial(digit_scenes, labels="instances"),
    "shapes": shapes,
}
"""Data sets that come with packages."""

DOWNLOADED: dict[str, Callable[..., Splits]] = {
    "cifar10": archives.cifar10,
    "cifar100": archives.cifar100,
    "cifar100_coarse": functools.partial(archives.cifar100, labels="coarse"),
    "mnist": archives.mnist,
    "fashion_mnist": archives.fashion_mnist,
    "emnist_digits": archives.emnist_digits,
    "svhn": archives.svhn,
}
"""Data sets that are downloaded and prepared when they are first used."""

PATTERNS = (
    "tfds:NAME",
    "wds:PATTERN",
    "hf:NAME",
    "coco:PATH",
    "voc:PATH",
    "yolo:PATH",
    "FOLDER",
    "FILE.csv",
    "FILE.parquet",
    "FILE.npz",
)
"""What other names look like, for messages."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """How data are read; see `load`."""

    image_size: tuple[int, ...] | FitPicture = ()
    resize: FitMode = "crop"
    channels: int | None = None
    skip_bad: bool = False
    class_names: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    kind: Kind = "auto"
    separator: str | None = None
    clip_boxes: bool = False
    instances: bool = False
    max_objects: int | None = None
    one_based: bool = True


class Scheme(NamedTuple):
    """A kind of data.

    Attributes:
      read: reads the data of a path or another text.
      takes: the fields of `Reading` that it takes; `load` itself resizes where `read` does not.
      is_path: whether the text is a path, or a pattern of paths.
    """

    read: Callable[[str, Reading], Source | Splits]
    takes: frozenset[str] = frozenset()
    is_path: bool = True


def _folder(path: str, how: Reading) -> Source | Splits:
    names = how.class_names or None
    return image_folder(path, channels=how.channels or 3, skip_bad=how.skip_bad, class_names=names)


def _masks(path: str, how: Reading) -> Source | Splits:
    if isinstance(how.image_size, FitPicture) or (how.image_size and how.resize != "stretch"):
        raise ValueError(
            f"expected pictures with masks that are stretched, resize='stretch', got {how.resize!r} for {path!r}"
        )
    return mask_folder(path, size=size_pair(how.image_size) if how.image_size else None, channels=how.channels or 3)


def _manifest(path: str, how: Reading) -> Source | Splits:
    return manifest(
        path,
        label=how.labels or None,
        kind=how.kind,
        separator=how.separator,
        channels=how.channels or 3,
        skip_bad=how.skip_bad,
        class_names=how.class_names or None,
    )


def _objects(read: Callable[..., Source | Splits], *fields: str) -> "Scheme":
    """Makes the scheme of a format of objects, whose function takes these fields under their names."""
    takes = frozenset({"channels", "skip_bad", "clip_boxes", "max_objects", *fields})

    def reads(path: str, how: Reading) -> Source | Splits:
        options = {name: getattr(how, name) for name in takes}
        options["channels"] = how.channels or 3
        return read(path, **options | ({"class_names": how.class_names or None} if "class_names" in takes else {}))

    return Scheme(reads, takes)


def _tfds(name: str, how: Reading) -> Source | Splits:
    slots: dict[str, Any] = {} if how.max_objects is None else {"max_objects": how.max_objects}
    return tfds(name, clip_boxes=how.clip_boxes, **slots)


def _web_dataset(pattern: str, how: Reading) -> Source:
    return web_dataset(pattern, channels=how.channels or 3, class_names=how.class_names or None)


SCHEMES: dict[str, Scheme] = {
    "folder": Scheme(_folder, frozenset({"channels", "skip_bad", "class_names"})),
    "masks": Scheme(_masks, frozenset({"channels"})),
    "manifest": Scheme(_manifest, frozenset({"channels", "skip_bad", "class_names", "labels", "kind", "separator"})),
    "npz": Scheme(lambda path, _: load_npz(path)),
    "npy": Scheme(lambda path, _: npy_folder(path)),
    "tfds": Scheme(_tfds, frozenset({"clip_boxes", "max_objects"}), is_path=False),
    "wds": Scheme(_web_dataset, frozenset({"channels", "class_names"})),
    "hf": Scheme(lambda name, how: load_hugging_face(name, channels=how.channels or 3), frozenset({"channels"})),
    "coco": _objects(coco, "instances"),
    "voc": _objects(voc, "class_names", "one_based"),
    "yolo": _objects(yolo, "instances"),
}
"""What reads the names that begin with a word and a colon, and paths."""


class Found(NamedTuple):
    """What a name stands for.

    Attributes:
      scheme: the word in `SCHEMES` that reads it; "" for a data set of `NAMES` or `DOWNLOADED`.
      text: the name of the data set, or what the scheme reads.
    """

    scheme: str
    text: str


def find(name: str) -> Found | None:
    """Tells what a name stands for, without reading the data.

    Args:
      name: as for `load`.

    Returns:
      What it stands for; None if that is nothing.
    """
    scheme, colon, text = name.partition(":")
    if name in NAMES or name in DOWNLOADED:
        return Found("", name)
    if colon and scheme in SCHEMES:
        return Found(scheme, text)
    path = Path(name)
    if not name:
        return None
    if os.path.isdir(name):
        return Found(_kind(path), name)
    if path.suffix.lower() in manifests.EXTENSIONS:
        return Found("manifest", name)
    if path.suffix.lower() == ".npy":
        return Found("npy", name)
    if path.suffix.lower() == ".npz" or os.path.exists(name):
        return Found("npz", name)
    return None


def absolute(name: str) -> str:
    """Makes the path in a name absolute, so that it does not depend on the working directory.

    Args:
      name: as for `load`.

    Returns:
      The name; the same one if it has neither the path of an existing file nor a pattern.
    """
    found = find(name)
    if found is None or not found.scheme or not SCHEMES[found.scheme].is_path:
        return name
    if not os.path.exists(found.text) and found.scheme != "wds":
        return name
    path = os.path.abspath(found.text)
    return path if found.text == name else f"{found.scheme}:{path}"


def load(name: str, *, progress: Progress | None = None, **options: Any) -> Any:
    """Reads a data set by its name, as `jaxcnn train --data NAME` does.

    - "digits", "shapes", "digit_scenes" and "digit_instances"; "cifar10", "mnist" and others, downloaded once;
    - "tfds:NAME", a data set that TensorFlow Datasets has prepared (`tfds`);
    - "wds:PATTERN", tar files of pictures and labels (`web_dataset`);
    - "hf:NAME[:SPLIT]", a data set of Hugging Face (`load_hugging_face`);
    - "coco:PATH", "voc:PATH" and "yolo:PATH", pictures with objects (`coco`, `voc`, `yolo`);
    - a folder with a folder for each class (`image_folder`), with the folders `images` and `masks` (`mask_folder`), or
      with the files images.npy and labels.npy (`npy_folder`);
    - a .csv, .tsv or .parquet file that lists pictures (`manifest`), or an .npz file (`load_npz`).

    "folder:PATH", "masks:PATH", "manifest:PATH", "npz:PATH" and "npy:PATH" say which of these a path is. A name is not
    a path: "./digits" is the file.

    Args:
      name: the name.
      progress: is told about downloads.
      **options: `image_size`, (height, width) or (size,), which resizes the images, by the mode `resize` ("crop", "fit"
        or "stretch"), or a `FitPicture`, which tells both (see `resized`); `channels`, `skip_bad` and `class_names` of
        folders and tables; `labels` (columns), `kind` and `separator` of tables; `clip_boxes`, `max_objects`,
        `instances` and `one_based` of pictures with objects.

    Returns:
      A source, or its parts by name.

    Raises:
      ValueError: there is nothing of that name, an option does not apply to it, or the data are refused.
      OSError: a file cannot be read.
      ImportError: a package that the data need is not installed.
    """
    how = Reading(**options)
    found = find(name)
    if found is None or not found.text:
        known = ", ".join([*NAMES, *DOWNLOADED, *PATTERNS])
        raise ValueError(f"expected a data set, {known}, got {name!r}; there is no such name, file or folder")
    takes = SCHEMES[found.scheme].takes if found.scheme else frozenset()
    for field in dataclasses.fields(how):
        if field.name not in {*takes, "image_size", "resize"} and getattr(how, field.name) != field.default:
            raise ValueError(
                f"expected {field.name} only for {_takers(field.name)}, got it for {name!r}, which is none; omit it"
            )
    if how.resize != "crop" and not how.image_size:
        raise ValueError(f"expected resize={how.resize!r} together with image_size, got it alone")
    if found.scheme:
        source = SCHEMES[found.scheme].read(found.text, how)
    elif name in NAMES:
        source = NAMES[name]()
    else:
        source = DOWNLOADED[name](progress=progress)
    if not how.image_size or found.scheme == "masks":
        return source
    return resized(
        source, how.image_size if isinstance(how.image_size, FitPicture) else size_pair(how.image_size), mode=how.resize
    )


def _takers(field: str) -> str:
    words = {
        "folder": "image folders",
        "masks": "folders of masks",
        "manifest": "tables",
        "wds": "tar files",
        "hf": "hf:NAME",
        "tfds": "tfds:NAME",
        "coco": "coco:PATH",
        "voc": "voc:PATH",
        "yolo": "yolo:PATH",
    }
    *first, last = [words[scheme] for scheme, one in SCHEMES.items() if field in one.takes]
    return f"{', '.join(first)} and {last}" if first else last


def size_pair(size: Any, name: str = "image_size") -> tuple[int, int]:
    """Returns (height, width) of an image size.

    Args:
      size: one number, or height and width.
      name: of the option, for the message.

    Raises:
      ValueError: it has more numbers.
    """
    if len(size) not in (1, 2):
        raise ValueError(f"{name} expects one number, or height and width, got {size}")
    return size[0], size[-1]


def _kind(folder: Path) -> str:
    """Tells the scheme of a folder by what it holds, or the folder of its training part."""
    names = (entry.name for entry in visible_entries(folder) if os.path.isdir(entry))
    trains = [folder / name for name in names if PARTS.get(name.lower()) == "train"]
    for scheme, holds in (("masks", _has_masks), ("npy", _has_arrays)):
        if any(map(holds, (folder, *trains))):
            return scheme
    return "folder"


def _has_masks(path: Path) -> bool:
    """Tells whether a folder has the folders `images` and `masks`, or one of them and no other."""
    folders = {entry.name for entry in visible_entries(path) if os.path.isdir(entry)}
    both = {"images", "masks"}
    return both <= folders or (bool(folders) and folders <= both)


def _has_arrays(path: Path) -> bool:
    """Tells whether a folder has images and labels as arrays, or one of them and no folder of a class."""
    present = [(path / name).exists() for name in (IMAGES, LABELS)]
    return all(present) or (any(present) and not any(entry.is_dir() for entry in path.iterdir()))
