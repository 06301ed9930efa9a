"""What is known of published weights: how another library names, orders and stores the arrays of a model."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from jaxcnn.interop.files.tensor import Tensor
from jaxcnn.interop.preprocessing import Preprocessing
from jaxcnn.layers import Conv, ConvTranspose, Dense, LayerScale
from jaxcnn.types import Layer, Shape
from jaxcnn.values import Value

Origin = Literal["torchvision", "timm", "keras", "jaxcnn"]

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
    """Gives a leaf its name at the source."""

    def __call__(self, path: str, layer: Layer, leaf: str) -> str:
        """Returns the name of leaf `leaf` of the layer at `path`, such as "layer1.0.conv1.weight"."""
        ...


@dataclass(frozen=True, repr=False)
class Rules(Value):
    """Names by rules: the first one whose pattern matches the whole path of a layer gives the name of its module.

    A name with a colon names a single array: "features.1.0:layer_scale" stands for "features.1.0.layer_scale", whatever
    the leaf is called here.

    Attributes:
      origin: the library, which decides what the leaves are called.
      rules: pairs of a regular expression and what to put for it.
    """

    origin: Origin
    rules: tuple[tuple[str, Replacement], ...]

    def __call__(self, path: str, layer: Layer, leaf: str) -> str:
        """Names a leaf.

        Args:
          path: path of the layer here, such as "stage1/block0/conv1".
          layer: the layer, whose kind may decide.
          leaf: name of the leaf here, such as "kernel".

        Returns:
          The name of the array there.

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
    """The weights of one architecture at one source.

    Attributes:
      model: name of the model in the catalog.
      origin: the library that publishes the weights.
      architecture: what it calls the model.
      build: builds the variant of the model that the weights were trained with (epsilon, padding, place of the
        strides); called with the number of classes and `in_channels=`.
      names: names a leaf at the source.
      preprocessing: what the weights expect of an image, where nothing more is known of the file; None if nothing is.
      flattened: (height, width, channels) of what a dense layer's input was before it was flattened, by the path of the
        layer: torch flattens channels first, so the rows of the kernel are exchanged.
      as_convolution: regular expression for the paths of layers that the source stores as a convolution: dense layers
        with a kernel of 1x1, or of the flattened size, a `LayerScale` with shape (channels, 1, 1), and in Keras a
        depthwise convolution that is a `Conv2D` with groups.
      rewrites: pairs of a regular expression and a template that turn other names in use for the same arrays, such as
        those of older files, into the names above.
      auto_numbered: names of layers that Keras numbered through a session, such as "conv2d": only the order of their
        numbers means something. In the names above they are counted from 0: "conv2d_0/kernel".
      ignored: regular expressions for arrays that the model has no use for, with what they are.
      read_preprocessing: makes the preprocessing from arrays of the file, of those that are ignored here.
      head: path of the layer whose outputs are the classes.
    """

    model: str
    origin: Origin
    architecture: str
    build: Callable[..., Any]
    names: Names
    preprocessing: Preprocessing | None
    flattened: tuple[tuple[str, Shape], ...] = ()
    as_convolution: str = ""
    rewrites: tuple[tuple[str, str], ...] = ()
    auto_numbered: tuple[str, ...] = ()
    ignored: tuple[tuple[str, str], ...] = ()
    read_preprocessing: Callable[[Mapping[str, Tensor]], Preprocessing] | None = None
    head: str = "head"

    @property
    def name(self) -> str:
        """Library and architecture, such as "timm/resnet50"."""
        return f"{self.origin}/{self.architecture}"

    def rewritten(self, name: str) -> str:
        """Returns the name of an array of a file as this record has it."""
        for pattern, template in self.rewrites:
            match = re.fullmatch(pattern, name)
            if match:
                return match.expand(template)
        return name

    def renumbered(self, names: Iterable[str]) -> dict[str, str]:
        """Counts the layers that Keras numbered through a session from 0.

        Args:
          names: of the arrays of a file.

        Returns:
          The names as this record has them, by the names of the file.
        """
        renumbered = {name: name for name in names}
        for kind in self.auto_numbered:
            # Keras leaves the number out where it is 0.
            found = {name: re.fullmatch(rf"{kind}(?:_(\d+))?/(.*)", name) for name in renumbered}
            numbers = {name: (int(match[1] or 0), match[2]) for name, match in found.items() if match}
            places = {number: i for i, number in enumerate(sorted({number for number, _ in numbers.values()}))}
            renumbered |= {name: f"{kind}_{places[number]}/{leaf}" for name, (number, leaf) in numbers.items()}
        return renumbered

    def ignores(self, name: str) -> bool:
        """Says whether the model has no use for an array of that name."""
        # torch counts batches for batch norms whose moments are plain means of all batches, as in none of these models.
        counter = self.origin in ("torchvision", "timm") and name.endswith(".num_batches_tracked")
        return counter or any(re.fullmatch(pattern, name) for pattern, _ in self.ignored)

    def to_source(self, path: str, layer: Layer, leaf: str, array: np.ndarray) -> np.ndarray:
        """Lays an array out as the source stores it.

        Args:
          path: path of the layer here.
          layer: the layer.
          leaf: name of the leaf here.
          array: the leaf, in the shape it has here.

        Returns:
          A view or a copy in the shape there.
        """
        view = self.source_view(path, layer, leaf, array)
        if view.ndim == 5:
            return view.reshape(-1, *view.shape[2:])
        if view.ndim == 4 and array.ndim == 2 and not self._as_convolution(path):
            return view.reshape(len(view), -1)
        return view

    def source_view(self, path: str, layer: Layer, leaf: str, array: np.ndarray) -> np.ndarray:
        """Turns the axes of an array into the order in which the source stores them.

        What the source stores, in the shape of the view, is written into the view to fill the array.

        Args:
          path: path of the layer here.
          layer: the layer.
          leaf: name of the leaf here.
          array: the leaf, in the shape it has here, contiguous.

        Returns:
          A view, in which axes that the source has as one may still be several: those of a flattened map, and the
          groups and channels of a transposed convolution.
        """
        flattened: Mapping[str, Shape] = dict(self.flattened)
        convolution = self._as_convolution(path)
        if isinstance(layer, LayerScale):
            return array[:, None, None] if convolution else array
        if leaf != "kernel" or self.origin == "jaxcnn":
            return array
        if self.origin == "keras":
            return _to_keras(layer, array, convolution)
        if isinstance(layer, Conv):
            return array.transpose(3, 2, 0, 1)
        if isinstance(layer, ConvTranspose):
            return array.reshape(*array.shape[:3], layer.groups, -1).transpose(3, 2, 4, 0, 1)
        if path in flattened:
            return array.reshape(*flattened[path], -1).transpose(3, 2, 0, 1)
        return array.T[:, :, None, None] if convolution else array.T

    def _as_convolution(self, path: str) -> bool:
        return bool(self.as_convolution) and re.fullmatch(self.as_convolution, path) is not None


def _to_keras(layer: Layer, array: np.ndarray, convolution: bool) -> np.ndarray:
    if isinstance(layer, Conv):
        # (height, width, 1, channels * multiplier) and (height, width, channels, multiplier) are the same numbers.
        depthwise = layer.groups == layer.in_channels > 1 and not convolution
        return array.reshape(*array.shape[:2], layer.in_channels, -1) if depthwise else array
    return array[None, None] if convolution else array
