"""`jaxcnn summary`."""

from rich import box
from rich.table import Table

from jaxcnn import layers
from jaxcnn.cli import names
from jaxcnn.cli.errors import CommandError, reported
from jaxcnn.cli.options import Summary
from jaxcnn.cli.terminal import make_console
from jaxcnn.models.catalog import CATALOG


def summary(options: Summary) -> int:
    """Prints the table of a model, or the list of models.

    Args:
      options: which model, for which images.

    Returns:
      The exit status, 0.

    Raises:
      CommandError: there is no such model, or it cannot take such images.
    """
    if not options.model:
        _print(_models())
        return 0
    entry = names.choose("model", options.model, CATALOG)
    shape = options.image_shape or entry.image_shape
    num_classes = entry.num_classes if options.num_classes is None else options.num_classes
    if min(*shape, num_classes) < 1:
        raise CommandError(f"expected a positive image shape and number of classes, got {shape} and {num_classes}")
    model = names.build_model(options.model, num_classes, shape)
    with reported(ValueError):
        table = layers.summary(model, shape)
    title = f"{options.model} on {'x'.join(map(str, shape))}"
    _print(_table(title, table.HEADINGS, table.cells(), table.totals(), names=2))
    return 0


def _models() -> Table:
    rows = []
    for name, entry in CATALOG.items():
        model = names.build_model(name, entry.num_classes, entry.image_shape)
        parts = layers.arithmetic(model, entry.image_shape)
        parameters, work = sum(part.parameters for part in parts), sum(part.multiply_adds for part in parts)
        shape = "x".join(map(str, entry.image_shape))
        rows.append((name, shape, f"{entry.num_classes:,}", f"{parameters:,}", f"{work:,}"))
    return _table("models", ("name", "image", "classes", "parameters", "multiply-adds"), rows, None, names=1)


def _table(
    title: str, headings: tuple[str, ...], rows: list[tuple[str, ...]], total: tuple[str, ...] | None, *, names: int
) -> Table:
    table = Table(title=title, box=box.SIMPLE, show_footer=total is not None, title_justify="left")
    for column, heading in enumerate(headings):
        table.add_column(
            heading,
            total[column] if total else "",
            justify="left" if column < names else "right",
            no_wrap=column > 0,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*row)
    return table


def _print(table: Table) -> None:
    """Prints a table at its full width where output is not a terminal, so that no column is cut."""
    console = make_console()
    if not console.is_terminal:
        console.width = max(console.width, 200)
    console.print(table)
