"""Writes predictions as text, JSON or CSV, and masks and boxes as pictures."""

import contextlib
import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxcnn import plots
from jaxcnn.cli.coco_file import CocoFile
from jaxcnn.cli.detected import MIN_SCORE, reduced
from jaxcnn.cli.errors import reported
from jaxcnn.cli.masks import write_mask, write_overlay
from jaxcnn.cli.options import Predict
from jaxcnn.cli.terminal import columns, say, shown
from jaxcnn.data.pictures import PictureError, Placement
from jaxcnn.evaluation import paste_masks
from jaxcnn.files import written_whole
from jaxcnn.tasks import Detection, Segmentation
from jaxcnn.text import printable
from jaxcnn.training.trained_model import ModelInfo

_TOP = 3
"""Number of classes or objects in a line of text."""

_EDGES = ("x1", "y1", "x2", "y2")
"""Left, top, right and bottom edge of a box."""


class Prediction(NamedTuple):
    """The prediction for an image file.

    Attributes:
      path: of the file.
      folder: the folder that was given, in which it was found; None for a file that was given itself.
      image: its pixels in [0, 1], shape (height, width, channels).
      output: what the task decodes: probabilities of classes, numbers, a mask, or objects with boxes in pixels of the
        file.
      placement: of a detector: where the file's picture lies in the image.
      in_image: of a detector: `output` with boxes in pixels of the image, not clipped to the picture.
    """

    path: Path
    folder: Path | None
    image: np.ndarray
    output: Any
    placement: Placement | None = None
    in_image: Any = None


class Unreadable(NamedTuple):
    """An image file that cannot be read.

    Attributes:
      path: of the file.
      error: why.
    """

    path: Path
    error: str


Record = dict[str, Any]
"""A prediction as JSON values by name."""

Results = Sequence[Prediction | Unreadable]


class Format(Protocol):
    """A format of predictions."""

    def begin(self) -> list[str]:
        """Returns the lines before the predictions."""
        ...

    def lines(self, records: Sequence[Record]) -> list[str]:
        """Returns the lines of the predictions of a batch."""
        ...

    def end(self) -> list[str]:
        """Returns the lines after the predictions."""
        ...


@contextlib.contextmanager
def make_writer(options: Predict, info: ModelInfo) -> Iterator[Callable[[Results], None]]:
    """Opens the output of predictions.

    Args:
      options: format and places.
      info: facts about the model.

    Yields:
      A function that writes the predictions of a batch.

    Raises:
      CommandError: an output cannot be written.
    """
    top = options.top
    if top is None and not (options.json or options.csv):
        top = _TOP
    overlays, what = options.overlays, "overlays"
    if isinstance(info.task, Segmentation):
        overlays, what = overlays or options.run / "masks", "masks and overlays"
        describe = _Masks(info.class_names, top, _Names(overlays))
    elif isinstance(info.task, Detection):
        describe = _Boxes(info, options, None if overlays is None else _Names(overlays))
    else:
        describe = _Numbers(info.class_names, top)
    coco = None if options.coco is None else CocoFile(options.coco, options.coco_ids, info.class_names)
    form: Format = _Json() if options.json else _Csv(describe.columns) if options.csv else _Text(top)
    with reported(OSError), contextlib.ExitStack() as stack:
        file = None if options.output is None else stack.enter_context(written_whole(options.output))

        def emit(lines: list[str]) -> None:
            text = "".join(f"{line}\n" for line in lines)
            if file is not None:
                file.write(text.encode())
            elif text:
                say(text.removesuffix("\n"), flush=True)

        def write(results: Results) -> None:
            for one in results:
                if coco is not None and isinstance(one, Prediction):
                    _add_to(coco, one, options.min_score or 0.0)
            emit(form.lines([_unreadable(one) if isinstance(one, Unreadable) else describe(one) for one in results]))

        emit(form.begin())
        yield write
        emit(form.end())
        if coco is not None:
            coco.write()
            if not (options.json or options.csv):
                say(f"results of COCO: {shown(coco.path)}")
        if overlays is not None and not (options.json or options.csv):
            say(f"{what}: {shown(overlays)}")


def _unreadable(file: Unreadable) -> Record:
    return {"file": str(file.path), "error": file.error}


class _Numbers:
    """Describes probabilities of classes, or plain numbers if there are no classes."""

    def __init__(self, class_names: tuple[str, ...], top: int | None) -> None:
        self._class_names, self._top = class_names, top
        self.columns = ("file", "rank", "class", "probability") if class_names else ("file", "number", "value")

    def __call__(self, prediction: Prediction) -> Record:
        numbers, file = np.ravel(prediction.output), {"file": str(prediction.path)}
        if not self._class_names:
            return file | {"values": [_number(number) for number in numbers]}
        return file | {"classes": _ranked(self._class_names, numbers, self._top, "probability")}


