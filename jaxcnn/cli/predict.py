"""`jaxcnn predict`."""

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from jaxcnn import training
from jaxcnn.cli import names, trained
from jaxcnn.cli.activity import Activity
from jaxcnn.cli.errors import CommandError, flag, reported
from jaxcnn.cli.options import Predict
from jaxcnn.cli.predictions import Prediction, Unreadable, make_writer
from jaxcnn.cli.terminal import complain, shown
from jaxcnn.data.pictures import EXTENSIONS, FitPicture, PictureError, Placement, picture_size
from jaxcnn.data.prefetch import ahead
from jaxcnn.models.detection.faster_rcnn import FasterRCNN
from jaxcnn.models.normalized import Normalized
from jaxcnn.tasks import Detection, Segmentation
from jaxcnn.training.trained_model import TrainedModel
from jaxcnn.types import Layer, Task

T = TypeVar("T")


def predict(options: Predict) -> int:
    """Prints the likeliest classes or the objects of image files, or writes their masks.

    The images are read and written batch by batch. Standard error shows the progress if it is a terminal, and names the
    unreadable images after the predictions.

    Args:
      options: the run and the images.

    Returns:
      The exit status: 0, or 1 if some images could not be read, or 2 if none could.

    Raises:
      CommandError: the run cannot be read, its model does not take pictures, an option is not for its task, or an
        output cannot be written.
    """
    _check(options)
    with Activity("reading the run"):
        run = trained.load(options.run, options.layer)
    _check_task(options, run.info.task)
    if options.agnostic:
        run = _agnostic(run)
    shape = run.info.image_shape
    if shape[2] not in (1, 3):
        raise CommandError(f"predict reads images of 1 or 3 channels, but the model of the run takes {shape[2]}")
    errors, count = [], 0
    with make_writer(options, run.info) as write, Activity("predicting") as activity:
        for results in _predicted(run, options):
            with activity.hidden():
                write(results)
            errors += [result.error for result in results if isinstance(result, Unreadable)]
            count += len(results)
            activity.update(f"predicting, {count:,} image{'s' if count > 1 else ''} so far")
    for error in errors:
        complain(f"error: {error}")
    if 0 < len(errors) < count:
        complain(f"{len(errors)} of {count} images could not be read")
    if not errors:
        return 0
    return 1 if len(errors) < count else 2


def _check(options: Predict) -> None:
    if not options.images:
        raise CommandError("predict expects image files or folders, got none: jaxcnn predict RUN image.png ...")
    names.check_count(options, "top", "batch_size")
    if options.json and options.csv:
        raise CommandError("--json and --csv exclude each other; give one of them")
    if options.coco_ids is not None and options.coco is None:
        raise CommandError("--coco-ids has an effect only with --coco; give both, or omit it")
    if options.min_score is not None and not 0 <= options.min_score <= 1:
        raise CommandError(f"--min-score expects a number in [0, 1], got {options.min_score:g}")


def _check_task(options: Predict, task: Task) -> None:
    """Refuses options for other tasks than that of the run."""
    for name, kinds, words in (
        ("min_score", Detection, "a detector"),
        ("coco", Detection, "a detector"),
        ("agnostic", Detection, "a detector"),
        ("overlays", Detection | Segmentation, "a segmentation or a detector"),
    ):
        value = getattr(options, name)
        if value is not None and value is not False and not isinstance(task, kinds):
            raise CommandError(f"{flag(name)} expects a run of {words}, got {type(task).__name__}; omit it")


def _agnostic(run: TrainedModel) -> TrainedModel:
    """Returns a detector in which objects of different classes suppress each other."""

    def changed(layer: Layer) -> Layer:
        if isinstance(layer, Normalized):
            return dataclasses.replace(layer, body=changed(layer.body))
        # Some of them choose the detections themselves, without the task.
        return dataclasses.replace(layer, agnostic=True) if isinstance(layer, FasterRCNN) else layer

    task: Any = run.info.task
    task = dataclasses.replace(task, agnostic=True)
    return run._replace(layer=changed(run.layer), info=run.info._replace(task=task))


