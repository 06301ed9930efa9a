"""The receptive field of any function of an image, from its traced program."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.tracing.dataflow import follow
from jaxcnn.tracing.lines import Line, image_line
from jaxcnn.tracing.rules import Seen


class Span(NamedTuple):
    """The receptive field of one row (or column) of output pixels, along one axis.

    Output pixel i sees only input pixels from `start + i * stride` to `start + i * stride + extent`; pixels beyond the
    border are padding. If the stride is a fraction, so are these bounds, and the integers between them count.
    """

    extent: Fraction
    stride: Fraction
    start: Fraction

    @property
    def size(self) -> int:
        """Largest number of input pixels that an output pixel sees."""
        return floor(self.extent) + 1


@dataclass(frozen=True)
class ReceptiveField:
    """The input pixels that an output pixel depends on.

    Attributes:
      height: along the vertical axis.
      width: along the horizontal axis.
      whole: whether it is the whole image; then height and width span the image.
    """

    height: Span
    width: Span
    whole: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels of the input."""
        return self.height.size, self.width.size

    def __str__(self) -> str:
        return "all" if self.whole else f"{self.height.size}x{self.width.size}"


def field_of(seen: Seen, shape: Sequence[int]) -> ReceptiveField:
    """Describes the receptive field of an array's elements by the extent, the stride and the start along each axis.

    Entries next to a repeated border (reflected, say), which see other pixels than their position says, do not count.

    Args:
      seen: of the array.
      shape: of the array. The elements of a vector have no place in the image: their field is that of all together.

    Returns:
      The receptive field; of size 0 if the array does not depend on the image.
    """
    if seen is None:
        nothing = Span(Fraction(-1), Fraction(1), Fraction(0))
        return ReceptiveField(nothing, nothing)
    lines = [line.together if line.axis is None or len(shape) < 2 else line.unfolded(shape[line.axis]) for line in seen]
    vertical, horizontal = (Span(*line.span()) for line in lines)
    return ReceptiveField(vertical, horizontal, whole=all(line.is_whole for line in lines))


def seen_by_image(shape: Sequence[int]) -> Seen:
    """Returns what the elements of an input see of itself.

    Args:
      shape: (height, width, ...) of an image; an array of fewer axes counts as one pixel.

    Returns:
      Each pixel sees itself.
    """
    if len(shape) < 2:
        one = Line(1, None, 1, np.zeros(1, int), np.zeros(1, int), Fraction(1), (0, 1))
        return one, one
    return image_line(shape[0], 0), image_line(shape[1], 1)


def receptive_fields(function: Callable[..., Any], image: Any, *others: Any) -> Any:
    """Computes the receptive fields of the results of any function of an image.

    The function is traced on abstract arrays; nothing is computed. Convolutions, pooling, padding, slices, resizing,
    pixel shuffles and reductions are followed exactly, pixel by pixel. The results of an unknown JAX operation count as
    dependent on all pixels that its operands depend on. So a field may be too large, but never too small, except for
    pixels next to a border that repeats the image.

    Args:
      function: a function of an image, and of other arrays such as parameters.
      image: the image, shape (height, width, ...): an array or a `jax.ShapeDtypeStruct`.
      *others: its other arguments, in the same form; trees of arrays.

    Returns:
      A `ReceptiveField` for each array of the result, in its structure.
    """
    program, result = jax.make_jaxpr(function, return_shape=True)(image, *others)
    inputs = [seen_by_image(jnp.shape(image)), *(None for _ in jax.tree.leaves(others))]
    arrays, structure = jax.tree.flatten(result)
    fields = [field_of(seen, array.shape) for seen, array in zip(follow(program, inputs), arrays, strict=True)]
    return jax.tree.unflatten(structure, fields)
