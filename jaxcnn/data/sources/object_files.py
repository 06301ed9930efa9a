"""Pictures in files with their objects, whatever the format of the annotations; `coco`, `voc` and `yolo` read them."""

import dataclasses
import functools
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from jaxcnn.data.objects import pad_objects
from jaxcnn.data.pictures import FitPicture
from jaxcnn.data.sources.faults import refuse_faults
from jaxcnn.data.sources.picture_files import PictureFiles, left_out
from jaxcnn.data.sources.picture_index import Listed, examine, listed
from jaxcnn.data.sources.source import ArraySpec, checksum, fitted_objects

_LOG = logging.getLogger("jaxcnn")

_ROUNDING = 0.1
"""Pixels by which a box may reach beyond its image without a fault: the files round the numbers."""

_CLIP = (
    "correct the annotations, or read them with clip_boxes=True, which cuts boxes at the border and leaves out what is "
    "empty, on the command line --clip-boxes"
)

_BOXES_ALONE = "read boxes alone, without instances=True, on the command line without --instances"

Outline: TypeAlias = list[list[float]] | dict[str, Any]
"""The pixels of an object as in COCO: polygons of x1, y1, x2, y2, ..., or run lengths {"counts", "size"}."""


class FoundObject(NamedTuple):
    """An object as a file tells it.

    Attributes:
      where: its place in the file, such as "line 3".
      box: edges (left, top, right, bottom), in pixels or in parts of the image.
      number: class index.
      flags: "crowd" or "difficult", if it is.
      area: area of its mask in pixels; NaN for that of the box.
      outline: its pixels, or None.
    """

    where: str
    box: tuple[float, float, float, float]
    number: int
    flags: tuple[str, ...] = ()
    area: float = float("nan")
    outline: Outline | None = None


class FoundPicture(NamedTuple):
    """A picture as a file of annotations tells it.

    Attributes:
      name: path of the picture below the root, with slashes.
      where: the place that tells it, such as a file and a line.
      objects: its objects.
      size: (height, width) that the file tells; None if it does not.
      key: what other files call the picture, such as an image id of COCO.
    """

    name: str
    where: str
    objects: Sequence[FoundObject]
    size: tuple[int, int] | None = None
    key: Any = None