class _File(NamedTuple):
    """An image file to read.

    Attributes:
      path: of the file.
      folder: the folder that was given, in which it was found; None for a file that was given itself.
      fault: why there is nothing to read, or "".
    """

    path: Path
    folder: Path | None
    fault: str = ""


def _files(paths: Iterable[Path]) -> Iterator[_File]:
    """Yields the files, and the pictures in the folders in the order of their names."""
    for path in paths:
        if not path.is_dir():
            yield _File(path, None)
            continue
        found = False
        for file in _files_below(path):
            found = True
            yield file
        if not found:
            yield _File(
                path, None, f"expected pictures ({', '.join(EXTENSIONS)}) in the folder {str(path)!r}, got none"
            )


def _files_below(folder: Path) -> Iterator[_File]:
    """Yields the picture files of a folder at any depth, by their extension; hidden ones are ignored."""
    unreadable: list[OSError] = []
    for place, folders, files in os.walk(folder, onerror=unreadable.append):
        # `walk` visits the folders in this order.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in EXTENSIONS:
                yield _File(Path(place) / name, folder)
    for error in unreadable:
        fault = f"expected a folder that can be read, got {error.filename!r}: {error.strerror}"
        yield _File(Path(error.filename), folder, fault)


class _Read(NamedTuple):
    """A file with its image, and where its picture lies in it; or with the reason why it has none."""

    file: _File
    image: np.ndarray | None
    placement: Placement | None = None
    error: str = ""


def _read(file: _File, fit: FitPicture, placed: bool) -> _Read:
    try:
        if file.fault:
            raise PictureError(file.fault)
        image = read_image(file.path, fit)
        placement = fit.placement(*picture_size(file.path)) if placed else None
    except PictureError as error:
        # Name the file as the lines of predictions do, which escape bytes that are not UTF-8 in another way.
        return _Read(file, None, error=str(error).replace(repr(str(file.path)), f"'{shown(file.path)}'"))
    return _Read(file, image, placement)


def _predicted(run: TrainedModel, options: Predict) -> Iterator[list[Prediction | Unreadable]]:
    """Yields the predictions of each batch of files, in order; a thread reads the next batch meanwhile."""
    step = training.make_predict_step(run.layer, run.info.task, precision=run.info.precision)
    fit, size = run.info.preprocessing, None
    assert fit is not None  # the number of channels has been checked
    placed = isinstance(run.info.task, Detection)
    read = (_read(file, fit, placed) for file in _files(options.images))
    with contextlib.closing(ahead(_chunks(read, options.batch_size), 1)) as chunks:
        for chunk in chunks:
            images = [one.image for one in chunk if one.image is not None]
            outputs: Iterator[Any] = iter(())
            if images:
                # One compiled program for all batches; few images need only a small batch.
                size = size or len(chunk)
                pixels = np.stack(images)
                batches = training.image_batches(1 - pixels if options.invert else pixels, size)
                found = training.predict(step, run.params, run.state, batches, prefetch=0)
                outputs = iter([jax.tree.map(lambda leaf, i=i: leaf[i], found) for i in range(len(images))])
            yield [
                Unreadable(one.file.path, one.error)
                if one.image is None
                else _prediction(one, one.image, next(outputs))
                for one in chunk
            ]


def _prediction(read: _Read, image: np.ndarray, output: Any) -> Prediction:
    moved = output if read.placement is None else read.placement.original_detections(output)
    return Prediction(read.file.path, read.file.folder, image, moved, read.placement, output)


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def read_image(path: Path, fit: FitPicture) -> np.ndarray:
    """Reads an image file and fits it, as the images of the run were fitted.

    Args:
      path: an image file.
      fit: fits it into the shape of the images; 1 channel is grey, 3 are red, green and blue.

    Returns:
      The image, float32 in [0, 1].

    Raises:
      PictureError: the file does not exist or cannot be read as a picture.
      CommandError: Pillow is not installed.
    """
    with reported(ImportError):
        return fit(fit.read(path))
