"""Observers that send the figures of a training to an experiment tracker: TensorBoard, or Weights & Biases.

    run(lenet5(), data.digits(), folder="runs/digits", observers=[TensorBoard()])

Both get one point for each epoch, at its step. They are called in the training thread, so that an error of the tracker
ends the training.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxcnn.training.observers import Observer, Start
from jaxcnn.training.run_folder import RunFolder, listed_runs

_NOT_LOGGED = ("epoch", "step")


class TensorBoard(Observer):
    """Writes the figures of each epoch to an event file for TensorBoard, with tensorboardX.

    The tags are "train/loss", "validation/loss" and so on, "learning_rate", "images_per_second", "waiting_for_data" and
    "epoch"; a finished
    training adds "test/loss" and so on, of the best epoch, at the last step. `tensorboard --logdir FOLDER` shows them.
    A resumed training hides the points after its checkpoint, which it writes again.

    Args:
      folder: folder of the event files; the folder "tensorboard" in the run folder if None.

    Raises:
      ImportError: tensorboardX is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        try:
            import tensorboardX
        except ImportError as error:
            raise ImportError("TensorBoard expects tensorboardX; pip install 'jaxcnn[tensorboard]'") from error
        self._folder, self._make_writer = folder, tensorboardX.SummaryWriter

    def on_start(self, start: Start) -> None:
        """Opens the event file.

        Args:
          start: facts about the training.

        Raises:
          ValueError: there is neither a folder nor a run folder.
        """
        if self._folder is None and start.folder is None:
            raise ValueError("TensorBoard expects a folder, or a training with a run folder, got neither")
        folder = Path(start.folder or "") / "tensorboard" if self._folder is None else Path(self._folder)
        self._step = start.first_step
        purge_step = start.first_step + 1 if start.first_step else None
        # tensorboardX names files by the second: a training resumed within one must not replace its first file.
        suffix = f".{start.first_step}" if start.first_step else ""
        self._writer = self._make_writer(str(folder), purge_step=purge_step, filename_suffix=suffix)

    def on_epoch(self, row: dict[str, Any], best: bool) -> None:
        """Writes the figures of an epoch.

        Args:
          row: the line of metrics.
          best: whether it is the best so far.
        """
        self._step = row["step"]
        self._write({"epoch": row["epoch"], **_figures(row)})

    def on_end(self, result: Any) -> None:
        """Writes the figures of the test set, and closes the event file.

        Args:
          result: the result of the training.
        """
        self._write(_test_figures(result.figures))
        self._writer.close()

    def _write(self, figures: Mapping[str, float]) -> None:
        for tag, value in figures.items():
            self._writer.add_scalar(tag, value, self._step)
        # A killed training keeps its finished epochs.
        self._writer.flush()


class WeightsAndBiases(Observer):
    """Sends the figures of each epoch to Weights & Biases.

    The names are those of `TensorBoard`; the figures of the test set and the best epoch are in the summary. The run
    there has the identity of the run folder, and a resumed training continues it.

    Args:
      project: name of the project.
      config: what to record about the training, such as `recipe.to_json()`.
      **options: more options of `wandb.init`, such as `mode="offline"`.

    Raises:
      ImportError: wandb is not installed.
    """

    def __init__(self, project: str, *, config: Mapping[str, Any] | None = None, **options: Any) -> None:
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError("WeightsAndBiases expects wandb; pip install 'jaxcnn[wandb]'") from error
        self._init, self._options = wandb.init, {"project": project, "config": dict(config or {}), **options}

    def on_start(self, start: Start) -> None:
        """Starts or continues a run.

        Args:
          start: facts about the training.
        """
        place: dict[str, Any] = {}
        if start.folder is not None and listed_runs(start.folder):
            # The folder of several runs, which has no identity of its own.
            place = {"name": Path(start.folder).name}
        elif start.folder is not None:
            folder = RunFolder(start.folder)
            place = {"id": folder.id, "name": folder.path.name, "resume": "allow"}
        about = {"parameters": start.parameters, "examples": start.examples, "image_shape": list(start.image_shape)}
        options = place | self._options
        self._run = self._init(**options | {"config": about | options["config"]})

    def on_epoch(self, row: dict[str, Any], best: bool) -> None:
        """Sends the figures of an epoch.

        Args:
          row: the line of metrics.
          best: whether it is the best so far.
        """
        self._run.log({"epoch": row["epoch"], **_figures(row)}, step=row["step"])

    def on_end(self, result: Any) -> None:
        """Sends the figures of the test set, and ends the run there.

        Args:
          result: the result of the training.
        """
        self._run.summary.update({"best_epoch": result.best_epoch, **_test_figures(result.figures)})
        self._run.finish()


def _figures(row: Mapping[str, Any]) -> dict[str, float]:
    """Names the figures of an epoch as trackers group them; a figure that is not finite is left out."""
    return {_tag(name): value for name, value in row.items() if name not in _NOT_LOGGED and value is not None}


def _test_figures(figures: Mapping[str, Any]) -> dict[str, float]:
    """Names the figures of the test set that the validation set has too, without counts of images."""
    measured = {name: value for name, value in figures.items() if name.replace("test_", "validation_", 1) in figures}
    return _figures({name: value for name, value in measured.items() if name.startswith("test_")})


def _tag(name: str) -> str:
    part, _, figure = name.partition("_")
    return f"{part}/{figure}" if part in ("train", "validation", "test") else name