class _Masks:
    """Writes masks and overlays, and describes them."""

    columns = ("file", "rank", "class", "share", "mask", "overlay")

    def __init__(self, class_names: tuple[str, ...], top: int | None, new_name: "_Names") -> None:
        self._class_names, self._top, self._new_name = class_names, top, new_name

    def __call__(self, prediction: Prediction) -> Record:
        mask, name = prediction.output, self._new_name(prediction)
        mask_file = name.with_name(f"{name.name}_mask.png")
        overlay_file = name.with_name(f"{name.name}_overlay.png")
        write_mask(mask_file, mask)
        write_overlay(overlay_file, prediction.image, mask, len(self._class_names))
        shares = np.bincount(mask.ravel(), minlength=len(self._class_names)) / mask.size
        return {
            "file": str(prediction.path),
            "mask": str(mask_file),
            "overlay": str(overlay_file),
            "classes": _ranked(self._class_names, shares, self._top, "share"),
        }


class _Boxes:
    """Describes objects in pixels of the file, and draws them if there are names for the pictures."""

    def __init__(self, info: ModelInfo, options: Predict, new_name: "_Names | None") -> None:
        self._class_names, self._channels = info.class_names, info.image_shape[2]
        self._top, self._new_name = options.top, new_name
        self._min_score = MIN_SCORE if options.min_score is None else options.min_score
        self.columns = ("file", "rank", "class", "score", *_EDGES, *(() if new_name is None else ("overlay",)))

    def __call__(self, prediction: Prediction) -> Record:
        # The best are the first.
        places = _places(prediction.output, self._min_score)
        chosen = {name: array[places[: self._top]] for name, array in prediction.output.items()}
        objects = [
            {
                "class": self._class_names[place] if self._class_names else str(place),
                "score": _number(score),
                **dict(zip(_EDGES, map(_number, box), strict=True)),
            }
            for place, score, box in zip(chosen["classes"], chosen["scores"], chosen["boxes"], strict=True)
        ]
        record: Record = {"file": str(prediction.path)}
        if self._new_name is not None:
            name = self._new_name(prediction)
            overlay_file = name.with_name(f"{name.name}_overlay.png")
            self._draw(overlay_file, prediction, chosen, places[: self._top])
            record["overlay"] = str(overlay_file)
        return record | {"count": len(places), "objects": objects}

    def _draw(self, overlay_file: Path, prediction: Prediction, chosen: Record, places: np.ndarray) -> None:
        assert prediction.placement is not None  # a detector has boxes in pixels of the file
        size = prediction.placement.picture
        view = reduced(size, self._channels)
        # The file again: the image of the model is smaller, and may have lost a part of it.
        with reported(PictureError):
            picture = view(view.read(prediction.path))
        placement = view.placement(*size)
        objects = chosen | {"boxes": placement.boxes(chosen["boxes"])}
        if "box_masks" in chosen:
            objects["masks"] = placement.reduced_masks(_mask(prediction, place) for place in places.tolist())
        figure = plots.detections(
            [picture],
            [objects],
            self._class_names,
            score=self._min_score,
            subtitle=prediction.path.name,
        )
        plots.save(figure, overlay_file)


def _places(found: Record, score: float) -> np.ndarray:
    """Returns the slots that hold an object of at least a score, the best first."""
    return np.flatnonzero(found["valid"] & (found["scores"] >= score))


def _mask(prediction: Prediction, place: int) -> np.ndarray:
    """Returns the mask of the object of a slot in pixels of the file, bool."""
    assert prediction.placement is not None  # a detector has boxes in pixels of the file
    # A mask belongs to the whole box, which may be clipped in the picture.
    box_masks, boxes = (prediction.in_image[name][place : place + 1] for name in ("box_masks", "boxes"))
    return prediction.placement.original_masks(paste_masks(box_masks, boxes, prediction.image.shape[:2]))[0]


def _add_to(coco: CocoFile, prediction: Prediction, score: float) -> None:
    """Adds the objects of at least a score, with their masks if there are any."""
    places = _places(prediction.output, score)
    found = {name: array[places] for name, array in prediction.output.items()}
    mask = (lambda row: _mask(prediction, int(places[row]))) if "box_masks" in found else None
    with reported(ImportError):
        coco.add(prediction.path, prediction.folder, found, mask)


