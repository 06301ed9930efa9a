"""The trained model of a run folder."""

import os
from typing import NamedTuple

from jaxcnn import trees
from jaxcnn.data import FitPicture
from jaxcnn.layers.flow import structure
from jaxcnn.text import printable
from jaxcnn.training.run_files import RunFolderError
from jaxcnn.training.run_folder import RunFolder
from jaxcnn.types import Layer, Params, Shape, State, Task


class ModelInfo(NamedTuple):
    """Facts about the trained model of a run.

    Attributes:
      image_shape: (height, width, channels) of the images; their pixels are in [0, 1].
      class_names: names of the classes; empty without classes.
      task: the task, which decodes the outputs.
      precision: dtype of the computation.
      epoch: the best epoch.
      skipped: one line for each damaged checkpoint that was newer; empty if best.npz is there.
      fitted: what fitted the images of the data; None if they had one size already.
    """

    image_shape: Shape
    class_names: tuple[str, ...]
    task: Task
    precision: str
    epoch: int
    skipped: tuple[str, ...]
    fitted: FitPicture | None = None

    @property
    def preprocessing(self) -> FitPicture | None:
        """Prepares pictures: as the images of the data, or by `FitPicture`; None if the images have no one size."""
        whole = len(self.image_shape) == 3 and all(self.image_shape)
        return self.fitted or (FitPicture(self.image_shape) if whole else None)


class TrainedModel(NamedTuple):
    """The trained model of a run.

    Attributes:
      layer: the model.
      params: parameters of the best epoch.
      state: its state.
      info: its images, classes and task.
    """

    layer: Layer
    params: Params
    state: State
    info: ModelInfo


def load_model(path: str | os.PathLike[str], *, layer: Layer | None = None) -> TrainedModel:
    """Reads the trained model of a run folder; neither the data nor the optimizer is needed.

    The folder of a run of version 0.1 lacks the class names; they are read from the data.

    Args:
      path: the run folder.
      layer: the model, if it has classes that are not imported or functions of your own; None reads it from the folder.

    Returns:
      The model with the weights of its best epoch.

    Raises:
      RunFolderError: the path is not a run folder, the folder is damaged, its model is unknown or differs from `layer`,
        or no epoch is finished.
      CheckpointError: there is no best.npz, and all checkpoints are damaged.
    """
    folder = RunFolder(path)
    where = printable(folder.path / "config.json")
    found, image_shape, class_names = folder.described(layer)
    leaves, epoch, skipped = folder.read_best()
    like = structure(found)
    try:
        params, state = map(trees.unflatten, leaves.values(), like)
    except ValueError as error:
        raise RunFolderError(f"expected the weights of the model in {where}, got others: {error}") from error
    precision, fit = folder.config["recipe"]["precision"], folder.preprocessing
    info = ModelInfo(image_shape, class_names, folder.task, precision, epoch, skipped, fit)
    return TrainedModel(found, params, state, info)
