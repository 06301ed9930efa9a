"""Pictures with objects, annotated in the XML format of Pascal VOC."""

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path
from xml.parsers import expat

from jaxcnn.data.pictures import EXTENSIONS
from jaxcnn.data.sources.faults import refuse_faults
from jaxcnn.data.sources.object_files import FoundObject, FoundPicture, ObjectFiles, object_files

_LISTS = {"train": "train", "validation": "val", "test": "test"}
"""Names of the lists of pictures in ImageSets/Main, by part."""

_ADVICE = (
    "if the files count pixels from 0, read them with one_based=False, on the command line --no-one-based; otherwise "
    "correct them, or read them with clip_boxes=True, on the command line --clip-boxes"
)


def voc(
    path: str | os.PathLike[str],
    *,
    one_based: bool = True,
    class_names: Sequence[str] | None = None,
    clip_boxes: bool = False,
    max_objects: int | None = None,
    channels: int = 3,
    skip_bad: bool = False,
) -> ObjectFiles | dict[str, ObjectFiles]:
    """Reads pictures with objects that are annotated in the XML format of Pascal VOC (VOC 2012 devkit, section 4).

        path/Annotations/one.xml   path/JPEGImages/one.jpg   path/ImageSets/Main/train.txt

    Pictures may also be in `images`, and files of both kinds in `path` itself. An XML file and its picture have one
    name but for the extension. The classes are sorted by name. "difficult" is that of the file.

    VOC counts pixels from 1, and `xmax` and `ymax` are the last ones: the edges are xmin - 1, ymin - 1, xmax and ymax.
    Many tools write files that count from 0: with `one_based=False` the edges are the four numbers themselves.

    Args:
      path: the folder.
      one_based: whether pixels count from 1.
      class_names: the classes in another order; not every one must occur. None: the sorted names of the objects.
      clip_boxes: clip boxes to their image and drop empty ones. Without it, such boxes are an error.
      max_objects: number of slots for the objects of a picture; None for the largest number in any picture.
      channels: 1 reads the pictures as grey, 3 as red, green and blue.
      skip_bad: leave out pictures that cannot be read, as `image_folder` does.

    Returns:
      The examples, with "image", uint8, "boxes", "classes", "difficult" and "valid" (see `Source`); or parts of them by
      name if ImageSets/Main has train.txt, and val.txt and test.txt if they are there.

    Raises:
      FileNotFoundError: there is no such folder, or it has no annotations.
      ValueError: a file is not of this format, a class is unknown, or pictures and boxes do not fit, as in
        `jaxcnn.data.sources.object_files`. The message names files and lines.
      ImportError: Pillow is not installed.
    """
    root = Path(path)
    folder = root / "Annotations" if (root / "Annotations").is_dir() else root
    if not root.is_dir() or not (files := sorted(folder.glob("*.xml"))):
        raise FileNotFoundError(f"expected .xml files in {os.fspath(folder)!r}, annotations of Pascal VOC, got none")
    faults: list[str] = []
    pictures = _by_stem(next((root / name for name in ("JPEGImages", "images") if (root / name).is_dir()), root))
    nodes = {file.stem: _parsed(file, faults) for file in files}
    refuse_faults(folder, faults, "XML with objects of name and bndbox")
    objects = {stem: _objects(folder / f"{stem}.xml", node, one_based, faults) for stem, node in nodes.items()}
    refuse_faults(folder, faults, "XML with objects of name and bndbox")
    known = tuple(
        sorted({name for found in objects.values() for name, _ in found}) if class_names is None else class_names
    )
    if not known:
        raise ValueError(f"expected an object in the .xml files of {os.fspath(folder)!r}, got none")
    numbers = {name: number for number, name in enumerate(known)}
    found: dict[str, FoundPicture] = {}
    for stem, named in objects.items():
        file = folder / f"{stem}.xml"
        faults += [f"{file}, {one.where}: {name!r}" for name, one in named if name not in numbers]
        if stem not in pictures:
            faults.append(f"{file} has no picture {stem}.jpg or of another extension")
            continue
        own = [one._replace(number=numbers[name]) for name, one in named if name in numbers]
        name = Path(os.path.relpath(pictures[stem], root)).as_posix()
        found[stem] = FoundPicture(name, os.fspath(file), own, _size(file, nodes[stem], faults))
    refuse_faults(folder, faults, f"pictures with objects of the classes {', '.join(known)}")
    if one_based:
        zeros = [
            f"{one.where}, {thing.where}: xmin or ymin is 0"
            for one in found.values()
            for thing in one.objects
            if -1 in thing.box[:2]
        ]
        if not clip_boxes:
            refuse_faults(folder, zeros, "pixels that count from 1", _ADVICE)
    parts = {"train": list(found.values())}
    lists = {part: root / "ImageSets" / "Main" / f"{name}.txt" for part, name in _LISTS.items()}
    if lists["train"].is_file():
        parts = {part: _chosen(file, found) for part, file in lists.items() if file.is_file()}
    sources = object_files(
        root,
        root,
        parts,
        known,
        flags=("difficult",),
        clip_boxes=clip_boxes,
        max_objects=max_objects,
        channels=channels,
        skip_bad=skip_bad,
    )
    return sources if lists["train"].is_file() else sources["train"]


