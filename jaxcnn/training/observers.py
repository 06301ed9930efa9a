"""The events of a training, and the observers that receive them."""

from typing import Any, NamedTuple

from jaxcnn.training.loop import Progress
from jaxcnn.types import Objective


class Start(NamedTuple):
    """Facts about a training that is about to start.

    Attributes:
      parameters: number of parameters of the model.
      trained: number of parameters that are trained at first.
      examples: number of examples of each part of the data, by name.
      image_shape: (height, width, channels) of the images.
      class_names: names of the classes; empty without classes.
      objective: the figure of the task that chooses the best epoch.
      epochs: number of epochs of the whole training.
      steps_per_epoch: number of steps of an epoch.
      first_step: number of steps done already.
      folder: path of the run folder, or None.
    """

    parameters: int
    trained: int
    examples: dict[str, int]
    image_shape: tuple[int, ...]
    class_names: tuple[str, ...]
    objective: Objective
    epochs: int
    steps_per_epoch: int
    first_step: int
    folder: str | None


class Observer:
    """Receives the events of a training, in the training thread.

    Override the methods that you need; the others do nothing. An exception in a method ends the training.
    """

    def on_start(self, start: Start) -> None:
        """Called before the first step."""

    def on_activity(self, activity: str | None) -> None:
        """Called when something that may take long begins, such as "compiling the training step"; None at its end."""

    def on_note(self, note: str) -> None:
        """Called with facts that a person should know, such as a damaged checkpoint that was skipped."""

    def on_step(self, progress: Progress, images_per_second: float) -> bool | None:
        """Called after each step; the rate is that of the epoch so far. True stops the training with a checkpoint."""

    def on_epoch(self, row: dict[str, Any], best: bool) -> bool | None:
        """Called after each epoch with its line of metrics. True stops the training with a checkpoint."""

    def on_interrupt(self) -> None:
        """Called at the first Ctrl-C or SIGTERM, which stops the training after this step."""

    def on_end(self, result: Any) -> None:
        """Called at the end with the `Result`, also of a training that was stopped."""
