"""The search for a learning rate, of `jaxcnn train --find-learning-rate`."""

from pathlib import Path

from jaxcnn import plots
from jaxcnn.cli import names
from jaxcnn.cli.display import Display
from jaxcnn.cli.errors import CommandError, reported
from jaxcnn.cli.options import Train
from jaxcnn.cli.terminal import say
from jaxcnn.data import Splits
from jaxcnn.files import check_target
from jaxcnn.training.range_test import find_learning_rate
from jaxcnn.types import Layer, Params, State, Task

_PICTURE = Path("learning_rate.png")


def find(
    options: Train,
    layer: Layer,
    splits: Splits,
    weights: tuple[Params, State] | None,
    task: Task,
    display: Display,
) -> int:
    """Suggests a learning rate for a training, and draws the loss against the learning rate.

    Args:
      options: the options of the training.
      layer: its model.
      splits: its data.
      weights: its initial weights; drawn by its seed if None.
      task: its task.
      display: shows the activities.

    Returns:
      The exit status, 0.

    Raises:
      CommandError: the options do not fit together, the loss diverges at once or never falls, or the picture cannot be
        written.
    """
    with reported(OSError):
        check_target(_PICTURE)
    display.on_activity("finding the learning rate")
    with reported(ValueError):
        prepare = names.make_prepare(options, splits)
        found = find_learning_rate(layer, splits, options.recipe, weights=weights, task=task, prepare=prepare)
    display.on_activity("drawing the picture")
    figure = plots.learning_rates(
        found.rates,
        found.losses,
        smoothed=found.smoothed,
        suggestion=found.suggestion,
        subtitle=f"{options.model_name} on {Path(options.data).name}, {options.recipe.optimizer}",
    )
    with reported(OSError):
        plots.save(figure, _PICTURE)
    display.on_activity(None)
    if found.suggestion is None:
        raise CommandError(f"the loss never falls between {found.rates[0]:g} and {found.rates[-1]:g}; see {_PICTURE}")
    say(f"suggested learning rate: {found.suggestion:.2g}\nloss against learning rate: {_PICTURE}")
    return 0
