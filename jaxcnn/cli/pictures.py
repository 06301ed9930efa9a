"""The pictures of a run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxcnn import data, plots
from jaxcnn.cli import detected
from jaxcnn.cli.errors import reported
from jaxcnn.cli.options import Train
from jaxcnn.data import Source
from jaxcnn.files import written_whole
from jaxcnn.plots.figures import counted
from jaxcnn.tasks import Classification, Detection, Segmentation
from jaxcnn.training import make_predict_step, predict
from jaxcnn.training.many import Runs
from jaxcnn.training.run_folder import RunFolder
from jaxcnn.training.runs import EVAL_BATCH_SIZE, Result
from jaxcnn.training.trained_model import ModelInfo, TrainedModel
from jaxcnn.types import Layer, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COCO = "coco.json"
"""The file of COCO's figures of a detector on the test set, in the run folder."""

_EXAMPLES = 12
"""Number of examples in the picture of masks."""


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
    save({"curves": curves}, folder.path)


def draw_runs(options: Train, runs: Runs, folder: Path) -> None:
    """Draws the mean curves of several runs, with the confidence interval of the mean.

    Args:
      options: the options of the runs.
      runs: the runs; nothing is drawn if none has finished an epoch.
      folder: their folder.
    """
    histories = [
        result.history for place, result in enumerate(runs.results) if result.history and place not in runs.diverged
    ]
    paths = [result.folder for result in runs.results if result.folder is not None]
    if not histories:
        return
    objective = RunFolder(paths[0]).task.objective
    metric = objective.figure if objective.larger_is_better else None
    if metric is not None and not all(any(row[f"validation_{metric}"] is not None for row in h) for h in histories):
        metric = None  # undefined in all epochs of a run
    labels, subtitle = [options.model_name] * len(histories), _subtitle(options, counted(len(histories), "seed"))
    figure = plots.comparison(histories, labels, metric=metric, subtitle=subtitle, band="confidence")
    save({"runs": figure}, folder)


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
    subtitle, task = _subtitle(options, "test set"), folder.task
    shape: Any = test.spec["image"].shape
    info = ModelInfo(shape, test.class_names, task, options.recipe.precision, result.best_epoch, ())
    run = TrainedModel(layer, result.params, result.state, info)
    if isinstance(task, Detection):
        found = detected.detect(run, test, EVAL_BATCH_SIZE)
        coco = found.figures() if detected.has_coco_tools() else {}
        figures = detected.draw(found, coco, subtitle)
        if coco:
            with reported(OSError), written_whole(folder.path / COCO) as file:
                file.write(json.dumps(detected.record(coco), indent=2).encode())
    else:
        figures = draw_results(run, test, subtitle)
    save(figures, folder.path)


def coco_text(folder: RunFolder) -> str:
    """Formats COCO's average precision on the test set; "" where it was not computed.

    Args:
      folder: the folder of a finished run.
    """
    try:
        kinds = json.loads((folder.path / COCO).read_text(encoding="utf-8"))["coco"]
        parts = [
            f"{'' if kind == 'box' else f'{kind} '}{name} {'-' if figures[name] is None else f'{figures[name]:.2%}'}"
            for kind, figures in kinds.items()
            for name in ("AP", "AP50", "AP75")
        ]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return ""
    return f"{', '.join(parts)} (COCO)"


def draw_results(run: TrainedModel, source: Source, subtitle: str) -> "dict[str, Figure]":
    """Draws the results of a classification or a segmentation.

    Args:
      run: the trained model.
      source: the examples.
      subtitle: names model, data and set.

    Returns:
      Figures by the names of their files; none for other tasks.
    """
    task = run.info.task
    if isinstance(task, Classification):
        probabilities = _outputs(source, run)
        labels, predictions = _entry(source, "label"), probabilities.argmax(1)
        return {
            "confusion": plots.confusion(labels, predictions, source.class_names, subtitle=subtitle),
            "mistakes": plots.mistakes(
                lambda shown: _drawable(data.gather(source, shown, ["image"])["image"]),
                labels,
                predictions,
                probabilities,
                source.class_names,
                subtitle=subtitle,
            ),
        }
    if isinstance(task, Segmentation):
        few = data.Subset(source, np.arange(min(_EXAMPLES, len(source))))
        masks = plots.segmentations(
            _drawable(_entry(few, "image")),
            _entry(few, "mask"),
            _outputs(few, run),
            source.class_names,
            ignore_index=task.ignore_index,
            subtitle=subtitle,
        )
        return {"masks": masks}
    return {}


def save(figures: "Mapping[str, Figure]", folder: Path) -> None:
    """Writes figures as PNG files.

    Args:
      figures: by the names of their files.
      folder: an existing folder.

    Raises:
      CommandError: a file cannot be written.
    """
    for name, figure in figures.items():
        with reported(OSError):
            plots.save(figure, folder / f"{name}.png")


def _names(task: Task) -> tuple[str, ...]:
    if isinstance(task, Classification):
        return "curves", "confusion", "mistakes"
    if isinstance(task, Detection):
        return "curves", "boxes", "confusion", "mistakes"
    return ("curves", "masks") if isinstance(task, Segmentation) else ("curves",)


def _subtitle(options: Train, part: str) -> str:
    return f"{options.model_name} on {Path(options.data).name}, {part}"


def _outputs(source: Source, run: TrainedModel) -> Any:
    """Returns the predictions for all examples."""
    step = make_predict_step(run.layer, run.info.task, precision=run.info.precision)
    batches = data.eval_batches(source, min(EVAL_BATCH_SIZE, len(source)))
    return predict(step, run.params, run.state, batches)


def _entry(source: Source, name: str) -> np.ndarray:
    """Reads an entry of all examples."""
    return data.gather(source, np.arange(len(source)), [name])[name]


def _drawable(images: np.ndarray) -> np.ndarray:
    """Scales images to [0, 1]. An image that is neither grey nor RGB becomes the mean of its channels."""
    images = data.unit_pixels(images)
    return images if images.shape[3] in (1, 3) else images.mean(axis=3, keepdims=True)