class ObjectTable(NamedTuple):
    """The objects of all pictures, one after the other.

    Attributes:
      ends: number of the object after the last one of each picture, shape (pictures,).
      boxes: edges (left, top, right, bottom) in pixels, float32, shape (objects, 4).
      classes: class indices, int32, shape (objects,).
      areas: of their masks, or boxes, in pixels, float64, shape (objects,).
      flags: "crowd" or "difficult", by name, bool, shape (objects,).
      outlines: their pixels as in the file; empty if they are not read.
    """

    ends: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    areas: np.ndarray
    flags: Mapping[str, np.ndarray]
    outlines: tuple[Outline, ...] = ()

    def of(self, index: int) -> slice:
        """Returns the places of the objects of a picture."""
        return slice(int(self.ends[index - 1]) if index else 0, int(self.ends[index]))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ObjectFiles:
    """A source of pictures in files with objects; `coco`, `voc` and `yolo` build and check it.

    Args:
      pictures: the pictures.
      objects: their objects.
      slots: number of slots for the objects of a picture.
      keys: what other files call the pictures, such as the image ids of COCO.
      class_keys: what other files call the classes, such as the category ids of COCO.
      instances: whether examples have "masks".
    """

    pictures: PictureFiles
    objects: ObjectTable
    slots: int
    keys: tuple[Any, ...]
    class_keys: tuple[Any, ...]
    instances: bool = False

    @property
    def spec(self) -> Mapping[str, ArraySpec]:
        """Shape and dtype of each entry; None for a height or width that differs from picture to picture."""
        image = self.pictures.spec["image"]
        spec = {
            "image": image,
            "boxes": ArraySpec((self.slots, 4), np.dtype(np.float32)),
            "classes": ArraySpec((self.slots,), np.dtype(np.int32)),
            **{name: ArraySpec((self.slots,), np.dtype(bool)) for name in (*self.objects.flags, "valid")},
        }
        if self.instances:
            spec["masks"] = ArraySpec((self.slots, *image.shape[:2]), np.dtype(bool))
        return spec

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.pictures.class_names

    @property
    def fingerprint(self) -> str:
        """A checksum of the pictures, as of `PictureFiles`, and of all that is known of the objects."""
        return self._checksum

    @functools.cached_property
    def _checksum(self) -> str:
        table = self.objects
        flags = (part for name in sorted(table.flags) for part in (name, table.flags[name]))
        arrays = (table.ends, table.boxes, table.classes, table.areas, *flags)
        return checksum(self.pictures.fingerprint, *arrays, repr(table.outlines), str(self.slots))

    @property
    def faults(self) -> tuple[str, ...]:
        """One line for each picture that was left out."""
        return self.pictures.faults

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Reads one example.

        Args:
          index: of the example.

        Returns:
          "image", as of `PictureFiles`, and the objects.

        Raises:
          PictureError: the picture cannot be read.
        """
        return self.pictures[index] | self._objects(index, masks=True)

    def __repr__(self) -> str:
        count = len(self.objects.boxes)
        classes = len(self.class_names)
        return f"<{len(self):,} pictures in {self.pictures.root!r} with {count:,} objects of {classes} classes>"

    def path(self, index: int) -> str:
        """Returns the path of the file of an example."""
        return self.pictures.path(index)

    def size(self, index: int) -> tuple[int, int]:
        """Returns (height, width) of the upright picture of an example, without reading it."""
        height, width = self.pictures.sizes[index].tolist()
        return height, width

    def fitted(self, index: int, fit: FitPicture) -> dict[str, np.ndarray]:
        """Reads one example with its image fitted; a large JPEG file is decoded at a smaller scale."""
        objects = fitted_objects(self._objects(index, masks=True), fit, self.size(index))
        return objects | self.pictures.fitted(index, fit)

    def gather(self, indices: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Reads entries of several examples; without "image", no picture is read."""
        found = {"image": self.pictures.gather(indices, ["image"])["image"]} if "image" in names else {}
        examples = [self._objects(int(index), masks="masks" in names) for index in indices]
        return {
            name: found[name] if name == "image" else np.stack([example[name] for example in examples])
            for name in names
        }

    def _objects(self, index: int, *, masks: bool) -> dict[str, np.ndarray]:
        table, there = self.objects, self.objects.of(index)
        entries = {"boxes": table.boxes[there], "classes": table.classes[there]}
        entries |= {name: flags[there] for name, flags in table.flags.items()}
        if masks and self.instances:
            entries["masks"] = outline_masks(table.outlines[there], self.size(index))
        return pad_objects(entries, self.slots, repr(self.path(index)))


def outline_masks(outlines: Sequence[Outline], size: tuple[int, int]) -> np.ndarray:
    """Draws masks of objects, as COCO's own tools do.

    Args:
      outlines: polygons or run lengths.
      size: (height, width) of the image.

    Returns:
      Bool, shape (objects, height, width).

    Raises:
      ImportError: faster-coco-eval is not installed.
      ValueError: run lengths are of another size, or do not describe such a mask.
    """
    masks = np.zeros((len(outlines), *size), bool)
    for mask, outline in zip(masks, outlines, strict=True):
        mask[:] = mask_tools().decode(encoded(outline, size)).astype(bool)
    return masks


def encoded(outline: Outline, size: tuple[int, int]) -> dict[str, Any]:
    """Returns an outline as the compressed run lengths of COCO; arguments and errors as in `outline_masks`."""
    height, width = size
    tools = mask_tools()
    if isinstance(outline, list):
        return tools.merge(tools.frPyObjects(outline, height, width))
    if list(outline["size"]) != [height, width]:
        raise ValueError(f"run lengths of a mask of {outline['size']}, but its image is {height}x{width}")
    if not isinstance(outline["counts"], list):
        return outline
    if sum(outline["counts"]) != height * width or min(outline["counts"], default=0) < 0:
        raise ValueError(f"run lengths of {sum(outline['counts'])} pixels, but its image has {height * width}")
    return tools.frPyObjects(outline, height, width)


def mask_tools() -> Any:
    """Returns the module that reads and writes run lengths of masks.

    Raises:
      ImportError: faster-coco-eval is not installed.
    """
    try:
        from faster_coco_eval.core import mask  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "masks of objects are read and written by faster-coco-eval; pip install 'jaxcnn[detection]'"
        ) from error
    return mask


