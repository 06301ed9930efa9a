"""Layers that contain layers: in a row, side by side, one for each map, with a shortcut or as a gate."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp

from jaxcnn.layers.composite import Composite, Run
from jaxcnn.layers.function import Function, identity
from jaxcnn.ops.wide import scale_channels
from jaxcnn.types import Layer, Shape


@dataclass(frozen=True, init=False, repr=False)
class NamedLayers(Composite):
    """Base of layers that hold other layers by name, in a declared order; a subclass writes `forward`."""

    layers: tuple[tuple[str, Layer], ...]

    def __init__(self, *layers: Layer, **named: Layer) -> None:
        if layers:
            kind = type(self).__name__
            raise TypeError(
                f"{kind} expects its layers by name, such as {kind}(conv=..., norm=...), "
                f"got {len(layers)} without a name"
            )
        object.__setattr__(self, "layers", tuple(named.items()))
        self.__post_init__()

    def _arguments(self) -> list[str]:
        return [f"{name}={layer!r}" for name, layer in self.layers]

    def children(self) -> dict[str, Layer]:
        """Returns the layers by name, in the declared order."""
        return dict(self.layers)

    def with_children(self, children: Mapping[str, Layer]) -> Self:
        """Returns a layer of the same kind and options with other layers; see `Composite.with_children`."""
        return type(self)(**children)

    def without(self, name: str) -> Self:
        """Returns a copy that lacks a layer."""
        return self.with_children({other: layer for other, layer in self.layers if other != name})

    def up_to(self, name: str) -> Layer:
        """Returns a copy that lacks the layers after one of them; see `Composite.up_to`."""
        names = list(self.names)
        return self.with_children(dict(self.layers[: names.index(name) + 1]))


class Sequential(NamedLayers):
    """Layers in a row, each with its name: `Sequential(conv=Conv(3, 64), relu=Function(jax.nn.relu))`.

    Parameters and state are dicts of the layers' names. Keys are split in the declared order, so that a layer added at
    the end leaves the initial parameters of the others as they were.

    Args:
      **layers: the layers by name, in order of use. A name has no "/", which separates the names of a path.

    Raises:
      TypeError: a value is not a layer, or has no name.
      ValueError: a name contains "/" or "#".
    """

    def forward(self, run: Run, x: Any) -> Any:
        """Applies the layers one after the other to one image."""
        for name in self.children():
            x = run[name](x)
        return x


class Concat(NamedLayers):
    """Branches side by side, each with its name: `Concat(narrow=Conv(64, 32, 1), wide=Conv(64, 32, 5))`.

    Every branch gets the same image. Their outputs are concatenated along the last axis, the channels, in the declared
    order (Szegedy et al. 2015, section 4). Parameters, state and keys are as in `Sequential`.

    Args:
      **branches: the layers by name, at least one. A name has no "/", which separates the names of a path.

    Raises:
      TypeError: a value is not a layer, or has no name.
      ValueError: a name contains "/" or "#", or there is no branch.
    """

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("Concat expects at least one branch, got none; the layer identity changes nothing")

    def forward(self, run: Run, x: Any) -> jax.Array:
        """Applies every branch to one image, and concatenates the outputs, which have equal height and width."""
        results = {name: run[name](x) for name in self.children()}
        _check_joined({name: y.shape for name, y in results.items()})
        return jnp.concatenate(list(results.values()), axis=-1)


class Zip(NamedLayers):
    """One layer for each of several maps, each with its name: `Zip(p3=Conv(512, 256, 1), p4=Conv(1024, 256, 1))`.

    It takes a tuple and returns a tuple, in the declared order. Parameters, state and keys are as in `Sequential`.

    Args:
      **layers: the layers by name, in the order of the maps. A name has no "/", which separates the names of a path.

    Raises:
      TypeError: a value is not a layer, or has no name.
      ValueError: a name contains "/" or "#".
    """

    def forward(self, run: Run, x: tuple[Any, ...]) -> tuple[Any, ...]:
        """Applies each layer to its map of one image."""
        if not isinstance(x, tuple) or len(x) != len(self.layers):
            got = f"{len(x)} of them" if isinstance(x, tuple) else type(x).__name__
            raise ValueError(f"Zip expects a tuple of maps, one for each of {self.names}, got {got}")
        return tuple(run[name](part) for name, part in zip(self.children(), x, strict=True))

    def up_to(self, name: str) -> Layer:
        """Returns the layer itself: each map needs its layer."""
        del name
        return self


@dataclass(frozen=True, init=False, repr=False)
class AuxiliaryHeads(NamedLayers):
    """Layers in a row, some of which are auxiliary heads: they classify an intermediate result, only in training.

    `AuxiliaryHeads("aux", stem=Conv(3, 64), aux=classifier, stage=Conv(64, 128), pool=GlobalAvgPool(), head=...)`.

    An auxiliary head gets the same input as the layer after it. In training, the result is a dict: that of the last
    layer is "main", the others have the names of their heads. In evaluation, the result is that of the last layer
    alone, and the auxiliary heads are not computed (Szegedy et al. 2015, section 5). Parameters, state and keys are as
    in `Sequential`.

    Args:
      *heads: names of the layers that are auxiliary heads.
      **layers: all layers by name, in order of use; the last one is not an auxiliary head. A name has no "/", which
        separates the names of a path.

    Raises:
      TypeError: a value is not a layer.
      ValueError: there is no auxiliary head, a head is not the name of a layer, is the last layer or is called "main",
        or a name contains "/" or "#".
    """

    heads: tuple[str, ...]

    def __init__(self, *heads: str, **layers: Layer) -> None:
        object.__setattr__(self, "heads", tuple(name for name in layers if name in heads))
        super().__init__(**layers)
        if not heads or set(heads) - set(list(layers)[:-1]) or "main" in heads:
            raise ValueError(
                f"AuxiliaryHeads expects names of auxiliary heads among {tuple(layers)[:-1]}, the layers before the "
                f"last, and none called 'main', got {heads}"
            )

    def _arguments(self) -> list[str]:
        return [*map(repr, self.heads), *super()._arguments()]

    def forward(self, run: Run, x: Any) -> Any:
        """Applies the layers to one image; in training also the auxiliary heads."""
        auxiliary = {}
        for name in self.children():
            if name not in self.heads:
                x = run[name](x)
            elif run.train or run.is_asked_for(name):
                auxiliary[name] = run[name](x)
        return {"main": x, **auxiliary} if run.train else x

    def with_children(self, children: Mapping[str, Layer]) -> Self:
        """Returns a layer with the same auxiliary heads and other layers."""
        return type(self)(*self.heads, **children)

    def up_to(self, name: str) -> Layer:
        """Returns the layers in a row up to one of them, without auxiliary heads; see `Composite.up_to`."""
        if name in self.heads:
            raise ValueError(f"expected a layer other than the auxiliary heads {self.heads}, got {name!r}")
        layers = {other: layer for other, layer in self.layers if other not in self.heads}
        return Sequential(**layers).up_to(name)


@dataclass(frozen=True, repr=False)
class Residual(Composite):
    """A layer with a shortcut around it: activation(body(x) + shortcut(x)) (He et al. 2016, equation 1).

    Parameters and state are those of the body, and under "shortcut" those of the shortcut.

    Attributes:
      body: the residual branch; it has no layer named "shortcut" of its own.
      shortcut: the layer around it; its output must have the shape of the body's output.
      activation: applied to the sum.
    """

    inlined: ClassVar[str | None] = "body"

    body: Layer
    shortcut: Layer = identity
    activation: Function = identity

    def __post_init__(self) -> None:
        if not isinstance(self.activation, Function):
            raise TypeError(f"Residual expects its activation to be a Function, got {self.activation!r}")

    def children(self) -> dict[str, Layer]:
        """Returns the body and the shortcut."""
        return {"body": self.body, "shortcut": self.shortcut}

    def up_to(self, name: str) -> Layer:
        """Returns a copy without a shortcut if the body is the child; see `Composite.up_to`."""
        return self.without("shortcut") if name == "body" else self

    def _arguments(self) -> list[str]:
        fields = [("body", self.body, None), ("shortcut", self.shortcut, identity)]
        fields.append(("activation", self.activation, identity))
        return [f"{name}={layer!r}" for name, layer, default in fields if layer != default]

    def forward(self, run: Run, x: Any) -> jax.Array:
        """Applies body and shortcut to one image, and the activation to their sum."""
        y, around = run.body(x), run.shortcut(x)
        if y.shape != around.shape:
            raise ValueError(
                f"Residual expects body and shortcut to give the same shape, got {y.shape} and {around.shape}; "
                "project the shortcut with a 1x1 convolution of the same strides"
            )
        return self.activation(y + around)


@dataclass(frozen=True, repr=False)
class Gate(Composite):
    """A layer whose output scales its own input: x * body(x).

    With a body that returns one number for each channel, it is a squeeze-and-excitation (Hu et al. 2018, equation 4).
    Parameters and state are those of the body.

    Attributes:
      body: computes the weights, with a shape that broadcasts to that of `x`, such as (channels,) or (height, width,
        1).
    """

    inlined: ClassVar[str | None] = "body"

    body: Layer

    def forward(self, run: Run, x: Any) -> jax.Array:
        """Multiplies one image by the weights that the body computes."""
        weights = run.body(x)
        _check_weights(weights.shape, x.shape)
        return scale_channels(x, weights)


def _check_weights(weights: Shape, shape: Shape) -> None:
    sizes = zip(weights[::-1], shape[::-1], strict=False)
    if len(weights) > len(shape) or any(weight not in (1, size) for weight, size in sizes):
        raise ValueError(f"Gate expects a body whose output broadcasts to the input shape {shape}, got {weights}")


def _check_joined(shapes: Mapping[str, Shape]) -> None:
    if len({shape[:-1] for shape in shapes.values()}) > 1 or () in shapes.values():
        got = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"Concat expects branches that differ in channels only, got {got}; "
            "give them the same strides, and a padding that keeps the size"
        )
