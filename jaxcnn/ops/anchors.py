"""Anchors, default boxes and points of a detector's maps, as constants of NumPy in float32.

They depend on sizes alone, so they are computed once, on the host. All are in pixels of the image as the network gets
it, padding included. Each function returns one array for each level, in the order of the maps; `np.concatenate` joins
them. Within a level, the places go row by row, and the anchors of a place follow each other.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxcnn.ops.check import as_pair, is_number


class GridPoints(NamedTuple):
    """The points of all levels, level after level.

    Attributes:
      points: (x, y), shape (points, 2), in pixels.
      strides: stride of each point's level, shape (points,), in pixels.
      level_sizes: number of points of each level.
    """

    points: np.ndarray
    strides: np.ndarray
    level_sizes: tuple[int, ...]


def anchor_boxes(
    image_size: tuple[int, int],
    map_sizes: Sequence[tuple[int, int]],
    sizes: Sequence[Sequence[float]],
    aspect_ratios: Sequence[float],
) -> tuple[np.ndarray, ...]:
    """Computes the anchors of RetinaNet and of region proposals (Ren et al. 2015, section 3.1.1), as torchvision does.

    The step between two places is image size // map size, which differs from the stride where the map is rounded up:
    800 // 13 = 61 on a map of stride 64. The first place is at (0, 0), and corners are rounded to whole pixels.

    Args:
      image_size: (height, width) of the padded image.
      map_sizes: (height, width) of each map.
      sizes: of each level, the roots of the areas of its anchors.
      aspect_ratios: height / width, above 0.

    Returns:
      For each level, (height * width * anchors, 4), two corners. The anchors of a place go through the sizes for the
      first ratio, then for the second, and so on.

    Raises:
      ValueError: the levels of maps and sizes differ, or a number is out of range.
    """
    height, width = as_pair("image_size", image_size)
    _check_levels("anchor_boxes", map_sizes, sizes=sizes)
    _check_positive("anchor_boxes", aspect_ratios=aspect_ratios, sizes=[size for level in sizes for size in level])
    # In float32, as torch rounds: half a pixel may be rounded up or down.
    tall = np.sqrt(np.asarray(aspect_ratios, np.float32))
    levels = []
    for (rows, columns), level_sizes in zip(map_sizes, sizes, strict=True):
        each = np.asarray(level_sizes, np.float32)
        across, down = ((1 / tall)[:, None] * each).ravel(), (tall[:, None] * each).ravel()
        around = (np.stack([-across, -down, across, down], axis=1) / 2).round()
        places = _places(rows, columns, height // rows, width // columns)
        levels.append((np.tile(places, 2)[:, None] + around).reshape(-1, 4).astype(np.float32))
    return tuple(levels)


def default_boxes(
    image_size: tuple[int, int],
    map_sizes: Sequence[tuple[int, int]],
    aspect_ratios: Sequence[Sequence[float]],
    *,
    scales: Sequence[float],
    steps: Sequence[int] | None = None,
    clip: bool = True,
) -> tuple[np.ndarray, ...]:
    """Computes the default boxes of SSD (Liu et al. 2016, section 2.2), as torchvision does.

    A place has a square of the scale of its level, a square of the geometric mean of this and the next scale, and for
    each aspect ratio r boxes of r and of 1 / r.

    Args:
      image_size: (height, width) of the image.
      map_sizes: (height, width) of each map.
      aspect_ratios: of each level, the ratios besides 1, above 0.
      scales: size of the boxes of each level over that of the image, and one scale more; see `default_scales`.
      steps: pixels between two places of each level; None divides the image by the map, as a fraction.
      clip: whether boxes are at most as wide and as high as the image.

    Returns:
      For each level, (height * width * boxes, 4), two corners.

    Raises:
      ValueError: the numbers of levels differ, or a number is out of range.
    """
    height, width = as_pair("image_size", image_size)
    _check_levels("default_boxes", map_sizes, aspect_ratios=aspect_ratios)
    if steps is not None:
        _check_levels("default_boxes", map_sizes, steps=steps)
    if len(scales) != len(map_sizes) + 1:
        raise ValueError(
            f"default_boxes expects one scale for each of {len(map_sizes)} maps and one more, got {len(scales)}"
        )
    ratios = [ratio for level in aspect_ratios for ratio in level]
    _check_positive("default_boxes", scales=scales, aspect_ratios=ratios, steps=steps or ())
    levels = []
    for level, ((rows, columns), own_ratios) in enumerate(zip(map_sizes, aspect_ratios, strict=True)):
        scale, between = scales[level], (scales[level] * scales[level + 1]) ** 0.5
        shapes = [(scale, scale), (between, between)]
        for ratio in own_ratios:
            shapes += [(scale * ratio**0.5, scale / ratio**0.5), (scale / ratio**0.5, scale * ratio**0.5)]
        shape = np.asarray(shapes, np.float32).clip(0, 1 if clip else np.inf)
        down, across = (rows, columns) if steps is None else (height / steps[level], width / steps[level])
        row = (np.arange(rows, dtype=np.float32) + np.float32(0.5)) / np.float32(down)
        column = (np.arange(columns, dtype=np.float32) + np.float32(0.5)) / np.float32(across)
        centre = np.stack(np.meshgrid(column, row), axis=-1).reshape(-1, 1, 2)
        size, extent = np.float32(0.5) * shape, np.array([width, height], np.float32)
        corners = np.concatenate([(centre - size) * extent, (centre + size) * extent], axis=-1)
        levels.append(corners.reshape(-1, 4))
    return tuple(levels)


def default_scales(levels: int, smallest: float = 0.15, largest: float = 0.9) -> tuple[float, ...]:
    """Spaces the scales of SSD's default boxes evenly (Liu et al. 2016, equation 4).

    Args:
      levels: number of maps, at least 2.
      smallest: scale of the first map, over the size of the image.
      largest: scale of the last map.

    Returns:
      levels + 1 scales, the last one 1.

    Raises:
      ValueError: there are fewer than 2 levels.
    """
    if levels < 2:
        raise ValueError(f"default_scales expects at least 2 levels, got {levels}; give the scales themselves")
    return (*(smallest + (largest - smallest) * k / (levels - 1.0) for k in range(levels)), 1.0)


def grid_points(
    map_sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    *,
    image_size: tuple[int, int] | None = None,
    offset: float = 0.0,
) -> GridPoints:
    """Computes one point for each place of the maps, for FCOS and YOLOX.

    Args:
      map_sizes: (height, width) of each map.
      strides: stride of each map, in pixels.
      image_size: (height, width) of the padded image: the points are image size // map size apart, as in torchvision.
        None: a stride apart.
      offset: of the points, in steps: 0 for the upper left corners of the cells, as torchvision's FCOS and YOLOX's
        codec have them; 0.5 for the centres, as YOLOX's matching has them.

    Returns:
      The points of all levels.

    Raises:
      ValueError: the numbers of levels differ, or a number is out of range.
    """
    _check_levels("grid_points", map_sizes, strides=strides)
    _check_positive("grid_points", strides=strides)
    points, sizes = [], []
    for (rows, columns), stride in zip(map_sizes, strides, strict=True):
        down, across = stride, stride
        if image_size is not None:
            height, width = as_pair("image_size", image_size)
            down, across = height // rows, width // columns
        points.append(_places(rows, columns, down, across) + np.array([offset * across, offset * down], np.float32))
        sizes.append(rows * columns)
    each = np.repeat(np.asarray(strides, np.float32), sizes)
    return GridPoints(np.concatenate(points), each, tuple(sizes))


def _places(rows: int, columns: int, down: float, across: float) -> np.ndarray:
    """Returns (x, y) of the places of a map, row by row, shape (rows * columns, 2)."""
    x, y = np.meshgrid(np.arange(columns) * across, np.arange(rows) * down)
    return np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32)


def _check_levels(op: str, map_sizes: Sequence[tuple[int, int]], **others: Sequence[object]) -> None:
    for size in map_sizes:
        as_pair("map_sizes", size)
    for name, values in others.items():
        if len(values) != len(map_sizes) or not map_sizes:
            raise ValueError(f"{op} expects {name} for each of {len(map_sizes)} maps, got {len(values)}")


def _check_positive(op: str, **numbers: Sequence[float]) -> None:
    for name, values in numbers.items():
        if not all(is_number(value) and value > 0 for value in values):
            raise ValueError(f"{op} expects {name} above 0, got {tuple(values)}")
