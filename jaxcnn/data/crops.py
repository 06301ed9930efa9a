"""Random crops on the host, which make pictures of many sizes into examples of one size."""

import dataclasses
import functools
import math
from collections.abc import Mapping

import numpy as np

from jaxcnn.data.cutting import Box, cut
from jaxcnn.data.sources.source import ArraySpec, Source, read_part
from jaxcnn.values import Value

_ATTEMPTS = 10
"""Number of boxes that are drawn until one fits into the picture."""


@dataclasses.dataclass(frozen=True, repr=False)
class RandomResizedCrop(Value):
    """Cuts a random part out of the image, and the same part out of its mask, and resizes it to one size.

    As `RandomResizedCrop` of torchvision, after Szegedy et al. 2015, section 6: bilinear with antialias; a mask has the
    nearest pixels. It needs Pillow.

    Attributes:
      size: (height, width) of the results.
      scale: least and largest area of the part, as shares of the area of the picture, in (0, 1].
      ratio: least and largest width of the part, divided by its height, above 0; drawn evenly in its logarithm. If no
        such part fits into the picture in ten attempts, the largest one in the centre is taken.
    """

    size: tuple[int, int]
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        if len(self.size) != 2 or not all(isinstance(side, int) and side > 0 for side in self.size):
            raise ValueError(f"RandomResizedCrop expects size as (height, width) of positive ints, got {self.size!r}")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"RandomResizedCrop expects scale as 0 < least <= largest <= 1, got {self.scale!r}")
        if len(self.ratio) != 2 or not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise ValueError(f"RandomResizedCrop expects ratio as 0 < least <= largest, got {self.ratio!r}")

    def __call__(self, rng: np.random.Generator, example: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Crops an example.

        Args:
          rng: random numbers of the part.
          example: "image", uint8 or float32, shape (height, width, channels); perhaps "mask", shape (height, width).
            Other entries stay as they are.

        Returns:
          The example with "image" of shape (*size, channels), and "mask" of shape `size`.
        """
        return cut(example, functools.partial(self.box, rng), self.size)

    def read(self, rng: np.random.Generator, source: Source, index: int) -> dict[str, np.ndarray]:
        """Reads an example and crops it; of a large JPEG file, the part is decoded at a smaller scale.

        Args:
          rng: random numbers of the part.
          source: examples as for `__call__`.
          index: of the example.

        Returns:
          As `__call__`.
        """
        return read_part(source, index, functools.partial(self.box, rng), self.size)

    def spec(self, spec: Mapping[str, ArraySpec]) -> Mapping[str, ArraySpec]:
        """Returns shape and dtype of each entry of the results.

        Args:
          spec: those of the examples.

        Raises:
          ValueError: there is no "image", or there are "boxes", which would not move along.
        """
        if "image" not in spec or "boxes" in spec:
            raise ValueError(
                f"RandomResizedCrop expects examples with 'image' and without 'boxes', got {', '.join(map(repr, spec))}"
            )
        moved = ("image", "mask")
        return {
            name: entry._replace(shape=(*self.size, *entry.shape[2:])) if name in moved else entry
            for name, entry in spec.items()
        }

    def box(self, rng: np.random.Generator, height: int, width: int) -> Box:
        """Draws the part of a picture.

        Args:
          rng: random numbers.
          height: height of the picture.
          width: its width.
        """
        least, largest = self.ratio
        for _ in range(_ATTEMPTS):
            area = height * width * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(math.log(least), math.log(largest)))
            rows, columns = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
            if 0 < rows <= height and 0 < columns <= width:
                top, left = rng.integers((height - rows + 1, width - columns + 1)).tolist()
                return Box(top, left, rows, columns)
        rows = min(height, max(round(width / least), 1))
        columns = min(width, max(round(height * largest), 1))
        return Box((height - rows) // 2, (width - columns) // 2, rows, columns)
