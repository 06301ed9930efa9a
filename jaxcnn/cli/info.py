"""`jaxcnn data info`."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxcnn import data, plots
from jaxcnn.cli import names
from jaxcnn.cli.errors import CommandError, reported
from jaxcnn.cli.options import DataInfo
from jaxcnn.cli.terminal import columns, make_console, say, shown
from jaxcnn.data import FitPicture, Source, named
from jaxcnn.data.sources.source import fitted, gather
from jaxcnn.data.surveying import PartSurvey, Survey
from jaxcnn.files import check_target
from jaxcnn.tables import Table

_ACROSS, _ROWS, _THUMBNAIL = 8, 20, 96
"""Images in a row, rows of a contact sheet, and pixels of an image."""


def info(options: DataInfo) -> int:
    """Prints what a data set holds and what is likely to be wrong with it, and draws a contact sheet.

    Args:
      options: the data and the picture.

    Returns:
      The exit status, 0.

    Raises:
      CommandError: the data cannot be read, or the picture cannot be written.
    """
    if options.limit is not None and options.limit < 1:
        raise CommandError(f"--limit expects a number at least 1, got {options.limit}")
    if options.output.suffix.lower() != ".png":
        raise CommandError(f"--output expects a file with the extension .png, got {shown(options.output)}")
    with reported(OSError):
        check_target(options.output)
    reading = {"labels": options.labels, "separator": options.separator, **_skipping(options.name)}
    source = names.load_data(options.name, **reading, **names.object_reading(options))
    parts = dict(source) if isinstance(source, Mapping) else {"train": source}
    with reported(ValueError, OSError, ImportError), _progress() as progress:
        found = data.survey(parts, limit=options.limit, progress=progress)
        figure = plots.contact_sheet(
            _rows(parts["train"] if "train" in parts else next(iter(parts.values()))),
            title="Examples",
            subtitles=[f"{options.name}, {sum(len(part) for part in parts.values()):,} images"],
        )
        plots.save(figure, options.output)
    if options.json:
        say(json.dumps(_record(options, found), indent=2))
        return 0
    _print(options, parts, found, is_whole=not isinstance(source, Mapping))
    return 0


def _skipping(name: str) -> dict[str, bool]:
    """Reads what can be read, where files are read: the others are listed."""
    place = named.find(name)
    takes = named.SCHEMES[place.scheme].takes if place and place.scheme else frozenset()
    return {"skip_bad": True} if "skip_bad" in takes else {}


def _print(options: DataInfo, parts: Mapping[str, Source], found: Survey, *, is_whole: bool) -> None:
    spec = next(iter(parts.values())).spec
    entries = ", ".join(f"{name} {entry.dtype}" for name, entry in spec.items())
    total = sum(part.examples for part in found.parts.values())
    channels = spec["image"].shape[2]
    say(f"{shown(options.name)}: {total:,} examples of {entries}, {channels} channel{'' if channels == 1 else 's'}\n")
    headings = ("part", "examples", "smallest", "median", "largest", "mean", "std")
    rows = [
        (
            "all" if is_whole else name,
            f"{part.examples:,}",
            *(f"{height}x{width}" for height, width in part.sizes),
            " ".join(f"{value:.3f}" for value in part.mean),
            " ".join(f"{value:.3f}" for value in part.std),
        )
        for name, part in found.parts.items()
    ]
    say(Table(headings, rows, [], left=(0,), counts=(), spare=(2, 4)).text(columns()))
    _print_classes(found.parts, "pixels" if "mask" in spec else "objects" if "boxes" in spec else "count", is_whole)
    _print_objects(found.parts, is_whole)
    for name, part in found.parts.items():
        for number, (low, mean, high) in enumerate(part.target, start=1):
            say(f"\ntarget {number} in {name}: {low:g} to {high:g}, mean {mean:g}")
    read = sum(part.surveyed for part in found.parts.values())
    if read < total:
        say(f"\n{read:,} images were read: sizes, mean, std and the warnings about pictures are of these")
    say("" if found.warnings else "\nno warnings")
    for warning in found.warnings:
        say(f"warning: {shown(warning)}")
    say(f"contact sheet: {shown(options.output)}")


def _print_classes(parts: Mapping[str, PartSurvey], what: str, is_whole: bool) -> None:
    classes = list(next(iter(parts.values())).counts)
    if not classes:
        return
    rows = [(shown(name), *(f"{part.counts[name]:,}" for part in parts.values())) for name in classes]
    headings = ("class", *([what] if is_whole else parts))
    say("\n" + Table(headings, rows, [], left=(0,), counts=(), spare=()).text(columns()))


def _print_objects(parts: Mapping[str, PartSurvey], is_whole: bool) -> None:
    rows = []
    for name, part in parts.items():
        if part.objects is None:
            return
        images = part.objects.images
        total = sum(number * count for number, count in enumerate(images))
        rows.append(
            (
                "all" if is_whole else name,
                f"{total:,}",
                f"{images[0]:,}",
                f"{total / part.examples:.1f}",
                f"{len(images) - 1:,}",
                *(f"{height:.0f}x{width:.0f}" for height, width in part.objects.sizes or [(0, 0)] * 3),
                f"{part.objects.crowds:,}",
                f"{part.objects.difficult:,}",
            )
        )
    headings = ("part", "objects", "images without", "mean in an image", "most", "smallest", "median", "largest")
    table = Table((*headings, "crowds", "difficult"), rows, [], left=(0,), counts=(), spare=(6, 8, 9))
    say("\n" + table.text(columns()))


def _rows(source: Source) -> list[tuple[str, np.ndarray]]:
    """Returns images of each class, or of all, evenly spaced and fitted into squares."""
    spec = source.spec
    if "label" in spec and not spec["label"].shape:
        labels = gather(source, np.arange(len(source)), ["label"])["label"]
        places = {name: _spread(np.flatnonzero(labels == k), _ACROSS) for k, name in enumerate(source.class_names)}
        places = {name: indices for name, indices in places.items() if len(indices)}
    else:
        some = _spread(np.arange(len(source)), 4 * _ACROSS)
        places = {" " * row: some[start : start + _ACROSS] for row, start in enumerate(range(0, len(some), _ACROSS))}
    return [(name.strip(), _thumbnails(source, indices)) for name, indices in list(places.items())[:_ROWS]]


def _spread(indices: np.ndarray, count: int) -> np.ndarray:
    """Returns at most `count` of the indices, evenly spaced: neighbours in a set are often much alike."""
    return indices[np.linspace(0, len(indices) - 1, min(count, len(indices)), dtype=int)]


def _thumbnails(source: Source, indices: np.ndarray) -> np.ndarray:
    channels = source.spec["image"].shape[2] or 0
    fit = FitPicture((_THUMBNAIL, _THUMBNAIL, channels))
    images = np.stack([fitted(source, int(index), fit)["image"] for index in indices])
    pixels = np.divide(images, 255, dtype=np.float32) if images.dtype == np.uint8 else images
    # Images that are neither grey nor RGB are drawn as the mean of their channels.
    return pixels if channels in (1, 3) else pixels.mean(axis=3, keepdims=True)


def _record(options: DataInfo, found: Survey) -> dict[str, Any]:
    return {
        "data": options.name,
        "parts": {name: part._asdict() for name, part in found.parts.items()},
        "same": [[place.name for place in group] for group in found.same],
        "alike": [[place.name for place in pair] for pair in found.alike],
        "unreadable": list(found.faults),
        "warnings": list(found.warnings),
        "contact_sheet": str(options.output),
    }


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Shows on standard error how many images were read, if it is a terminal."""
    console = make_console(stderr=True)
    kinds = (TextColumn("reading"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*kinds, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
