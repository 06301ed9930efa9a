"""Tabulates a model: layers, shapes, parameters, multiply-adds and receptive fields."""

from dataclasses import dataclass
from typing import Any

import jax

from jaxcnn.layers.function import Function
from jaxcnn.layers.measures import Row, arithmetic, is_shape, output_shape
from jaxcnn.tables import Table
from jaxcnn.types import Layer, Shape
from jaxcnn.values import describe


@dataclass(frozen=True)
class Summary:
    """The arithmetic of a model, layer by layer; `str` formats it as a table.

    Attributes:
      input_shape: shape of the input, (height, width, channels) or (features,).
      output_shape: shape of the output in evaluation; a tree of shapes if the output is a tree.
      rows: one for each layer that is not made of layers, and one for each composite that computes something itself.
    """

    input_shape: Shape
    output_shape: Any
    rows: tuple[Row, ...]

    HEADINGS = ("path", "kind", "output shape", "parameters", "multiply-adds", "receptive field")

    @property
    def parameters(self) -> int:
        """Number of parameters, without those of auxiliary heads."""
        return sum(row.parameters for row in self.rows if not row.training_only)

    @property
    def multiply_adds(self) -> int:
        """Number of multiply-adds for one image in evaluation; those of all branches of a `jax.lax.cond`."""
        return sum(row.multiply_adds for row in self.rows if not row.training_only)

    @property
    def auxiliary_parameters(self) -> int:
        """Number of parameters of auxiliary heads."""
        return sum(row.parameters for row in self.rows if row.training_only)

    @property
    def auxiliary_multiply_adds(self) -> int:
        """Number of multiply-adds that auxiliary heads add for one image in training."""
        return sum(row.multiply_adds for row in self.rows if row.training_only)

    def cells(self) -> list[tuple[str, ...]]:
        """Returns the rows as text, one tuple for each layer in the order of `HEADINGS`."""
        return [
            (
                row.path,
                describe(row.layer.function).rpartition(".")[2].lstrip("_")
                if isinstance(row.layer, Function)
                else type(row.layer).__name__,
                _sizes(row.output_shape),
                f"{row.parameters:,}" if row.parameters else "",
                f"{row.multiply_adds:,}" if row.multiply_adds else "",
                ", ".join(map(str, jax.tree.leaves(row.receptive_field))),
            )
            for row in self.rows
        ]

    def totals(self) -> list[tuple[str, ...]]:
        """Returns the last rows of the table: the sums in evaluation and, if there are any, of the auxiliary heads."""
        shape = _sizes(self.output_shape)
        totals = [("total", "", shape, f"{self.parameters:,}", f"{self.multiply_adds:,}", "")]
        if self.auxiliary_parameters:
            heads = (f"{self.auxiliary_parameters:,}", f"{self.auxiliary_multiply_adds:,}")
            totals.append(("auxiliary heads, in training only", "", "", *heads, ""))
        return totals

    def text(self, width: int | None = None) -> str:
        """Formats the table for a terminal; see `jaxcnn.tables.Table.text`.

        Args:
          width: width of the terminal in characters; None for no limit.

        Returns:
          The lines, each with the path of its layer.
        """
        table = Table(self.HEADINGS, self.cells(), self.totals(), left=(0, 1), counts=(3, 4), spare=(5, 1, 2, 4, 3))
        return table.text(width)

    def __str__(self) -> str:
        return self.text()


def summary(layer: Layer, input_shape: Shape) -> Summary:
    """Lists a model's layers with their shapes, parameters, multiply-adds and receptive fields.

    `print(summary(resnet18(), (224, 224, 3)))` prints the table. Nothing is computed or compiled.

    Args:
      layer: a layer or a whole model.
      input_shape: (height, width, channels) of one image, or (features,).

    Returns:
      The table.

    Raises:
      TypeError, ValueError: the shapes do not fit together; a note names the layer.
    """
    rows = tuple(arithmetic(layer, input_shape))
    return Summary(tuple(input_shape), output_shape(layer, input_shape), rows)


def _sizes(shapes: Any) -> str:
    """Formats a shape, or the shapes of a tree one after the other."""
    leaves = jax.tree.leaves(shapes, is_leaf=is_shape)
    return ", ".join("x".join(map(str, shape)) for shape in leaves)