@dataclasses.dataclass
class _Node:
    """An element of XML: its name, its line, its text, and the elements in it."""

    name: str
    line: int
    text: str = ""
    children: list["_Node"] = dataclasses.field(default_factory=list)

    def child(self, name: str) -> "_Node | None":
        return next((one for one in self.children if one.name == name), None)

    def word(self, name: str) -> str | None:
        child = self.child(name)
        return None if child is None else child.text.strip()


def _parsed(file: Path, faults: list[str]) -> _Node:
    """Parses a file. `xml.etree` would not tell the lines."""
    whole = _Node("", 0)
    stack = [whole]
    parser = expat.ParserCreate()

    def start(name: str, _: dict[str, str]) -> None:
        node = _Node(name, parser.CurrentLineNumber)
        stack[-1].children.append(node)
        stack.append(node)

    def text(data: str) -> None:
        stack[-1].text += data

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: stack.pop()
    parser.CharacterDataHandler = text
    try:
        parser.Parse(file.read_bytes(), True)
    except expat.ExpatError as error:
        faults.append(f"{file}, line {error.lineno}: {error}")
        return _Node("annotation", 1)
    [root] = whole.children
    if root.name != "annotation":
        faults.append(f"{file}, line {root.line}: <{root.name}> rather than <annotation>")
    return root


def _objects(file: Path, root: _Node, one_based: bool, faults: list[str]) -> list[tuple[str, FoundObject]]:
    """Returns the objects with the names of their classes; their numbers are not known yet."""
    found = []
    for node in root.children:
        if node.name != "object":
            continue
        # Only elements of the object itself: its parts, such as a head, have boxes of their own.
        name, box = node.word("name"), node.child("bndbox")
        words = [None if box is None else box.word(edge) for edge in ("xmin", "ymin", "xmax", "ymax")]
        try:
            left, top, right, bottom = (float(word or "") for word in words)
        except ValueError:
            left = top = right = bottom = math.nan
        if not all(map(math.isfinite, (left, top, right, bottom))):
            faults.append(f"{file}, line {node.line}: an object with the box {words}")
            continue
        if not name:
            faults.append(f"{file}, line {node.line}: an object without a name")
            continue
        start = 1 if one_based else 0
        flags = ("difficult",) if node.word("difficult") == "1" else ()
        edges = (left - start, top - start, right, bottom)
        found.append((name, FoundObject(f"line {node.line}", edges, 0, flags)))
    return found


def _size(file: Path, root: _Node, faults: list[str]) -> tuple[int, int] | None:
    node = root.child("size")
    if node is None:
        return None
    words = node.word("height") or "", node.word("width") or ""
    if not all(word.isdecimal() for word in words):
        faults.append(f"{file}, line {node.line}: a size of {words[0]!r} x {words[1]!r}")
        return None
    return int(words[0]), int(words[1])


def _by_stem(folder: Path) -> dict[str, Path]:
    return {file.stem: file for file in sorted(folder.iterdir(), reverse=True) if file.suffix.lower() in EXTENSIONS}


def _chosen(file: Path, found: dict[str, FoundPicture]) -> list[FoundPicture]:
    """Returns the pictures that a list names."""
    lines = file.read_text(encoding="utf-8").splitlines()
    names = [(number, line.split()[0]) for number, line in enumerate(lines, start=1) if line.strip()]
    missing = [f"line {number}: {name}" for number, name in names if name not in found]
    refuse_faults(file, missing, "names of .xml files in Annotations", "VOC publishes no annotations of its test set")
    return [found[name] for _, name in names]
