"""Detections of picture files as results of COCO."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.cli.errors import CommandError, reported
from jaxcnn.cli.terminal import shown
from jaxcnn.evaluation.coco_format import corner_form, run_lengths
from jaxcnn.files import check_target, written_whole


class CocoFile:
    """Collects detections, and writes them as one JSON array at the end.

    Image and category ids are those of a file of annotations, where one is given. Otherwise categories count from 1, in
    the order of the classes, and the id of an image is the number that is its name, as in COCO's 000000000139.jpg; if a
    name is no number or occurs twice, images count from 1 in the order of the predictions.

    Args:
      path: the file to write.
      annotations: a file in COCO's format whose ids the results have, or None.
      class_names: of the run.

    Raises:
      CommandError: the annotations cannot be read, or lack a class of the run; or `path` cannot be written.
    """

    def __init__(self, path: Path, annotations: Path | None, class_names: Sequence[str]) -> None:
        self.path, self._annotations = path, annotations
        with reported(OSError):
            check_target(path)
        self._files: list[Path] = []
        self._results: list[dict[str, Any]] = []
        self._images: dict[str, Any] | None = None
        self._categories: Sequence[Any] = range(1, len(class_names) + 1)
        if annotations is None:
            return
        content = _read(annotations)
        self._images = _by_name(content["images"])
        keys = {one["name"]: one["id"] for one in content["categories"]}
        if missing := [name for name in class_names if name not in keys]:
            raise CommandError(
                f"expected the classes of the run as categories in {shown(annotations)}, got none for "
                f"{', '.join(map(repr, missing[:10]))}; its categories are {', '.join(map(repr, list(keys)[:10]))}"
            )
        self._categories = [keys[name] for name in class_names]

    def add(
        self,
        path: Path,
        folder: Path | None,
        found: Mapping[str, Any],
        mask: Callable[[int], np.ndarray] | None = None,
    ) -> None:
        """Adds the detections of a picture file.

        Args:
          path: of the file.
          folder: the folder that was given, in which it was found, or None.
          found: "boxes", "scores" and "classes" of the objects, with boxes in pixels of the file.
          mask: gives the mask of an object, bool, of the size of the picture; None for a detector without masks.

        Raises:
          CommandError: the annotations have no such image.
        """
        image = self._image(path, folder)
        for row, (box, score, number) in enumerate(zip(found["boxes"], found["scores"], found["classes"], strict=True)):
            one = {
                "image_id": image,
                "category_id": self._categories[number] if self._categories else int(number) + 1,
                "bbox": [float(f"{value:.7g}") for value in corner_form(box)],
                "score": float(f"{score:.7g}"),
                "file_name": path.name,
            }
            self._results.append(one if mask is None else one | {"segmentation": run_lengths(mask(row))})
        self._files.append(path)

    def write(self) -> None:
        """Writes the file.

        Raises:
          CommandError: it cannot be written.
        """
        if self._images is None:
            numbers = [int(path.stem) for path in self._files if path.stem.isdecimal()]
            own = numbers if len(set(numbers)) == len(self._files) else range(1, len(self._files) + 1)
            for one in self._results:
                one["image_id"] = own[one["image_id"]]
        lines = ",\n".join(map(json.dumps, self._results))
        with reported(OSError), written_whole(self.path) as file:
            file.write(f"[\n{lines}\n]\n".encode() if lines else b"[]\n")

    def _image(self, path: Path, folder: Path | None) -> Any:
        """Returns the id of an image; its place, from 0, without annotations."""
        if self._images is None:
            return len(self._files)
        inside = path.name if folder is None else path.relative_to(folder).as_posix()
        for name in (inside, path.name):
            if name in self._images:
                return self._images[name]
        raise CommandError(
            f"expected the picture among the images of {shown(self._annotations)}, got {shown(path)}, which is none; "
            "leave it out, or omit --coco-ids"
        )


def _read(file: Path) -> Any:
    """Reads a file of annotations, of which ids and names are needed."""
    with reported(OSError):
        text = file.read_bytes()
    try:
        content = json.loads(text)
        for key, name in (("images", "file_name"), ("categories", "name")):
            if not all({"id", name} <= set(one) for one in content[key]):
                raise KeyError(name)
    except (ValueError, LookupError, TypeError) as error:
        raise CommandError(
            f"--coco-ids expects annotations of COCO with images and categories, got {shown(file)}: "
            f"{type(error).__name__}: {error}"
        ) from error
    return content


def _by_name(images: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the ids by the names of the files, and by their last parts where these are of one image alone."""
    last: dict[str, list[Any]] = {}
    for one in images:
        last.setdefault(Path(one["file_name"]).name, []).append(one["id"])
    return {name: keys[0] for name, keys in last.items() if len(keys) == 1} | {
        Path(one["file_name"]).as_posix(): one["id"] for one in images
    }
