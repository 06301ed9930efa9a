"""Pictures with objects, annotated in COCO's format."""

import json
import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxcnn.data.sources.faults import refuse_faults
from jaxcnn.data.sources.object_files import FoundObject, FoundPicture, ObjectFiles, object_files
from jaxcnn.data.sources.parts import PARTS

_LOG = logging.getLogger("jaxcnn")

_BESIDE = "_annotations.coco.json"
"""Name of a file of annotations that lies in the folder of its pictures."""


def coco(
    path: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    *,
    instances: bool = False,
    clip_boxes: bool = False,
    max_objects: int | None = None,
    channels: int = 3,
    skip_bad: bool = False,
) -> ObjectFiles | dict[str, ObjectFiles]:
    """Reads pictures with objects that are annotated in the format of COCO (cocodataset.org, "Data format").

        path/annotations/instances_train2017.json   path/train2017/000000000009.jpg
        path/annotations/instances_val2017.json     path/val2017/000000000139.jpg

    Or path/train/_annotations.coco.json beside its pictures, and likewise in `valid` and `test`; or `path` is one .json
    file. Its pictures are in `images`; otherwise in a folder beside it or beside its folder, of the name in that of the
    file (such as `train2017`) or called `images`; or in its own folder.

    Boxes (x, y, width, height) become edges. Class k is the category with the k-th smallest id; `class_keys` of the
    result has the ids, since they may have gaps: the 80 of COCO lie between 1 and 90. "crowd" is `iscrowd`. Pictures
    without annotations are examples without objects. The area of an object is that in the file.

    Args:
      path: a folder or a file.
      images: the folder of the pictures, for a `path` that is a file.
      instances: whether masks are read, from polygons or run lengths, into the entry "masks".
      clip_boxes: clip boxes to their image and drop empty ones. Without it, such boxes are an error.
        COCO's own training set has two empty boxes.
      max_objects: number of slots for the objects of a picture; None for the largest number in any picture.
      channels: 1 reads the pictures as grey, 3 as red, green and blue.
      skip_bad: leave out pictures that cannot be read, as `image_folder` does.

    Returns:
      The examples, with "image", uint8, "boxes", "classes", "crowd" and "valid" (see `Source`); for a folder, parts of
      them by name, "train" and what else is there.

    Raises:
      FileNotFoundError: there is no such file or folder, or no annotations in it.
      ValueError: the file is not of this format, an id is unknown or repeated, the parts differ in their categories, or
        pictures and boxes do not fit, as in `jaxcnn.data.sources.object_files`. The message names the annotations.
      ImportError: Pillow is not installed, or faster-coco-eval for masks.
    """
    place = Path(path)
    if images is not None and not place.is_file():
        raise ValueError(f"coco expects images= only for a .json file, got it for {os.fspath(place)!r}")
    files = {"train": place} if place.is_file() else _part_files(place)
    root = place if place.is_dir() else _picture_folder(place) if images is None else Path(images)
    parts: dict[str, list[FoundPicture]] = {}
    categories: dict[str, dict[int, str]] = {}
    for part, file in files.items():
        folder = root if place.is_file() else _picture_folder(file)
        content = _read(file)
        categories[part] = _categories(file, content["categories"])
        parts[part] = _pictures(file, content, categories[part], Path(os.path.relpath(folder, root)))
    first, *others = categories
    for other in others:
        if categories[other] != categories[first]:
            raise ValueError(
                f"expected the same categories in all parts of {os.fspath(place)!r}, got {categories[first]} in "
                f"{first!r} and {categories[other]} in {other!r}"
            )
    sources = object_files(
        place,
        root,
        parts,
        tuple(categories[first].values()),
        class_keys=tuple(categories[first]),
        flags=("crowd",),
        clip_boxes=clip_boxes,
        max_objects=max_objects,
        instances=instances,
        channels=channels,
        skip_bad=skip_bad,
    )
    return sources["train"] if place.is_file() else sources


def _part_files(root: Path) -> dict[str, Path]:
    """Returns the files of annotations in a folder, by the name of the part."""
    if not root.is_dir():
        raise FileNotFoundError(f"there is no file or folder {os.fspath(root)!r}; expected annotations of COCO")
    beside = [folder / _BESIDE for folder in sorted(root.iterdir()) if (folder / _BESIDE).is_file()]
    files = beside or sorted((root / "annotations").glob("*.json"))
    files = [file for file in files if file.name.startswith("instances_")] or files
    found: dict[str, Path] = {}
    for file in files:
        word = file.parent.name if beside else file.stem
        names = [part for token, part in PARTS.items() if re.search(rf"(?<![a-z]){token}(?![a-z])", word.lower())]
        if len(names) != 1 or names[0] in found:
            raise ValueError(
                f"expected one file of annotations for each of train, val and test in {os.fspath(root)!r}, got "
                f"{', '.join(one.name for one in files)}; name one file, as coco:{file}"
            )
        found[names[0]] = file
    if "train" not in found:
        raise FileNotFoundError(
            f"expected annotations/instances_train.json or train/{_BESIDE} in {os.fspath(root)!r}, got "
            f"{', '.join(found) or 'neither'}; name one file, as coco:FILE.json"
        )
    return {part: found[part] for part in dict.fromkeys(PARTS.values()) if part in found}


