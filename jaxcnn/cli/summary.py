"""`jaxcnn summary`."""

from jaxcnn import layers
from jaxcnn.cli import names
from jaxcnn.cli.errors import CommandError, reported
from jaxcnn.cli.options import Summary
from jaxcnn.cli.terminal import columns, say
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
        say("\nwithout the auxiliary heads of googlenet and inception_v3, which are used only in training")
        return 0
    entry = names.choose("model", options.model, CATALOG)
    shape = options.image_shape or entry.image_shape
    num_classes = entry.num_classes if options.num_classes is None else options.num_classes
    if min(*shape, num_classes) < 1:
        raise CommandError(f"expected a positive image shape and number of classes, got {shape} and {num_classes}")
    model = names.build_model(options.model, num_classes, shape)
    with reported(ValueError):
        table = layers.summary(model, shape)
    say(f"{options.model} on {'x'.join(map(str, shape))}\n")
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
