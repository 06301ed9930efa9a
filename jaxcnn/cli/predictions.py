"""Writes predictions as text, JSON or CSV, and masks as pictures."""

import contextlib
import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxcnn.cli.errors import reported
from jaxcnn.cli.masks import write_mask, write_overlay
from jaxcnn.cli.options import Predict
from jaxcnn.cli.terminal import say, shown
from jaxcnn.files import written_whole
from jaxcnn.tasks import Segmentation
from jaxcnn.text import printable
from jaxcnn.training.trained_model import ModelInfo

_TOP = 3
"""Number of classes in a line of text."""


class Prediction(NamedTuple):
    """The prediction for an image file.

    Attributes:
      path: of the file.
      folder: the folder that was given, in which it was found; None for a file that was given itself.
      image: its pixels in [0, 1], shape (height, width, channels).
      output: what the task decodes: probabilities of classes, numbers, or a mask.
    """

    path: Path
    folder: Path | None
    image: np.ndarray
    output: Any


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
    masks = options.masks or options.run / "masks"
    is_segmentation = isinstance(info.task, Segmentation)
    describe = _Masks(info.class_names, top, masks) if is_segmentation else _Numbers(info.class_names, top)
    form: Format = _Json() if options.json else _Csv(describe.columns) if options.csv else _Text()
    with reported(OSError), contextlib.ExitStack() as stack:
        file = None if options.output is None else stack.enter_context(written_whole(options.output))

        def emit(lines: list[str]) -> None:
            text = "".join(f"{line}\n" for line in lines)
            if file is not None:
                file.write(text.encode())
            elif text:
                say(text.removesuffix("\n"), flush=True)

        def write(results: Results) -> None:
            emit(form.lines([_unreadable(one) if isinstance(one, Unreadable) else describe(one) for one in results]))

        emit(form.begin())
        yield write
        emit(form.end())
        if is_segmentation and not (options.json or options.csv):
            say(f"masks and overlays: {shown(masks)}")


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
    """Writes masks and overlays, and describes them; files of a folder keep their places in it."""

    columns = ("file", "rank", "class", "share", "mask", "overlay")

    def __init__(self, class_names: tuple[str, ...], top: int | None, folder: Path) -> None:
        self._class_names, self._top, self._folder = class_names, top, folder
        self._used: set[Path] = set()

    def __call__(self, prediction: Prediction) -> Record:
        mask, name = prediction.output, self._new_name(prediction)
        mask_file = name.with_name(f"{name.name}_mask.png")
        overlay_file = name.with_name(f"{name.name}_overlay.png")
        name.parent.mkdir(parents=True, exist_ok=True)
        write_mask(mask_file, mask)
        write_overlay(overlay_file, prediction.image, mask, len(self._class_names))
        shares = np.bincount(mask.ravel(), minlength=len(self._class_names)) / mask.size
        return {
            "file": str(prediction.path),
            "mask": str(mask_file),
            "overlay": str(overlay_file),
            "classes": _ranked(self._class_names, shares, self._top, "share"),
        }

    def _new_name(self, prediction: Prediction) -> Path:
        path, folder = prediction.path, prediction.folder
        inside = Path() if folder is None else path.parent.relative_to(folder)
        number, name = 1, self._folder / inside / path.stem
        while name in self._used:
            number += 1
            name = self._folder / inside / f"{path.stem}-{number}"
        self._used.add(name)
        return name


def _ranked(class_names: Sequence[str], numbers: np.ndarray, top: int | None, what: str) -> list[Record]:
    order = np.argsort(-numbers, kind="stable")[:top]
    return [{"class": class_names[k], what: _number(numbers[k])} for k in order]


def _number(number: Any) -> float | None:
    """Rounds to 6 digits, since more are noise in float32; None for NaN and infinity, which JSON does not have."""
    return float(f"{number:.6g}") if math.isfinite(number) else None


class _Text:
    """One line for each image, aligned within a batch. Unreadable images have no line; they are reported at the end."""

    def begin(self) -> list[str]:
        return []

    def lines(self, records: Sequence[Record]) -> list[str]:
        rows = [(shown(record["file"]), record) for record in records if "error" not in record]
        width = max((len(file) for file, _ in rows), default=0)
        return [f"{file:<{width}}  {'  '.join(self._parts(record))}" for file, record in rows]

    def end(self) -> list[str]:
        return []

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
        if "classes" in record:
            return [single | {"rank": rank, **row} for rank, row in enumerate(record["classes"], start=1)]
        return [single]

    def _table(self, rows: Sequence[Record]) -> list[str]:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for row in rows:
            cells = (row.get(column) for column in self._columns)
            writer.writerow([printable(cell) if isinstance(cell, str) else cell for cell in cells])
        return text.getvalue().splitlines()
