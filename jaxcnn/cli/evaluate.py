"""`jaxcnn evaluate`."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn import data, evaluation, training
from jaxcnn.cli import detected, names, pictures, trained
from jaxcnn.cli.activity import Activity
from jaxcnn.cli.detected import finite
from jaxcnn.cli.errors import CommandError, flag, reported
from jaxcnn.cli.options import Evaluate
from jaxcnn.cli.terminal import columns, say, shown
from jaxcnn.data import Source, named
from jaxcnn.tables import Table
from jaxcnn.tasks import Classification, Detection, MultiLabel, Regression, Segmentation
from jaxcnn.training.experiment import evaluation_task
from jaxcnn.training.run_folder import RunFolder
from jaxcnn.training.trained_model import ModelInfo, TrainedModel
from jaxcnn.types import Mean, Task

_WORDS = {"iou": "IoU", "f1": "F1", "top5": "top-5"}
"""Parts of the names of figures, and how text shows them."""

_KINDS = {Classification: "classes", MultiLabel: "multi-label", Regression: "numbers"}
"""What the labels of a table are, by the task."""

_ORDER = ("precision", "recall", "f1", "iou", "dice", "boundary_iou")
"""Order of the figures of each class; compiled functions sort theirs."""


_BOUNDARY_WIDTH = 0.02
"""Width of the bands of the boundary IoU, as a part of the image's diagonal (Cheng et al. 2021, section 4.2)."""


def evaluate(options: Evaluate) -> int:
    """Evaluates the best epoch of a run on every example of a split or of other data, and prints its figures.

    Args:
      options: the run and the data.

    Returns:
      The exit status, 0.

    Raises:
      CommandError: the run or the data cannot be read, or the data do not have the images and classes of the run.
    """
    names.check_count(options, "batch_size")
    with Activity("reading the run and the data"):
        run = trained.load(options.run, options.layer)
        source, part = _source(options, run.info)
    task = _checked_task(options, run.info.task)
    with Activity(f"evaluating {len(source):,} examples"), reported(ValueError):
        sums = training.evaluate(
            training.make_eval_step(run.layer, task, precision=run.info.precision),
            run.params,
            run.state,
            data.eval_batches(source, options.batch_size),
            count=len(source),
        )
    subtitle = f"{Path(options.run).name}, epoch {run.info.epoch}, on {part}"
    if isinstance(task, Detection):
        return _evaluate_detector(options, run, source, part, sums, subtitle)
    if options.pictures is not None:
        with Activity("drawing the pictures"):
            pictures.save(pictures.draw_results(run, source, subtitle), options.pictures)
    if options.json:
        say(json.dumps(_record(options, run.info, part, len(source), sums), indent=2))
        return 0
    loss = sums.pop("loss")
    say(f"epoch {run.info.epoch}, {shown(part)}: {_figures(task, sums)}, loss {float(loss.value):.4f}")
    _print_classes(sums, run.info.class_names)
    _print_pictures(options)
    return 0


def _evaluate_detector(
    options: Evaluate, run: TrainedModel, source: Source, part: str, sums: dict[str, Mean], subtitle: str
) -> int:
    """Adds COCO's and VOC's figures to the sums of the losses, and prints them."""
    with Activity(f"finding the objects of {len(source):,} examples"), reported(ValueError, ImportError):
        found = detected.detect(run, source, options.batch_size)
        coco = found.figures()
        voc = options.voc and evaluation.voc_figures(found.annotations, found.results, rule=options.voc)
        if options.pictures is not None:
            pictures.save(detected.draw(found, coco, subtitle), options.pictures)
    if options.json:
        say(json.dumps(_described(options, run.info, part, len(source), sums) | detected.record(coco, voc), indent=2))
        return 0
    loss = sums.pop("loss")
    losses = _figures(run.info.task, sums)
    say(f"epoch {run.info.epoch}, {shown(part)}: {len(source):,} images, {losses}, loss {float(loss.value):.4f}\n")
    say(detected.tables(coco, voc, options.voc))
    _print_pictures(options)
    return 0


def _print_pictures(options: Evaluate) -> None:
    if options.pictures is not None:
        say(f"pictures: {shown(options.pictures)}")


def _checked_task(options: Evaluate, task: Task) -> Any:
    """Returns the task of evaluation, after refusing options for other tasks; makes the folder of pictures."""
    for name, kinds, words in (
        ("boundary_iou", Segmentation, "segmentation"),
        ("voc", Detection, "a detector"),
        ("pictures", Classification | Segmentation | Detection, "a classification, a segmentation or a detector"),
    ):
        if getattr(options, name) not in (None, False) and not isinstance(task, kinds):
            raise CommandError(f"{flag(name)} expects a run of {words}, got {type(task).__name__}; omit it")
    with reported(OSError, ImportError):
        if isinstance(task, Detection):
            evaluation.check_coco_tools()
        if options.pictures is not None:
            options.pictures.mkdir(parents=True, exist_ok=True)
    if options.boundary_iou:
        return dataclasses.replace(_detailed(task), boundary_width=_BOUNDARY_WIDTH)
    return _detailed(task)


