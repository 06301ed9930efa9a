"""Gives the numbers of darknet's `.weights` files the names of a model's leaves.

Such a file has neither names nor shapes: the order of the layers and their sizes tell what a number is, and the length
of the file must fit to the byte.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.interop import conversion
from jaxcnn.interop.files.paths import FileError
from jaxcnn.interop.files.tensor import LazyTensor, Tensor
from jaxcnn.interop.records.record import Record
from jaxcnn.layers import Conv
from jaxcnn.layers.composite import layer_paths
from jaxcnn.text import printable

_DARKNET_EPSILON = 1e-6


def named(record: Record, numbers: np.ndarray, path: Path) -> dict[str, Tensor]:
    """Cuts the numbers of a file into arrays.

    The number of classes is the one with which the numbers of the model are as many as those of the file.

    Args:
      record: of the model, with the order of its layers in the file.
      numbers: of the file, float32, one axis.
      path: of the file, for the message.

    Returns:
      The arrays by the names of the record.

    Raises:
      FileError: there are more numbers than the model has, or fewer, for every number of classes.
    """
    one, two = (_count(record, classes) for classes in (1, 2))
    more, rest = divmod(len(numbers) - one, two - one)
    if rest or more < 0:
        usual = one + (two - one) * (len(record.class_names) - 1)
        raise FileError(
            f"expected {usual:,} numbers for {record.model} of {len(record.class_names)} classes, and {two - one:,} "
            f"more or fewer for each class, got {len(numbers):,} in {printable(path)}; the file is cut off, or that of "
            "another model"
        )
    model = record.build(more + 1)
    wanted, found, start = conversion.targets(record, model), {}, 0
    for name in _in_order(record, model):
        shape = wanted[name].stored
        stop = start + math.prod(shape)
        found[name] = _tensor(numbers[start:stop], shape, is_variance=name.endswith("/var"))
        start = stop
    return found


def moved_variance(variance: np.ndarray) -> np.ndarray:
    """Returns the variance with which `BatchNorm(epsilon=1e-12)` divides by what darknet divides by.

    Darknet divides by sqrt(variance) + 1e-6 (`normalize_cpu` in its blas.c), and a batch norm by the root of its
    variance plus epsilon. Both are the same for a variance v + 2e-6 sqrt(v), since (sqrt(v) + 1e-6)^2 is 1e-12 more.

    Args:
      variance: of darknet, at least 0.

    Returns:
      float64, the same shape.
    """
    wide = variance.astype(np.float64)
    return wide + 2 * _DARKNET_EPSILON * np.sqrt(wide)


def _count(record: Record, classes: int) -> int:
    model = record.build(classes)
    return sum(math.prod(target.stored) for target in conversion.targets(record, model).values())


def _in_order(record: Record, model: Any) -> Iterator[str]:
    """Yields the names of all arrays in the order of the file: layer by layer, and the kernel of a layer last."""
    convs = [path for path in layer_paths(model) if isinstance(model[path], Conv)]

    def place(path: str) -> int:
        return next(i for i, first in enumerate(record.file_order) if f"{path}/".startswith(f"{first}/"))

    for path in sorted(convs, key=place):
        conv = model[path]
        norm = f"{path.removesuffix('conv')}norm"
        owners = [(path, "bias")] if conv.use_bias else [(norm, leaf) for leaf in ("bias", "scale", "mean", "var")]
        for owner, leaf in (*owners, (path, "kernel")):
            yield record.names(owner, model[owner], leaf)


def _tensor(numbers: np.ndarray, shape: tuple[int, ...], *, is_variance: bool) -> Tensor:
    if is_variance:
        # In float64, whose rounding is far below that of the file.
        return LazyTensor(
            shape, np.dtype(np.float64), lambda: moved_variance(numbers), lambda a, b: moved_variance(numbers[a:b])
        )
    array = numbers.reshape(shape)
    return LazyTensor(
        shape, np.dtype(np.float32), lambda: np.array(array, np.float32), lambda a, b: np.array(array[a:b], np.float32)
    )
