"""The pictures of a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxcnn import data, plots
from jaxcnn.cli.errors import reported
from jaxcnn.cli.options import Train
from jaxcnn.data import Source
from jaxcnn.tasks import Classification, Detection, Segmentation
from jaxcnn.training import make_predict_step, predict
from jaxcnn.training.run_folder import RunFolder
from jaxcnn.training.runs import EVAL_BATCH_SIZE, Result
from jaxcnn.types import Layer, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EXAMPLES = 12
"""Number of examples in the picture of masks; half as many in that of boxes, which need more room."""

_RESULTS = {Segmentation: "masks", Detection: "boxes"}
"""The picture of the results of a task."""


def missing(folder: RunFolder) -> bool:
    """Tells whether a finished run lacks a picture: it may have been killed while they were drawn.

    Args:
      folder: the run folder.
    """
    return not all((folder.path / f"{name}.png").exists() for name in _names(folder.task))


def draw_curves(folder: RunFolder, options: Train, history: list[dict[str, Any]], best_epoch: int) -> None:
    """Draws loss and metric over the epochs.

    Args:
      folder: the run folder.
      options: the options of the run.
      history: the metrics of each epoch; nothing is drawn without an epoch.
      best_epoch: the best of them.
    """
    if not history:
        return
    objective = folder.task.objective
    # A figure that is not a share of 1 is not drawn in percent.
    metric = objective.figure if objective.larger_is_better else None
    note = None if options.recipe.augmentation is None else "augmented images, before each step's update"
    subtitle = _subtitle(options, f"seed {options.recipe.seed}")
    curves = plots.curves(history, metric=metric, best_epoch=best_epoch, train_note=note, subtitle=subtitle)
    _save(folder, "curves", curves)


def draw(folder: RunFolder, options: Train, test: Source, layer: Layer, result: Result) -> None:
    """Draws all pictures of a finished run.

    Args:
      folder: the run folder.
      options: the options of the run.
      test: its test set.
      layer: its model.
      result: its result.
    """
    draw_curves(folder, options, result.history, result.best_epoch)
    task, subtitle = folder.task, _subtitle(options, "test set")
    if isinstance(task, Classification):
        probabilities = _outputs(test, layer, task, options, result)
        labels, predictions = _entry(test, "label"), probabilities.argmax(1)
        _save(folder, "confusion", plots.confusion(labels, predictions, test.class_names, subtitle=subtitle))
        mistakes = plots.mistakes(
            lambda shown: _drawable(data.gather(test, shown, ["image"])["image"]),
            labels,
            predictions,
            probabilities,
            test.class_names,
            subtitle=subtitle,
        )
        _save(folder, "mistakes", mistakes)
    if isinstance(task, Segmentation):
        few = data.Subset(test, np.arange(min(_EXAMPLES, len(test))))
        masks = plots.segmentations(
            _drawable(_entry(few, "image")),
            _entry(few, "mask"),
            _outputs(few, layer, task, options, result),
            test.class_names,
            ignore_index=task.ignore_index,
            subtitle=subtitle,
        )
        _save(folder, "masks", masks)
    if isinstance(task, Detection):
        few = data.Subset(test, np.arange(min(_EXAMPLES // 2, len(test))))
        found = _outputs(few, layer, task, options, result)
        examples = [few[i] for i in range(len(few))]
        boxes = plots.detections(
            list(_drawable(_entry(few, "image"))),
            [{name: array[i] for name, array in found.items()} for i in range(len(few))],
            test.class_names,
            objects=examples,
            subtitle=subtitle,
        )
        _save(folder, "boxes", boxes)


def _names(task: Task) -> tuple[str, ...]:
    if isinstance(task, Classification):
        return "curves", "confusion", "mistakes"
    return ("curves", *(name for kind, name in _RESULTS.items() if isinstance(task, kind)))


def _subtitle(options: Train, part: str) -> str:
    return f"{options.model_name} on {Path(options.data).name}, {part}"


def _outputs(source: Source, layer: Layer, task: Task, options: Train, result: Result) -> Any:
    """Returns the predictions for all examples."""
    step = make_predict_step(layer, task, precision=options.recipe.precision)
    batches = data.eval_batches(source, min(EVAL_BATCH_SIZE, len(source)))
    return predict(step, result.params, result.state, batches)


def _entry(source: Source, name: str) -> np.ndarray:
    """Reads an entry of all examples."""
    return data.gather(source, np.arange(len(source)), [name])[name]


def _drawable(images: np.ndarray) -> np.ndarray:
    """Scales images to [0, 1]. An image that is neither grey nor RGB becomes the mean of its channels."""
    images = data.unit_pixels(images)
    return images if images.shape[3] in (1, 3) else images.mean(axis=3, keepdims=True)


def _save(folder: RunFolder, name: str, figure: "Figure") -> None:
    with reported(OSError):
        plots.save(figure, folder.path / f"{name}.png")