class _Names:
    """Names new files in a folder; those for files of a folder keep their places in it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._used = folder, set[Path]()

    def __call__(self, prediction: Prediction) -> Path:
        path, folder = prediction.path, prediction.folder
        inside = Path() if folder is None else path.parent.relative_to(folder)
        number, name = 1, self._folder / inside / path.stem
        while name in self._used:
            number += 1
            name = self._folder / inside / f"{path.stem}-{number}"
        self._used.add(name)
        name.parent.mkdir(parents=True, exist_ok=True)
        return name


def _ranked(class_names: Sequence[str], numbers: np.ndarray, top: int | None, what: str) -> list[Record]:
    order = np.argsort(-numbers, kind="stable")[:top]
    return [{"class": class_names[k], what: _number(numbers[k])} for k in order]


def _number(number: Any) -> float | None:
    """Rounds to 6 digits, since more are noise in float32; None for NaN and infinity, which JSON does not have."""
    return float(f"{number:.6g}") if math.isfinite(number) else None


class _Text:
    """One line for each image, aligned within a batch. Unreadable images have no line; they are reported at the end.

    The line of many objects is wrapped in a terminal.
    """

    def __init__(self, top: int | None) -> None:
        self._top = top

    def begin(self) -> list[str]:
        return []

    def lines(self, records: Sequence[Record]) -> list[str]:
        rows = [(shown(record["file"]), record) for record in records if "error" not in record]
        width = max((len(file) for file, _ in rows), default=0)
        return [
            _wrapped(f"{file:<{width}}  ", self._objects(record))
            if "objects" in record
            else f"{file:<{width}}  {'  '.join(self._parts(record))}"
            for file, record in rows
        ]

    def end(self) -> list[str]:
        return []

    def _objects(self, record: Record) -> list[str]:
        count, objects = record["count"], record["objects"][: self._top]
        parts = [
            f"{shown(one['class'])} {one['score']:.2f} ({', '.join(f'{one[edge]:.0f}' for edge in _EDGES)})"
            for one in objects
        ]
        if count > len(objects):
            parts.append(f"{count - len(objects)} more")
        if not parts:
            return ["no objects"]
        parts = [f"{part};" for part in parts[:-1]] + parts[-1:]
        return [f"{count} object{'s' if count > 1 else ''}: {parts[0]}", *parts[1:]]

    @staticmethod
    def _parts(record: Record) -> list[str]:
        if "values" in record:
            return ["-" if value is None else f"{value:.4g}" for value in record["values"]]
        parts = []
        for row in record["classes"]:
            name, number = row.values()
            # Text omits classes without a pixel.
            if number or "probability" in row:
                parts.append(f"{shown(name)} {'-' if number is None else f'{number:.1%}'}")
        return parts


def _wrapped(head: str, parts: Sequence[str]) -> str:
    """Joins a head and parts, in several lines where the terminal is too narrow."""
    limit = columns()
    indent = " " * (len(head) if limit is None or 2 * len(head) <= limit else 4)
    lines = [head + parts[0]]
    for part in parts[1:]:
        if limit is None or len(lines[-1]) + 1 + len(part) <= limit:
            lines[-1] += f" {part}"
        else:
            lines.append(indent + part)
    return "\n".join(lines)


class _Json:
    """An array with an object in each line. Names are exact; characters other than ASCII are escaped."""

    def __init__(self) -> None:
        self._last: list[str] = []

    def begin(self) -> list[str]:
        return ["["]

    def lines(self, records: Sequence[Record]) -> list[str]:
        # Only the last line has no comma, so one line is held back.
        *lines, last = self._last + [json.dumps(record) for record in records]
        self._last = [last]
        return [f"{line}," for line in lines]

    def end(self) -> list[str]:
        return [*self._last, "]"]


class _Csv:
    """A row for each image and class. In names, characters that are not printable are escaped."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        self._columns = (*columns, "error")

    def begin(self) -> list[str]:
        return self._table([dict(zip(self._columns, self._columns, strict=True))])

    def lines(self, records: Sequence[Record]) -> list[str]:
        return self._table([row for record in records for row in self._rows(record)])

    def end(self) -> list[str]:
        return []

    @staticmethod
    def _rows(record: Record) -> list[Record]:
        single = {name: value for name, value in record.items() if not isinstance(value, list)}
        if "values" in record:
            return [single | {"number": k, "value": value} for k, value in enumerate(record["values"], start=1)]
        rows = record.get("classes") or record.get("objects")
        return [single | {"rank": rank, **row} for rank, row in enumerate(rows, start=1)] if rows else [single]

    def _table(self, rows: Sequence[Record]) -> list[str]:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for row in rows:
            cells = (row.get(column) for column in self._columns)
            writer.writerow([printable(cell) if isinstance(cell, str) else cell for cell in cells])
        return text.getvalue().splitlines()
