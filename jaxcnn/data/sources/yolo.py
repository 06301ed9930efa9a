"""Pictures with objects, annotated in the text format of YOLO."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxcnn.data.pictures import EXTENSIONS
from jaxcnn.data.sources.faults import refuse_faults
from jaxcnn.data.sources.object_files import FoundObject, FoundPicture, ObjectFiles, object_files

_KEYS = {"train": "train", "validation": "val", "test": "test"}
"""Keys of data.yaml for the parts."""


def yolo(
    path: str | os.PathLike[str],
    *,
    instances: bool = False,
    clip_boxes: bool = False,
    max_objects: int | None = None,
    channels: int = 3,
    skip_bad: bool = False,
) -> dict[str, ObjectFiles]:
    """Reads pictures with objects that are annotated in the text format of YOLO.

        path/data.yaml              names: [cat, dog]      train: images/train      val: images/val
        path/images/train/one.jpg   path/labels/train/one.txt

    Each line of a label file is an object: class, centre x, centre y, width, height; or class, x1, y1, x2, y2, ..., the
    corners of a polygon, whose box is the one around it. Classes count from 0; all other numbers are parts of the width
    and height of the upright picture (EXIF orientation is applied). A picture whose label file is missing or empty has
    no objects.

    `train`, `val` and `test` are folders, lists of folders, or .txt files that list pictures, from the folder `path` in
    data.yaml or from that of data.yaml itself. Label files lie where the last `images` of the path of the picture is
    `labels`, or beside the picture if there is none.

    Args:
      path: data.yaml or another .yaml file, or its folder.
      instances: whether polygons are read as masks, into the entry "masks".
      clip_boxes: clip boxes to their image and drop empty ones. Without it, such boxes are an error.
      max_objects: number of slots for the objects of a picture; None for the largest number in any picture.
      channels: 1 reads the pictures as grey, 3 as red, green and blue.
      skip_bad: leave out pictures that cannot be read, as `image_folder` does.

    Returns:
      The parts "train", "validation" and "test", as far as they are there, with "image", uint8, "boxes", "classes" and
      "valid" (see `Source`).

    Raises:
      FileNotFoundError: there is no such file or folder.
      ValueError: a file is not of this format, no picture of a part has labels, or pictures and boxes do not fit, as in
        `jaxcnn.data.sources.object_files`. The message names the lines.
      ImportError: Pillow or PyYAML is not installed, or faster-coco-eval for masks.
    """
    file = Path(path) / "data.yaml" if Path(path).is_dir() else Path(path)
    content = _read(file)
    names = _class_names(file, content)
    faults: list[str] = []
    parts = {
        part: [_picture(file, picture, len(names), faults) for picture in _pictures(file, content, key)]
        for part, key in _KEYS.items()
        if content.get(key)
    }
    refuse_faults(file, faults, "lines of a class and 4 numbers, or at least 3 corners")
    for part, pictures in parts.items():
        labels = [_label_file(file.parent / picture.name) for picture in pictures]
        if not any(one.is_file() for one in labels):
            raise ValueError(
                f"expected label files for the part {part!r} of {os.fspath(file)!r}, such as "
                f"{os.fspath(labels[0])!r}, got none; put them there, an empty one for a picture without objects"
            )
    return object_files(
        file,
        file.parent,
        parts,
        names,
        relative=True,
        clip_boxes=clip_boxes,
        max_objects=max_objects,
        instances=instances,
        channels=channels,
        skip_bad=skip_bad,
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise ImportError("data.yaml is read by PyYAML; pip install 'jaxcnn[detection]'") from error
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {os.fspath(file)!r}; expected a data.yaml with names and train")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"expected YAML in {os.fspath(file)!r}, got: {error}") from error
    if not isinstance(content, dict) or not content.get("train"):
        raise ValueError(f"expected 'names' and 'train' in {os.fspath(file)!r}, got no 'train'")
    return content


def _class_names(file: Path, content: dict[str, Any]) -> tuple[str, ...]:
    names = content.get("names")
    if isinstance(names, dict) and sorted(names, key=repr) == sorted(range(len(names)), key=repr):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names or len(set(map(str, names))) < len(names):
        raise ValueError(
            f"expected 'names' in {os.fspath(file)!r}, a list of different names or a table with the numbers from 0, "
            f"got {names!r}"
        )
    if content.get("nc", len(names)) != len(names):
        raise ValueError(f"expected nc: {len(names)} in {os.fspath(file)!r}, one for each name, got {content['nc']!r}")
    return tuple(map(str, names))


def _pictures(file: Path, content: dict[str, Any], key: str) -> list[Path]:
    """Lists the pictures of a part."""
    entries = content[key] if isinstance(content[key], list) else [content[key]]
    starts = [file.parent / str(content.get("path") or ""), file.parent]
    found: list[Path] = []
    for entry in map(str, entries):
        # Some tools write ../train/images for train/images.
        tried = [start / name for start in starts for name in (entry, entry.removeprefix("../"))]
        place = next((one for one in tried if one.exists()), None)
        if place is None:
            raise FileNotFoundError(
                f"expected {key!r} in {os.fspath(file)!r} to be a folder or a list of pictures, got {entry!r}: "
                f"there is no {os.fspath(tried[0])!r}"
            )
        if place.is_dir():
            found += sorted(one for one in place.rglob("*") if one.suffix.lower() in EXTENSIONS)
        else:
            lines = place.read_text(encoding="utf-8").splitlines()
            found += [place.parent / line.strip() for line in lines if line.strip()]
    if not found:
        raise ValueError(
            f"expected pictures in {key!r} of {os.fspath(file)!r}, got none in {', '.join(map(str, entries))}"
        )
    return found


def _label_file(picture: Path) -> Path:
    parts = list(picture.parts)
    folders = [i for i, part in enumerate(parts[:-1]) if part == "images"]
    if folders:
        parts[folders[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def _picture(file: Path, picture: Path, num_classes: int, faults: list[str]) -> FoundPicture:
    labels = _label_file(picture)
    objects = []
    if labels.is_file():
        try:
            lines = labels.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            lines = []
            faults.append(f"{labels}: not a text")
        for number, line in enumerate(lines, start=1):
            if line.strip():
                where = f"line {number}"
                found = _object(where, line.split(), num_classes)
                if isinstance(found, str):
                    faults.append(f"{labels}, {where}: {found}")
                else:
                    objects.append(found)
    name = Path(os.path.relpath(picture, file.parent)).as_posix()
    return FoundPicture(name, os.fspath(labels if objects else picture), objects)


def _object(where: str, words: Sequence[str], num_classes: int) -> FoundObject | str:
    """Returns an object, or what is wrong with its line."""
    try:
        # Some tools write the class as 3.0.
        number, *values = map(float, words)
    except ValueError:
        return f"{' '.join(words)!r} are not numbers"
    if number not in range(num_classes):
        return f"class {words[0]}, but there are {num_classes} names, and classes count from 0"
    if len(values) == 4:
        x, y, width, height = values
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        corners = [box[0], box[1], box[2], box[1], box[2], box[3], box[0], box[3]]
    elif len(values) >= 6 and len(values) % 2 == 0:
        box = (min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2]))
        corners = values
    else:
        return f"{len(values)} numbers after the class, rather than 4, or two for each corner"
    if not all(abs(value) < 2 for value in values):
        return f"{' '.join(words[1:5])}, which are not parts of the image in [0, 1]; divide by its width and height"
    return FoundObject(where, box, int(number), outline=[corners])