def _source(options: Evaluate, info: ModelInfo) -> tuple[Source, str]:
    """Reads the data to evaluate, and returns them with a name for the output."""
    split = None if options.split == "auto" else options.split
    if options.data is None:
        split = split or "test"
        return trained.load_splits(options.run)[split], split
    source, name = names.load_part(options.data, split, **_reading(options, info)), options.data
    if "image" in source.spec and None in source.spec["image"].shape and info.preprocessing is not None:
        with reported(ValueError):
            source = data.resized(source, info.preprocessing)
    shape = source.spec["image"].shape if "image" in source.spec else ()
    if shape != info.image_shape:
        expected, got = ("x".join(map(str, one)) for one in (info.image_shape, shape))
        raise CommandError(f"expected images of {expected} in {shown(name)}, as in the run, got {got or 'none'}")
    with reported(ValueError):
        matched = data.match_classes(source, info.class_names)
    return matched, name if split is None else f"{split} of {name}"


def _reading(options: Evaluate, info: ModelInfo) -> dict[str, Any]:
    """Returns how `jaxcnn.data.load` reads pictures: as those of the run."""
    found = named.find(str(options.data))
    takes = named.SCHEMES[found.scheme].takes if found and found.scheme else frozenset()
    stored = RunFolder(options.run).config.get("options", {})
    words = {
        "channels": info.image_shape[2],
        "class_names": info.class_names,
        "kind": _KINDS.get(type(info.task), "auto"),
        "labels": tuple(stored.get("labels", ())),
        "separator": stored.get("separator"),
    }
    words = {name: value for name, value in words.items() if name in takes}
    # What was given, and otherwise what the run was trained with.
    for name, value in names.object_reading(options).items():
        default = Evaluate.__dataclass_fields__[name].default
        if value != default or name in takes:
            words[name] = stored.get(name, default) if value == default and name != "max_objects" else value
    if options.skip_bad:
        words["skip_bad"] = True
    # Images that already are arrays must have the size of the run, unless the run resized such images too.
    if info.fitted is not None or "class_names" in takes:
        words["image_size"] = info.preprocessing
    return words


def _detailed(task: Task) -> Any:
    """Returns the task of evaluation, which measures each class; a detector's figures do not come from its task."""
    if isinstance(task, Detection):
        return task
    task = evaluation_task(task)
    return dataclasses.replace(task, per_class=True) if isinstance(task, Classification) else task


def _figures(task: Task, sums: Mapping[str, Mean]) -> str:
    """Formats the figures that are not for single classes."""
    parts = []
    shares = task.objective.larger_is_better
    for name, value in task.report(dict(sums)).items():
        if name.startswith("mean_") and isinstance(task, Classification):
            continue
        is_share = shares and not name.endswith("_loss")
        text = f"{_worded(name)} {value:.2%}" if is_share else f"{_worded(name)} {value:.4f}"
        if name == "accuracy":
            text += f" ({int(sums[name].total)} of {int(sums[name].weight)})"
        parts.append(text)
    return ", ".join(parts)


def _print_classes(sums: Mapping[str, Mean], class_names: tuple[str, ...]) -> None:
    """Prints a table of the figures of each class."""
    each = _of_classes(sums)
    if not each:
        return
    counts = _counts(sums)
    rows = [
        (
            shown(class_name),
            *("-" if np.isnan(values[k]) else f"{values[k]:.2%}" for values in each.values()),
            *(f"{column[k]:,}" for column in counts.values()),
        )
        for k, class_name in enumerate(class_names)
    ]
    headings = ("class", *map(_worded, each), *counts)
    say("\n" + Table(headings, rows, [], left=(0,), counts=(), spare=()).text(columns()))


def _record(options: Evaluate, info: ModelInfo, part: str, count: int, sums: dict[str, Mean]) -> dict[str, Any]:
    """Describes the evaluation as JSON values."""
    each, counts = _of_classes(sums), _counts(sums)
    classes = [
        {
            "class": name,
            **{figure: finite(values[k]) for figure, values in each.items()},
            **{figure: int(column[k]) for figure, column in counts.items()},
        }
        for k, name in enumerate(info.class_names)
    ]
    return _described(options, info, part, count, sums) | ({"classes": classes} if each else {})


def _described(options: Evaluate, info: ModelInfo, part: str, count: int, sums: dict[str, Mean]) -> dict[str, Any]:
    """Describes the evaluation as JSON values, without the figures of single classes."""
    return {
        "run": str(options.run),
        "epoch": info.epoch,
        "data": part,
        "examples": count,
        "loss": finite(float(sums.pop("loss").value)),
        **{name: finite(value) for name, value in _detailed(info.task).report(sums).items()},
    }


def _of_classes(sums: Mapping[str, Mean]) -> dict[str, np.ndarray]:
    names = sorted((name for name, mean in sums.items() if np.ndim(mean.total) == 1), key=_ORDER.index)
    return {name: np.asarray(sums[name].value) for name in names}


def _counts(sums: Mapping[str, Mean]) -> dict[str, np.ndarray]:
    """Returns the number of examples of each class, which is the weight of its recall."""
    return {"count": np.rint(sums["recall"].weight).astype(int)} if "recall" in sums else {}


def _worded(name: str) -> str:
    return " ".join(_WORDS.get(word, word) for word in name.split("_"))
