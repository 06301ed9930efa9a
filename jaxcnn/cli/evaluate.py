"""`jaxcnn evaluate`."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxcnn import data, training
from jaxcnn.cli import names, trained
from jaxcnn.cli.activity import Activity
from jaxcnn.cli.errors import CommandError, reported
from jaxcnn.cli.options import Evaluate
from jaxcnn.cli.terminal import columns, say, shown
from jaxcnn.data import Source, named
from jaxcnn.tables import Table
from jaxcnn.tasks import Classification, MultiLabel, Regression, Segmentation
from jaxcnn.training.experiment import evaluation_task
from jaxcnn.training.run_folder import RunFolder
from jaxcnn.training.trained_model import ModelInfo
from jaxcnn.types import Mean, Task

_WORDS = {"ap50": "AP50", "iou": "IoU", "f1": "F1", "top5": "top-5"}
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
    task = _detailed(run.info.task)
    if options.boundary_iou:
        if not isinstance(task, Segmentation):
            raise CommandError(f"--boundary-iou expects a run of segmentation, got {type(task).__name__}; omit it")
        task = dataclasses.replace(task, boundary_width=_BOUNDARY_WIDTH)
    with Activity(f"evaluating {len(source):,} examples"), reported(ValueError):
        sums = training.evaluate(
            training.make_eval_step(run.layer, task, precision=run.info.precision),
            run.params,
            run.state,
            data.eval_batches(source, options.batch_size),
            count=len(source),
        )
    if options.json:
        say(json.dumps(_record(options, run.info, part, len(source), sums), indent=2))
        return 0
    loss = sums.pop("loss")
    say(f"epoch {run.info.epoch}, {shown(part)}: {_figures(task, sums)}, loss {float(loss.value):.4f}")
    _print_classes(sums, run.info.class_names)
    return 0


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
    if options.skip_bad:
        words["skip_bad"] = True
    # Images that already are arrays must have the size of the run, unless the run resized such images too.
    if info.fitted is not None or "class_names" in takes:
        words["image_size"] = info.preprocessing
    return words


def _detailed(task: Task) -> Any:
    """Returns the task of evaluation, which measures each class."""
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
            **{figure: _number(values[k]) for figure, values in each.items()},
            **{figure: int(column[k]) for figure, column in counts.items()},
        }
        for k, name in enumerate(info.class_names)
    ]
    return {
        "run": str(options.run),
        "epoch": info.epoch,
        "data": part,
        "examples": count,
        "loss": _number(float(sums.pop("loss").value)),
        **{name: _number(value) for name, value in _detailed(info.task).report(sums).items()},
        **({"classes": classes} if each else {}),
    }


def _of_classes(sums: Mapping[str, Mean]) -> dict[str, np.ndarray]:
    names = sorted((name for name, mean in sums.items() if np.ndim(mean.total) == 1), key=_ORDER.index)
    return {name: np.asarray(sums[name].value) for name in names}


def _counts(sums: Mapping[str, Mean]) -> dict[str, np.ndarray]:
    """Returns the number of examples of each class, which is the weight of its recall."""
    return {"count": np.rint(sums["recall"].weight).astype(int)} if "recall" in sums else {}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _worded(name: str) -> str:
    return " ".join(_WORDS.get(word, word) for word in name.split("_"))
