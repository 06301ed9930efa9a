"""`jaxcnn summary`."""

from jaxcnn import layers
from jaxcnn.cli import names, own_models
from jaxcnn.cli.errors import CommandError, reported
from jaxcnn.cli.options import Summary
from jaxcnn.cli.terminal import columns, say, shown
from jaxcnn.models.catalog import CATALOG
from jaxcnn.tables import Table


def summary(options: Summary) -> int:
    """Prints the table of a model, or the list of models.

    Args:
      options: the model and the shape of its images.

    Returns:
      The exit status, 0.

    Raises:
      CommandError: the model is unknown, or does not support the images.
    """
    if not options.model:
        say("models\n")
        say(_models().text(columns()))
        say("\nwithout the auxiliary heads of some models, which are used only in training")
        return 0
    is_own, shape = own_models.is_own(options.model), options.image_shape
    if shape is None and is_own:
        raise CommandError(f"--image-shape expects the size of the images for {shown(options.model)}, got none")
    if shape is None:
        shape = names.choose("model", options.model, CATALOG).image_shape
    if min(shape) < 1:
        raise CommandError(f"--image-shape expects numbers at least 1, got {' '.join(map(str, shape))}")
    names.check_count(options, "num_classes")
    model = names.build_model(options.model, options.num_classes, shape)
    if is_own:
        own_models.check_outputs(options.model, model, options.num_classes, shape)
    with reported(ValueError):
        table = layers.summary(model, shape)
    say(f"{shown(options.model)} on {'x'.join(map(str, shape))}\n")
    say(table.text(columns()))
    return 0


def _models() -> Table:
    rows = [
        (
            name,
            "x".join(map(str, entry.image_shape)),
            f"{entry.num_classes:,}",
            f"{entry.parameters:,}",
            f"{entry.multiply_adds:,}",
        )
        for name, entry in CATALOG.items()
    ]
    return Table(
        ("name", "image", "classes", "parameters", "multiply-adds"), rows, [], left=(0,), counts=(3, 4), spare=(2, 1)
    )
