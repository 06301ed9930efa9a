"""Backbones: models that return the maps of layers within them, for necks, decoders and heads of any task."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxcnn.layers.composite import Composite, Run, apply_with_hook, layer_at, layer_paths
from jaxcnn.layers.flow import structure
from jaxcnn.layers.parameters import check_positive
from jaxcnn.types import Layer, Shape

_SIZES = (256, 384)
"""Two sizes of an image; they differ by 128 pixels, a multiple of every stride up to 128."""


_ORDER = "Backbone expects paths in the order in which the model computes them"


class Level(NamedTuple):
    """A map that a backbone returns.

    Attributes:
      channels: its channels.
      stride: distance of neighbours in the map, in pixels of the image.
    """

    channels: int
    stride: int


@dataclass(frozen=True, init=False, repr=False)
class Backbone(Composite):
    """A model that returns what layers within it compute: a tuple, in the order of their names.

        backbone = Backbone(resnet50(), at=["stage2", "stage3", "stage4"])
        params, state = backbone.init(key)
        (c3, c4, c5), state = backbone.apply(params, state, image, train=False)

    It holds no layers after the last one that is named, nor the auxiliary heads: they are neither drawn nor computed.
    Parameters and state have the names of the model, so that its weights fit. In a composite of one's own, whose order
    is unknown, all layers stay, and those after the last one named are not computed.

    Attributes:
      body: a whole model, or another layer made of layers. The one that is kept ends with the last layer of `at`.
      at: paths of layers, such as "stage2" or "stage4/block0/relu1", in the order in which the model computes them: the
        finest map first. The second result of a layer "head" that is applied several times is "head#2".

    Raises:
      ValueError: there is no layer of that path, none is given, one is given twice, one is an auxiliary head or they
        are in another order.
      TypeError: `at` is a single string.
    """

    inlined: ClassVar[str | None] = "body"

    body: Layer
    at: tuple[str, ...]

    def __init__(self, body: Layer, at: Sequence[str]) -> None:
        if isinstance(at, str):
            raise TypeError(f"Backbone expects a sequence of paths, got the string {at!r}; write at=[{at!r}]")
        at = tuple(at)
        if not at or len(set(at)) < len(at):
            raise ValueError(f"Backbone expects at least one path, and none twice, got {at}")
        try:
            for path in at:
                layer_at(body, path)
            body = _up_to(body, at[-1])
        except ValueError as error:
            raise ValueError(f"Backbone: {error}") from None
        object.__setattr__(self, "body", body)
        object.__setattr__(self, "at", at)
        self.__post_init__()
        for path in at:
            try:
                layer_at(body, path)
            except ValueError:
                raise ValueError(f"{_ORDER}, got {path!r} before {at[-1]!r}") from None

    def forward(self, run: Run, x: Any) -> tuple[Any, ...]:
        """Applies the model to one image as far as the last layer of `at`."""
        found = run.results_within("body", x, self.at)
        if tuple(found) != self.at:
            raise ValueError(f"{_ORDER}, {tuple(found)}, got {self.at}")
        return tuple(found.values())

    def levels(self, in_channels: int | None = None) -> tuple[Level, ...]:
        """Returns channels and stride of each map, without computing anything.

        Args:
          in_channels: channels of the image; None takes the number from the first convolution.

        Returns:
          The levels, in the order of `at`.

        Raises:
          ValueError: a result is not a map (height, width, channels) that grows with the image, or the model does not
            take such images.
        """
        return _levels(self, in_channels)


def pyramid_paths(model: Layer, in_channels: int | None = None) -> dict[int, str]:
    """Finds the layers of a classifier whose maps are the levels of a pyramid: the last one before each shrinking.

        backbone = Backbone(model, at=[pyramid_paths(model)[stride] for stride in (8, 16, 32)])

    Of several layers with maps of one stride, it is the last one among the outermost: the last stage of that stride, or
    a layer within the stem, if no stage has it. Maps that a padding has made larger than the image do not count.

    Args:
      model: a whole classifier, made of layers.
      in_channels: channels of the image; None takes the number from the first convolution.

    Returns:
      Paths by the strides of their maps, in pixels, from the smallest stride to the largest.
    """
    sizes: list[dict[str, Any]] = []
    for size in _SIZES:
        shapes: dict[str, Any] = {}

        def note(path: str, layer: Layer, y: Any, shapes: dict[str, Any] = shapes) -> Any:
            del layer
            shapes[path] = getattr(y, "shape", ())
            return y

        _evaluated(model, _image(model, size, in_channels), note)
        sizes.append(shapes)
    found: dict[int, tuple[int, str]] = {}
    for path in sizes[0]:
        level, depth = _level(sizes[0][path], sizes[1].get(path, ())), path.count("/")
        if level is None or sizes[0][path][0] * level.stride > _SIZES[0]:
            continue
        if level.stride not in found or depth <= found[level.stride][0]:
            found[level.stride] = depth, path
    return {stride: found[stride][1] for stride in sorted(found)}


def _up_to(model: Layer, path: str) -> Layer:
    """Returns a model without what it computes after a layer, as far as that is known."""
    first, _, rest = path.partition("/")
    assert isinstance(model, Composite)
    name, rest = model._first_step(path)
    # A layer that is applied several times is needed whole.
    if "#" in first:
        return model.up_to(name.partition("#")[0])
    shorter = model.up_to(name)
    if not rest:
        return shorter
    assert isinstance(shorter, Composite)
    children = shorter.children()
    return shorter.with_children({**children, name: _up_to(children[name], rest)})


# Cached, because a model of the catalog is built more often than others are made.
@functools.lru_cache(maxsize=128)
def _levels(backbone: Backbone, in_channels: int | None) -> tuple[Level, ...]:
    maps = [_evaluated(backbone, _image(backbone, size, in_channels)) for size in _SIZES]
    levels = []
    for path, small, large in zip(backbone.at, *(jax.tree.map(jnp.shape, results) for results in maps), strict=True):
        level = _level(small, large)
        if level is None:
            raise ValueError(
                f"Backbone expects maps (height, width, channels) that grow with the image, got {small} at {path!r} "
                f"for an image of {_SIZES[0]}x{_SIZES[0]} pixels"
            )
        levels.append(level)
    return tuple(levels)


def _image(model: Layer, size: int, in_channels: int | None) -> jax.ShapeDtypeStruct:
    if in_channels is None:
        found: Any = (getattr(layer_at(model, path), "in_channels", None) for path in layer_paths(model))
        in_channels = next(filter(None, found), 3)
    check_positive("Backbone", "in_channels", in_channels)
    return jax.ShapeDtypeStruct((size, size, in_channels), jnp.float32)


def _evaluated(model: Layer, image: Any, hook: Any = None) -> Any:
    """Returns the shapes of what a model returns for an image, and calls `hook` with those of each layer."""

    def forward(params: Any, state: Any, x: Any) -> Any:
        if hook is not None:
            return apply_with_hook(model, params, state, x, hook)[0]
        return model.apply(params, state, x, train=False)[0]

    return jax.eval_shape(forward, *structure(model), image)


def _level(small: Shape, large: Shape) -> Level | None:
    """Returns the level of a map, from its shapes for images of `_SIZES`; None if it is not a map."""
    growth = _SIZES[1] - _SIZES[0]
    if len(small) != 3 or len(large) != 3 or small[2] != large[2]:
        return None
    more = large[0] - small[0]
    if more < 1 or growth % more:
        return None
    return Level(small[2], growth // more)