def object_files(
    place: str | os.PathLike[str],
    root: Path,
    parts: Mapping[str, Sequence[FoundPicture]],
    class_names: Sequence[str],
    *,
    class_keys: Sequence[Any] = (),
    flags: Sequence[str] = (),
    relative: bool = False,
    clip_boxes: bool = False,
    max_objects: int | None = None,
    instances: bool = False,
    channels: int = 3,
    skip_bad: bool = False,
) -> dict[str, ObjectFiles]:
    """Makes sources of pictures and objects, after checking them.

    Args:
      place: the file or folder of the annotations, for messages.
      root: the folder that the names of the pictures start from.
      parts: the pictures of each part, by name.
      class_names: one name for each class.
      class_keys: what other files call the classes; their numbers from 0 if empty.
      flags: the flags of the objects, such as "crowd".
      relative: whether boxes and polygons are in parts of the width and height, rather than in pixels.
      clip_boxes: clip boxes to their image and drop empty ones. Without it, such boxes are an error.
      max_objects: number of slots for the objects of a picture; None for the largest number of objects.
      instances: whether the outlines are read as masks.
      channels: 1 reads the pictures as grey, 3 as red, green and blue.
      skip_bad: leave out pictures that cannot be read, as `image_folder` does.

    Returns:
      The sources by the name of the part.

    Raises:
      ValueError: a picture cannot be read, or has another size than the annotations say; a box is empty or reaches
        beyond its image by more than a tenth of a pixel; or there are more objects than slots. The message names the
        first few.
      ImportError: Pillow is not installed, or faster-coco-eval for masks.
    """
    if channels not in (1, 3):
        raise ValueError(f"expected 1 or 3 channels, got {channels}")
    if max_objects is not None and max_objects < 1:
        raise ValueError(f"max_objects must be at least 1, got {max_objects}")
    if instances:
        mask_tools()
    # One index for all parts: it has the name of the place.
    found = examine(Path(place), root, [_listed(root, one) for part in parts.values() for one in part], pixels=skip_bad)
    places = [one.where for part in parts.values() for one in part]
    found = found._replace(
        faults=[fault and f"{where}: {fault}" for where, fault in zip(places, found.faults, strict=True)]
    )
    kept, faults = left_out(Path(place), found, skip_bad=skip_bad)
    pictures = [one for part in parts.values() for one in part]
    _check_sizes(place, [pictures[i] for i in kept], found.sizes[kept])
    tables = [
        _checked(pictures[i], tuple(found.sizes[i].tolist()), relative=relative, clip=clip_boxes, outlined=instances)
        for i in kept
    ]
    refuse_faults(place, [fault for one in tables for fault in one.faults], "boxes inside their images", _CLIP)
    unread = [fault for one in tables for fault in one.outline_faults]
    refuse_faults(place, unread, "objects with the outline of a mask", _BOXES_ALONE)
    changed = sum(one.changed for one in tables)
    if changed:
        boxes = "1 box" if changed == 1 else f"{changed:,} boxes"
        _LOG.warning("%s of %s reached beyond the image or had no area: cut, or left out", boxes, place)
    most = max((len(one.objects) for one in tables), default=0)
    slots = max(most, 1) if max_objects is None else max_objects
    crowded = [
        f"{pictures[i].where}: {len(one.objects)} objects of {pictures[i].name!r}"
        for i, one in zip(kept, tables, strict=True)
        if len(one.objects) > slots
    ]
    advice = f"read it with max_objects={most} or more, on the command line --max-objects {most}"
    refuse_faults(place, crowded, f"at most {slots} objects in a picture", advice)
    sources, start = {}, 0
    for part, of_part in parts.items():
        own = [n for n, i in enumerate(kept) if start <= i < start + len(of_part)]
        rows = [kept[n] for n in own]
        start += len(of_part)
        if not rows:
            raise ValueError(f"expected pictures of the part {part!r} in {os.fspath(place)!r}, got none")
        files = PictureFiles(
            str(root),
            tuple(pictures[i].name for i in rows),
            {},
            tuple(class_names),
            channels,
            found.sizes[rows],
            found.digests[rows],
            faults,
        )
        keys = tuple(i + 1 if pictures[row].key is None else pictures[row].key for i, row in enumerate(rows))
        table = _table([tables[n].objects for n in own], flags, instances)
        numbers = tuple(class_keys) or tuple(range(len(class_names)))
        sources[part] = ObjectFiles(files, table, slots, keys, numbers, instances)
    return sources