def _picture_folder(file: Path) -> Path:
    """Finds the folder of the pictures of a file."""
    if file.name == _BESIDE:
        return file.parent
    name = file.stem.removeprefix("instances_")
    around = [file.parent.parent, file.parent] if file.parent.name == "annotations" else [file.parent]
    tried = [folder for one in around for folder in (one / name, one / "images" / name, one / "images")]
    return next((folder for folder in tried if folder.is_dir()), around[0])


def _read(file: Path) -> dict[str, list[dict[str, Any]]]:
    name = os.fspath(file)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"expected JSON in {name!r}, got, in line {error.lineno}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"expected JSON in UTF-8 in {name!r}, got: {error}") from error
    keys = ("images", "annotations", "categories")
    lists = content if isinstance(content, dict) else {}
    for key in keys:
        value = lists.get(key)
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            raise ValueError(
                f"expected the lists {', '.join(keys)} in {name!r}, as COCO has them, got "
                f"{key + ' of another kind' if key in lists else 'no ' + key}"
            )
    return {key: lists[key] for key in keys}


def _categories(file: Path, entries: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Returns the names of the categories by id, in the order of the ids."""
    faults, names = [], {}
    for i, entry in enumerate(entries):
        key, name = entry.get("id"), entry.get("name")
        if not _is_whole(key) or not isinstance(name, str):
            faults.append(f"categories[{i}] has the id {key!r} and the name {name!r}")
        elif key in names or name in names.values():
            faults.append(f"categories[{i}] has the id {key} or the name {name!r} again")
        else:
            names[key] = name
    refuse_faults(file, faults, "categories with whole numbers as ids, each once, and different names")
    if not names:
        raise ValueError(f"expected at least one category in {os.fspath(file)!r}, got none")
    return dict(sorted(names.items()))


def _pictures(
    file: Path, content: Mapping[str, Sequence[Mapping[str, Any]]], categories: Mapping[int, str], folder: Path
) -> list[FoundPicture]:
    found: dict[Any, FoundPicture] = {}
    objects: dict[Any, list[FoundObject]] = {}
    faults = []
    for i, entry in enumerate(content["images"]):
        key, name = entry.get("id"), entry.get("file_name")
        where = f"{file.name}, image id {key!r}"
        if not isinstance(key, int | str) or not isinstance(name, str) or not name or "\0" in name:
            faults.append(f"images[{i}] has the id {key!r} and the file_name {name!r}")
        elif key in found:
            faults.append(f"images[{i}] has the id {key!r} again")
        else:
            size: Any = (entry.get("height"), entry.get("width"))
            size = None if None in size else (size[0], size[1])
            objects[key] = []
            found[key] = FoundPicture((folder / name).as_posix(), where, objects[key], size, key)
    refuse_faults(file, faults, "images with an id, each once, and a file_name")
    numbers = {key: number for number, key in enumerate(categories)}
    seen: set[Any] = set()
    for i, entry in enumerate(content["annotations"]):
        key, image, category = (entry.get(name) for name in ("id", "image_id", "category_id"))
        picture = found.get(image) if isinstance(image, int | str) else None
        where = f"annotation id {key!r}" if "id" in entry else f"annotations[{i}]"
        box = entry.get("bbox")
        if "id" in entry and not isinstance(key, int | str):
            faults.append(f"annotations[{i}] has the id {key!r}")
            continue
        if picture is None:
            known = next(iter(found), None)
            faults.append(f"{where} has the image_id {image!r}, which no image has, unlike {known!r}")
        elif not isinstance(category, int) or category not in numbers:
            ids = ", ".join(map(str, list(categories)[:10])) + (", ..." if len(categories) > 10 else "")
            faults.append(f"{where} has the category_id {category!r}, which is none of {ids}")
        elif key in seen:
            faults.append(f"{where}, of annotations[{i}], is there twice")
        elif not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
            faults.append(f"{where} has the bbox {box!r}, which is not [x, y, width, height]")
        else:
            x, y, width, height = box
            area: Any = entry.get("area")
            flags = ("crowd",) if entry.get("iscrowd") else ()
            outline = entry.get("segmentation")
            objects[picture.key].append(
                FoundObject(
                    where,
                    (x, y, x + width, y + height),
                    numbers[category],
                    flags,
                    float(area) if _is_number(area) else math.nan,
                    outline,
                )
            )
        if "id" in entry:
            seen.add(key)
    refuse_faults(file, faults, "annotations of these images and categories")
    if 0 in seen:
        _LOG.warning(
            "an annotation of %s has the id 0, which pycocotools never matches with a detection; jaxcnn numbers them "
            "anew, for other tools number them from 1",
            file,
        )
    return list(found.values())


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
