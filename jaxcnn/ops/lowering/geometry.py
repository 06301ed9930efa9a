"""The sizes and options of a convolution, as a value that primitives carry."""

from dataclasses import dataclass, replace

from jaxcnn.ops.check import Sides


@dataclass(frozen=True)
class Geometry:
    """How a kernel moves over an image.

    Attributes:
      strides: step of the kernel, (vertical, horizontal).
      padding: zeros on each side, ((top, bottom), (left, right)); negative numbers cut pixels off.
      dilation: distance between neighbouring taps, (vertical, horizontal).
      groups: number of channel groups.
      precision: matmul precision of the convolution and its gradients, as for `jax.default_matmul_precision`.
    """

    strides: tuple[int, int] = (1, 1)
    padding: Sides = ((0, 0), (0, 0))
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    precision: str | None = None

    def times_groups(self, factor: int) -> "Geometry":
        """Returns the same with so many times the groups."""
        return replace(self, groups=self.groups * factor)