class _Checked(NamedTuple):
    """The objects of a picture in pixels, what is wrong with boxes and outlines, and how many were cut or left out."""

    objects: list[FoundObject]
    faults: list[str]
    outline_faults: list[str]
    changed: int


def _listed(root: Path, picture: FoundPicture) -> Listed:
    try:
        return listed(picture.name, os.stat(root / picture.name))
    except (OSError, ValueError) as error:
        return Listed(picture.name, 0, 0, 0, f"which cannot be read: {getattr(error, 'strerror', error)}")


def _check_sizes(place: str | os.PathLike[str], pictures: Sequence[FoundPicture], sizes: np.ndarray) -> None:
    faults = []
    for picture, (height, width) in zip(pictures, sizes.tolist(), strict=True):
        if picture.size is None or picture.size == (height, width):
            continue
        turned = picture.size == (width, height)
        hint = ", as before its EXIF orientation turns it upright" if turned else ""
        faults.append(
            f"{picture.where}: {picture.name!r} is {height}x{width}, but is annotated as "
            f"{picture.size[0]}x{picture.size[1]}{hint}"
        )
    refuse_faults(
        place,
        faults,
        "pictures of the annotated height and width",
        "annotate them again, or store the pictures upright, as they were when they were annotated",
    )


def _checked(picture: FoundPicture, size: tuple[int, ...], *, relative: bool, clip: bool, outlined: bool) -> _Checked:
    height, width = size
    scale = np.array([width, height, width, height]) if relative else 1.0
    limits = np.array([width, height, width, height], np.float64)
    objects, faults, outline_faults, changed = [], [], [], 0
    for one in picture.objects:
        box = np.asarray(one.box, np.float64) * scale
        inside = np.clip(box, 0, limits)
        where = f"{picture.where}, {one.where}" if one.where else picture.where
        empty = (inside[2:] <= inside[:2]).any()
        beyond = np.abs(inside - box).max() > _ROUNDING
        if (empty or beyond) and not clip:
            words = "is empty" if (box[2:] <= box[:2]).any() else f"reaches beyond its image of {height}x{width}"
            edges = ", ".join(f"{edge:g}" for edge in box)
            faults.append(f"{where}: the box ({edges}), left, top, right, bottom, of {picture.name!r} {words}")
            continue
        changed += bool(empty or beyond)
        if empty:
            continue
        outline = _scaled(one.outline, width, height) if relative else one.outline
        if outlined:
            fault = _fault(outline, (height, width))
            if fault:
                outline_faults.append(f"{where}: {fault}")
                continue
        area = float((inside[2:] - inside[:2]).prod()) if np.isnan(one.area) else one.area
        objects.append(one._replace(box=tuple(inside.tolist()), outline=outline, area=area))
    return _Checked(objects, faults, outline_faults, changed)


def _fault(outline: Outline | None, size: tuple[int, int]) -> str:
    """Tells what is wrong with an outline, or ""."""
    if not outline:
        return "no outline of a mask"
    try:
        return "" if mask_tools().area(encoded(outline, size)) else "a mask without a pixel"
    # The package raises several kinds of exceptions on numbers and texts that it cannot read.
    except Exception as error:
        return f"an outline that cannot be read ({error})"


def _scaled(outline: Outline | None, width: int, height: int) -> Outline | None:
    if not isinstance(outline, list):
        return outline
    return [[value * (height if i % 2 else width) for i, value in enumerate(polygon)] for polygon in outline]


def _table(pictures: Sequence[Sequence[FoundObject]], flags: Sequence[str], instances: bool) -> ObjectTable:
    every = [one for picture in pictures for one in picture]
    return ObjectTable(
        np.cumsum([len(picture) for picture in pictures]),
        np.array([one.box for one in every], np.float32).reshape(-1, 4),
        np.array([one.number for one in every], np.int32),
        np.array([one.area for one in every], np.float64),
        {name: np.array([name in one.flags for one in every], bool) for name in flags},
        tuple(one.outline for one in every if one.outline is not None) if instances else (),
    )
