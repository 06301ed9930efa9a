"""Describes published weights: how another library names, orders and stores the arrays of a model."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from jaxcnn.interop.files.tensor import LazyTensor, Tensor
from jaxcnn.interop.preprocessing import Preprocessing
from jaxcnn.layers import Conv, ConvTranspose, Dense, LayerScale
from jaxcnn.types import Layer, Shape
from jaxcnn.values import Value

Origin = Literal["torchvision", "timm", "smp", "yolox", "darknet", "keras", "jaxcnn"]

OF_TORCH: tuple[Origin, ...] = ("torchvision", "timm", "smp", "yolox")
"""Origins whose files are those of torch."""

_NEVER = -100.0
"""A logit whose sigmoid is 0, but for 4e-44."""

Replacement = str | Callable[[re.Match[str]], str]
"""A template as of `re.Match.expand`, or a function of the match."""

_TORCH_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_KERAS_LEAVES = {
    "kernel": "kernel",
    "scale": "gamma",
    "bias": "bias",
    "mean": "moving_mean",
    "var": "moving_variance",
}


class Names(Protocol):
    """Names a leaf as in the source."""

    def __call__(self, path: str, layer: Layer, leaf: str) -> str:
        """Returns the name of `leaf` of the layer at `path`, such as "layer1.0.conv1.weight"."""
        ...


@dataclass(frozen=True, repr=False)
class Rules(Value):
    """Names by rules: the first one whose pattern matches the whole path of a layer gives the name of its module.

    A name with a colon names a single array: "features.1.0:layer_scale" is "features.1.0.layer_scale", for any name of
    the leaf.

    Attributes:
      origin: the library, which decides the names of the leaves.
      rules: pairs of a regular expression and its replacement.
    """

    origin: Origin
    rules: tuple[tuple[str, Replacement], ...]

    def __call__(self, path: str, layer: Layer, leaf: str) -> str:
        """Names a leaf.

        Args:
          path: path of the layer in the model, such as "stage1/block0/conv1".
          layer: the layer, whose class may affect the name.
          leaf: name of the leaf in the model, such as "kernel".

        Returns:
          The name of the array in the source.

        Raises:
          KeyError: no rule matches the path.
        """
        for pattern, replacement in self.rules:
            match = re.fullmatch(pattern, path)
            if match:
                name = replacement(match) if callable(replacement) else match.expand(replacement)
                break
        else:
            raise KeyError(f"no rule of {self.origin} names the layer {path!r}")
        separator = "/" if self.origin == "keras" else "."
        if ":" in name:
            return name.replace(":", separator)
        return f"{name}{separator}{self._leaf(layer, leaf)}"

    def _leaf(self, layer: Layer, leaf: str) -> str:
        if self.origin != "keras":
            return _TORCH_LEAVES[leaf]
        if leaf == "bias" and not isinstance(layer, Conv | ConvTranspose | Dense):
            return "beta"
        return _KERAS_LEAVES[leaf]


@dataclass(frozen=True, repr=False)
class Record(Value):
    """The published weights of one architecture from one library.

    Attributes:
      model: name of the model in the catalog.
      origin: the library that publishes the weights.
      architecture: its name of the model.
      build: builds the variant of the model that the weights were trained with (epsilon, padding, position of the
        strides); called with the number of classes and `in_channels=`.
      names: names a leaf as in the source.
      preprocessing: default preprocessing of the images; None if unknown.
      flattened: (height, width, channels) of a dense layer's input before flattening, by the path of the layer: torch
        flattens channels first, so the rows of the kernel are permuted.
      as_convolution: regular expression for the paths of layers that the source stores as a convolution: dense layers
        with a kernel of 1x1, or of the flattened size, a `LayerScale` with shape (channels, 1, 1), and in Keras a
        depthwise convolution that is a `Conv2D` with groups.
      of_squares: regular expression for the paths of strided convolutions that the source stores as those of squares of
        2x2 pixels, whose numbers are channels: the squares' columns, their rows, and the channels of the image.
      rewrites: pairs of a regular expression and a template that convert other names of the same arrays, such as those
        of older files, to the names above.
      auto_numbered: names of layers that Keras numbers consecutively within a session, such as "conv2d": only the order
        of their numbers matters. In the names above they are counted from 0: "conv2d_0/kernel".
      ignored: regular expressions for arrays that the model does not use, with their meaning.
      unused: returns the shapes of further ignored arrays by name, which the source builds and does not use; None for
        none. Files written for the source have zeros in their place.
      read_preprocessing: reads the preprocessing from ignored arrays of the file.
      head: path of the layer that computes the logits.
      anchors: number of anchors at a place of a detector, each of which has its own logits in `head`; 1 for others.
      background: regular expression for arrays of the source with a row for the background before those of the classes
        of each anchor. The model has no such class: the row is dropped. Files written for the source have one with a
        probability of 0.
      beside: numbers that `head` has for each anchor beside those of the classes: 1 for a logit of the background that
        the model has too, or 5 for a box and its objectness.
      file_order: of darknet's files: paths of layers in the order of their numbers.
      class_names: names of the classes of the published weights; empty if unknown.
    """

    model: str
    origin: Origin
    architecture: str
    build: Callable[..., Any]
    names: Names
    preprocessing: Preprocessing | None
    flattened: tuple[tuple[str, Shape], ...] = ()
    as_convolution: str = ""
    of_squares: str = ""
    rewrites: tuple[tuple[str, str], ...] = ()
    auto_numbered: tuple[str, ...] = ()
    ignored: tuple[tuple[str, str], ...] = ()
    unused: Callable[[], Mapping[str, Shape]] | None = None
    read_preprocessing: Callable[[Mapping[str, Tensor]], Preprocessing] | None = None
    head: str = "head"
    anchors: int = 1
    background: str = ""
    beside: int = 0
    file_order: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Library and architecture, such as "timm/resnet50"."""
        return f"{self.origin}/{self.architecture}"

    def rewritten(self, name: str) -> str:
        """Returns the name in this record of an array of a file."""
        for pattern, template in self.rewrites:
            match = re.fullmatch(pattern, name)
            if match:
                return match.expand(template)
        return name

    def renumbered(self, names: Iterable[str]) -> dict[str, str]:
        """Renumbers the layers that Keras numbers within a session from 0.

        Args:
          names: names of the arrays of a file.

        Returns:
          The names in this record, by the names in the file.
        """
        renumbered = {name: name for name in names}
        for kind in self.auto_numbered:
            # Keras omits the number 0.
            found = {name: re.fullmatch(rf"{kind}(?:_(\d+))?/(.*)", name) for name in renumbered}
            numbers = {name: (int(match[1] or 0), match[2]) for name, match in found.items() if match}
            places = {number: i for i, number in enumerate(sorted({number for number, _ in numbers.values()}))}
            renumbered |= {name: f"{kind}_{places[number]}/{leaf}" for name, (number, leaf) in numbers.items()}
        return renumbered

    def ignores(self, name: str) -> bool:
        """Returns whether the model ignores an array of this name."""
        # torch's batch counters matter only for batch norms with cumulative moments, which none of these models has.
        counter = self.origin in OF_TORCH and name.endswith(".num_batches_tracked")
        if counter or any(re.fullmatch(pattern, name) for pattern, _ in self.ignored):
            return True
        return self.unused is not None and name in self.unused()

    def without_background(self, name: str, tensor: Tensor) -> Tensor:
        """Drops the rows of the background from an array of a file.

        Args:
          name: its name in this record.
          tensor: the array.

        Returns:
          A tensor with fewer rows; the same one if it has none for the background.
        """
        if not self._has_background(name) or not tensor.shape or tensor.shape[0] % self.anchors:
            return tensor
        rows, rest = tensor.shape[0] // self.anchors, tuple(tensor.shape[1:])

        def read() -> np.ndarray:
            return np.asarray(tensor).reshape(self.anchors, rows, *rest)[:, 1:].reshape(-1, *rest)

        shape = (self.anchors * (rows - 1), *rest)
        return LazyTensor(shape, tensor.dtype, read, lambda start, stop: read()[start:stop])

    def with_background(self, name: str, array: np.ndarray) -> np.ndarray:
        """Adds the rows of the background that `without_background` drops, of a probability of 0.

        Args:
          name: name of the array in this record.
          array: the array.

        Returns:
          A new array with more rows; the same one if it has none for the background.
        """
        if not self._has_background(name):
            return array
        each = array.reshape(self.anchors, -1, *array.shape[1:])
        row = np.full_like(each[:, :1], _NEVER if name.endswith("bias") else 0)
        return np.concatenate([row, each], axis=1).reshape(-1, *array.shape[1:])

    def _has_background(self, name: str) -> bool:
        return bool(self.background) and re.fullmatch(self.background, name) is not None

    def to_source(self, path: str, layer: Layer, leaf: str, array: np.ndarray) -> np.ndarray:
        """Converts an array to the layout of the source.

        Args:
          path: path of the layer in the model.
          layer: the layer.
          leaf: name of the leaf.
          array: the leaf.

        Returns:
          A view or a copy in the shape of the source.
        """
        view = self.source_view(path, layer, leaf, array)
        if view.ndim == 5:
            return view.reshape(-1, *view.shape[2:])
        if view.ndim == 6:
            return view.reshape(len(view), -1, *view.shape[4:])
        if view.ndim == 4 and array.ndim == 2 and not self._as_convolution(path):
            return view.reshape(len(view), -1)
        return view

    def source_view(self, path: str, layer: Layer, leaf: str, array: np.ndarray) -> np.ndarray:
        """Permutes the axes of an array to the order of the source.

        Writing the source's values, in the shape of the view, into the view fills the array.

        Args:
          path: path of the layer in the model.
          layer: the layer.
          leaf: name of the leaf.
          array: the leaf, contiguous.

        Returns:
          A view. One axis of the source may be several axes here: those of a flattened map, the groups and channels of
          a transposed convolution, and squares of pixels.
        """
        flattened: Mapping[str, Shape] = dict(self.flattened)
        convolution = self._as_convolution(path)
        if isinstance(layer, LayerScale):
            return array[:, None, None] if convolution else array
        if leaf != "kernel" or self.origin == "jaxcnn":
            return array
        if self.origin == "keras":
            return _to_keras(layer, array, convolution)
        if isinstance(layer, Conv) and self.has_squares(path):
            height, width, *channels = array.shape
            return array.reshape(height // 2, 2, width // 2, 2, *channels).transpose(5, 3, 1, 4, 0, 2)
        if isinstance(layer, Conv):
            return array.transpose(3, 2, 0, 1)
        if isinstance(layer, ConvTranspose):
            return array.reshape(*array.shape[:3], layer.groups, -1).transpose(3, 2, 4, 0, 1)
        if path in flattened:
            return array.reshape(*flattened[path], -1).transpose(3, 2, 0, 1)
        return array.T[:, :, None, None] if convolution else array.T

    def has_squares(self, path: str) -> bool:
        """Tells whether the source stores a layer as a convolution of squares of 2x2 pixels."""
        return bool(self.of_squares) and re.fullmatch(self.of_squares, path) is not None

    def _as_convolution(self, path: str) -> bool:
        return bool(self.as_convolution) and re.fullmatch(self.as_convolution, path) is not None


def _to_keras(layer: Layer, array: np.ndarray, convolution: bool) -> np.ndarray:
    if isinstance(layer, Conv):
        # (height, width, 1, channels * multiplier) and (height, width, channels, multiplier) have the same numbers in
        # the same order.
        depthwise = layer.groups == layer.in_channels > 1 and not convolution
        return array.reshape(*array.shape[:2], layer.in_channels, -1) if depthwise else array
    return array[None, None] if convolution else array
