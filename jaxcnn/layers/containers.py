"""Layers that contain layers: only these pass on parameters, state, keys, names and error notes."""

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any, Self, TypeAlias

import jax
import jax.numpy as jnp

from jaxcnn.layers.drawing import split_key
from jaxcnn.layers.function import Function, identity
from jaxcnn.layers.parameters import check_names
from jaxcnn.ops.wide import scale_channels
from jaxcnn.types import Layer, Params, Shape, State
from jaxcnn.values import Value

LAYER_NOTE = "in layer "
"""Prefix of the error note that names the layer; its path follows in quotes."""

Part: TypeAlias = tuple[Any, Params, State]
"""A layer, its parameters and its state."""

ChangePart: TypeAlias = Callable[[str, Layer, Params, State], Part]
"""A function of a layer's name in its container, the layer, its parameters and its state, which returns their
replacements. The name is empty for a body, whose layers have no prefix."""


@dataclass(frozen=True, init=False, repr=False)
class _NamedLayers(Value):
    """Base of layers that hold other layers by name."""

    layers: tuple[tuple[str, Layer], ...]

    def __init__(self, **layers: Layer) -> None:
        for name, layer in layers.items():
            _check_layer(name, layer)
        object.__setattr__(self, "layers", tuple(layers.items()))

    def __repr__(self) -> str:
        return _call(type(self).__name__, [f"{name}={layer!r}" for name, layer in self.layers])

    def __getitem__(self, name: str) -> Layer:
        """Returns a layer by name, or by a path such as "stage1/block0"."""
        first, _, rest = name.partition("/")
        layer = dict(self.layers).get(first)
        if layer is None:
            raise KeyError(f"expected one of the layers {self.names}, got {first!r}")
        return layer[rest] if rest else layer  # pyright: ignore[reportIndexIssue]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the layers, in the declared order."""
        return tuple(name for name, _ in self.layers)

    @property
    def part_names(self) -> tuple[str, ...]:
        """The names that `map_parts` passes on: those of the layers."""
        return self.names

    def replace(self, **layers: Layer) -> Self:
        """Returns a copy with some layers replaced.

        Args:
          **layers: the new layers by name.

        Returns:
          The new layer; this one is unchanged.

        Raises:
          ValueError: a name is unknown.
          TypeError: a value is not a layer.
        """
        unknown = [name for name in layers if name not in self.names]
        if unknown:
            raise ValueError(f"replace expects names among {self.names}, got {', '.join(map(repr, unknown))}")
        return self._with({**dict(self.layers), **layers})

    def _with(self, layers: Mapping[str, Layer]) -> Self:
        """Builds a container of the same kind and options from other layers."""
        return type(self)(**layers)

    def init(self, key: jax.Array) -> tuple[Params, State]:
        """Draws parameters and state of all layers, under their names."""
        params, state = {}, {}
        keys = split_key(key, len(self.layers))
        for (name, layer), layer_key in zip(self.layers, keys, strict=True):
            with named(name):
                params[name], state[name] = layer.init(layer_key)
        return params, state

    def map_parts(self, params: Params, state: State, change: ChangePart) -> tuple[Self, Params, State]:
        """Rebuilds the container, its parameters and its state with every layer replaced.

        Args:
          params: parameters of the container.
          state: state of the container.
          change: called for each layer in the declared order.

        Returns:
          The new container, its parameters and its state.
        """
        self._check(params, state)
        parts = {}
        for name, layer in self.layers:
            with named(name):
                parts[name] = change(name, layer, params[name], state[name])
        return (
            self._with({name: layer for name, (layer, _, _) in parts.items()}),
            {name: part for name, (_, part, _) in parts.items()},
            {name: part for name, (_, _, part) in parts.items()},
        )

    def _check(self, params: Params, state: State) -> None:
        """Refuses parameters and state with other names."""
        check_names(f"{type(self).__name__} parameters", params, self.names)
        check_names(f"{type(self).__name__} state", state, self.names)

    def _keys(self, params: Params, state: State, key: jax.Array | None, train: bool) -> list:
        """Returns a key for each layer, or None for all."""
        self._check(params, state)
        return _split(key, len(self.layers), train)


class Sequential(_NamedLayers):
    """Layers in a row, each with its name: `Sequential(conv=Conv(3, 64), relu=Function(jax.nn.relu))`.

    Parameters and state are dicts of the layers' names. Keys are split in the declared order, so that a layer added at
    the end leaves the initial parameters of the others as they were.

    Args:
      **layers: the layers by name, in order of use. A name has no "/", which separates the names of a path.

    Raises:
      TypeError: a value is not a layer.
      ValueError: a name contains "/".
    """

    def apply(
        self, params: Params, state: State, x: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, State]:
        """Applies the layers one after the other to one image."""
        new_state = {}
        for (name, layer), layer_key in zip(self.layers, self._keys(params, state, key, train), strict=True):
            with named(name):
                x, new_state[name] = layer.apply(params[name], state[name], x, train=train, key=layer_key)
        return x, new_state


class Concat(_NamedLayers):
    """Branches side by side, each with its name: `Concat(narrow=Conv(64, 32, 1), wide=Conv(64, 32, 5))`.

    Every branch gets the same image. Their outputs are concatenated along the last axis, the channels, in the declared
    order (Szegedy et al. 2015, section 4). Parameters, state and keys are as in `Sequential`.

    Args:
      **branches: the layers by name, at least one. A name has no "/", which separates the names of a path.

    Raises:
      TypeError: a value is not a layer.
      ValueError: a name contains "/", or there is no branch.
    """

    def __init__(self, **branches: Layer) -> None:
        if not branches:
            raise ValueError("Concat expects at least one branch, got none; the layer identity changes nothing")
        super().__init__(**branches)

    def apply(
        self, params: Params, state: State, x: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, State]:
        """Applies every branch to one image, and concatenates the outputs, which have equal height and width."""
        results, new_state = self.apply_parts(params, state, x, train=train, key=key)
        joined_shape({name: y.shape for name, y in results.items()})
        return jnp.concatenate(list(results.values()), axis=-1), new_state

    def apply_parts(
        self, params: Params, state: State, x: jax.Array, *, train: bool, key: jax.Array | None
    ) -> tuple[dict[str, jax.Array], State]:
        """Applies every branch to one image; returns their outputs by name, and the new state."""
        results, new_state = {}, {}
        for (name, branch), branch_key in zip(self.layers, self._keys(params, state, key, train), strict=True):
            with named(name):
                results[name], new_state[name] = branch.apply(params[name], state[name], x, train=train, key=branch_key)
        return results, new_state


@dataclass(frozen=True, init=False, repr=False)
class AuxiliaryHeads(_NamedLayers):
    """Layers in a row, some of which are auxiliary heads: they classify an intermediate result, only in training.

    `AuxiliaryHeads("aux", stem=Conv(3, 64), aux=classifier, stage=Conv(64, 128), pool=GlobalAvgPool(), head=...)`.

    An auxiliary head gets the same input as the layer after it. In training, the outputs of the last layer and of the
    auxiliary heads are stacked along a new first axis, in this order: (1 + heads, num_classes) for logits;
    `jaxcnn.training.auxiliary_loss` weights them. In evaluation, the output is that of the last layer alone, and the
    auxiliary heads are not computed (Szegedy et al. 2015, section 5). Parameters, state and keys are as in
    `Sequential`.

    If the last layer is replaced, as by `replace(head=identity)` for features, the auxiliary heads no longer fit. Then
    use the model only in evaluation, as a frozen backbone, or replace the heads too.

    Args:
      *heads: names of the layers that are auxiliary heads.
      **layers: all layers by name, in order of use; the last one is not an auxiliary head. A name has no "/", which
        separates the names of a path.

    Raises:
      TypeError: a value is not a layer.
      ValueError: there is no auxiliary head, a head is not the name of a layer or is the last layer, or a name contains
        "/".
    """

    heads: tuple[str, ...]

    def __init__(self, *heads: str, **layers: Layer) -> None:
        super().__init__(**layers)
        if not heads or set(heads) - set(self.names[:-1]):
            raise ValueError(
                f"AuxiliaryHeads expects names of auxiliary heads among {self.names[:-1]}, the layers before the last, "
                f"got {heads}"
            )
        object.__setattr__(self, "heads", tuple(name for name in self.names if name in heads))

    def __repr__(self) -> str:
        layers = [f"{name}={layer!r}" for name, layer in self.layers]
        return _call("AuxiliaryHeads", [*map(repr, self.heads), *layers])

    def apply(
        self, params: Params, state: State, x: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, State]:
        """Applies the layers to one image; in training also the auxiliary heads, and stacks the outputs."""
        results, new_state = {}, {}
        for (name, layer), layer_key in zip(self.layers, self._keys(params, state, key, train), strict=True):
            with named(name):
                if name not in self.heads:
                    x, new_state[name] = layer.apply(params[name], state[name], x, train=train, key=layer_key)
                elif train:
                    results[name], new_state[name] = layer.apply(
                        params[name], state[name], x, train=train, key=layer_key
                    )
                else:
                    new_state[name] = state[name]
        if not train:
            return x, new_state
        if any(y.shape != x.shape for y in results.values()):
            got = ", ".join(f"{name} {y.shape}" for name, y in results.items())
            raise ValueError(
                f"AuxiliaryHeads expects auxiliary heads that give the shape of the last layer, {x.shape}, got {got}; "
                "replace them together with the last layer, or build the model without auxiliary heads"
            )
        return jnp.stack([x, *results.values()]), new_state

    def _with(self, layers: Mapping[str, Layer]) -> Self:
        return type(self)(*self.heads, **layers)


@dataclass(frozen=True, repr=False)
class Residual(Value):
    """A layer with a shortcut around it: activation(body(x) + shortcut(x)) (He et al. 2016, equation 1).

    Parameters and state are those of the body, and under "shortcut" those of the shortcut.

    Attributes:
      body: the residual branch; it has no layer named "shortcut" of its own.
      shortcut: the layer around it; its output must have the shape of the body's output.
      activation: applied to the sum.
    """

    body: Layer
    shortcut: Layer = identity
    activation: Function = identity

    def __post_init__(self) -> None:
        _check_layer("body", self.body)
        _check_layer("shortcut", self.shortcut)
        if not isinstance(self.activation, Function):
            raise TypeError(f"Residual expects its activation to be a Function, got {self.activation!r}")
        if isinstance(self.body, _NamedLayers) and "shortcut" in self.body.names:
            raise ValueError("Residual expects a body without a layer named 'shortcut', the name of its own shortcut")

    def __repr__(self) -> str:
        fields = [("body", self.body, None), ("shortcut", self.shortcut, identity)]
        fields.append(("activation", self.activation, identity))
        return _call("Residual", [f"{name}={layer!r}" for name, layer, default in fields if layer != default])

    def __getitem__(self, name: str) -> Layer:
        """Returns a layer by name or path: "shortcut", or a layer of the body."""
        first, _, rest = name.partition("/")
        if first != "shortcut":
            return self.body[name]  # pyright: ignore[reportIndexIssue]
        return self.shortcut[rest] if rest else self.shortcut  # pyright: ignore[reportIndexIssue]

    def init(self, key: jax.Array) -> tuple[Params, State]:
        """Draws parameters and state of body and shortcut."""
        body_key, shortcut_key = split_key(key, 2)
        params, state = self.body.init(body_key)
        with named("shortcut"):
            shortcut_params, shortcut_state = self.shortcut.init(shortcut_key)
        return {**params, "shortcut": shortcut_params}, {**state, "shortcut": shortcut_state}

    def apply(
        self, params: Params, state: State, x: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, State]:
        """Applies body and shortcut to one image, and the activation to their sum."""
        (y, around), state = self.apply_parts(params, state, x, train=train, key=key)
        if y.shape != around.shape:
            raise ValueError(
                f"Residual expects body and shortcut to give the same shape, got {y.shape} and {around.shape}; "
                "project the shortcut with a 1x1 convolution of the same strides"
            )
        return self.activation(y + around), state

    def apply_parts(
        self, params: Params, state: State, x: jax.Array, *, train: bool, key: jax.Array | None
    ) -> tuple[tuple[jax.Array, jax.Array], State]:
        """Applies body and shortcut to one image; returns both outputs, and the new state."""
        _check_shortcut(params, state)
        body_key, shortcut_key = _split(key, 2, train)
        y, body_state = self.body.apply(
            _without_shortcut(params), _without_shortcut(state), x, train=train, key=body_key
        )
        with named("shortcut"):
            around, shortcut_state = self.shortcut.apply(
                params["shortcut"], state["shortcut"], x, train=train, key=shortcut_key
            )
        return (y, around), {**body_state, "shortcut": shortcut_state}

    @property
    def part_names(self) -> tuple[str, ...]:
        """The names that `map_parts` passes on; that of the body is empty."""
        return ("", "shortcut")

    def map_parts(self, params: Params, state: State, change: ChangePart) -> tuple[Self, Params, State]:
        """Rebuilds the container with another body and shortcut; see `Sequential.map_parts`."""
        _check_shortcut(params, state)
        body, body_params, body_state = change("", self.body, _without_shortcut(params), _without_shortcut(state))
        with named("shortcut"):
            around = change("shortcut", self.shortcut, params["shortcut"], state["shortcut"])
        return (
            replace(self, body=body, shortcut=around[0]),
            {**body_params, "shortcut": around[1]},
            {**body_state, "shortcut": around[2]},
        )


@dataclass(frozen=True, repr=False)
class Gate(Value):
    """A layer whose output scales its own input: x * body(x).

    With a body that returns one number for each channel, it is a squeeze-and-excitation (Hu et al. 2018, equation 4).
    Parameters and state are those of the body.

    Attributes:
      body: computes the weights, with a shape that broadcasts to that of `x`, such as (channels,) or (height, width,
        1).
    """

    body: Layer

    def __post_init__(self) -> None:
        _check_layer("body", self.body)

    def __repr__(self) -> str:
        return _call("Gate", [repr(self.body)])

    def __getitem__(self, name: str) -> Layer:
        """Returns a layer of the body by name or path."""
        return self.body[name]  # pyright: ignore[reportIndexIssue]

    def init(self, key: jax.Array) -> tuple[Params, State]:
        """Draws parameters and state of the body."""
        return self.body.init(key)

    def apply(
        self, params: Params, state: State, x: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, State]:
        """Multiplies one image by the weights that the body computes."""
        weights, state = self.apply_parts(params, state, x, train=train, key=key)
        check_weights(weights.shape, x.shape)
        return scale_channels(x, weights), state

    def apply_parts(
        self, params: Params, state: State, x: jax.Array, *, train: bool, key: jax.Array | None
    ) -> tuple[jax.Array, State]:
        """Applies the body to one image; returns the weights, and the new state."""
        return self.body.apply(params, state, x, train=train, key=key)

    @property
    def part_names(self) -> tuple[str, ...]:
        """The names that `map_parts` passes on; that of the body is empty."""
        return ("",)

    def map_parts(self, params: Params, state: State, change: ChangePart) -> tuple[Self, Params, State]:
        """Rebuilds the container with another body; see `Sequential.map_parts`."""
        body, params, state = change("", self.body, params, state)
        return replace(self, body=body), params, state


@dataclass(frozen=True, repr=False)
class Unjoined(Value):
    """Applies a container's layers but returns the input: for their states and side effects.

    Attributes:
      container: the container whose layers are applied, with its parameters and its state.
    """

    container: Concat | Residual | Gate

    def init(self, key: jax.Array) -> tuple[Params, State]:
        """Draws parameters and state of the container."""
        return self.container.init(key)

    def apply(
        self, params: Params, state: State, x: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, State]:
        """Applies the layers to one image; returns the image itself, and the new state."""
        _, state = self.container.apply_parts(params, state, x, train=train, key=key)
        return x, state


Container: TypeAlias = Sequential | AuxiliaryHeads | Concat | Residual | Gate
"""The layers that contain layers."""


def layer_names(layer: Layer) -> tuple[str, ...]:
    """Names the layers directly within a layer.

    Args:
      layer: any layer.

    Returns:
      The names, in the declared order; empty if the layer is not a container.
    """
    match layer:
        case _NamedLayers():
            return layer.names
        case Residual():
            return (*layer_names(layer.body), "shortcut")
        case Gate():
            return layer_names(layer.body)
    return ()


def check_weights(weights: Shape, shape: Shape) -> None:
    """Refuses weights that do not broadcast to the input of a `Gate`.

    Args:
      weights: shape of the body's output.
      shape: shape of the input.

    Raises:
      ValueError: `weights` does not broadcast to `shape`.
    """
    sizes = zip(weights[::-1], shape[::-1], strict=False)
    if len(weights) > len(shape) or any(weight not in (1, size) for weight, size in sizes):
        raise ValueError(f"Gate expects a body whose output broadcasts to the input shape {shape}, got {weights}")


def joined_shape(shapes: Mapping[str, Shape]) -> Shape:
    """Computes the shape of the output of a `Concat`.

    Args:
      shapes: shape of each branch's output, by name.

    Returns:
      The common shape, with the sum of the channels.

    Raises:
      ValueError: the shapes differ in more than the last axis, or have no axis.
    """
    if len({shape[:-1] for shape in shapes.values()}) > 1 or () in shapes.values():
        got = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"Concat expects branches that differ in channels only, got {got}; "
            "give them the same strides, and a padding that keeps the size"
        )
    *size, _ = next(iter(shapes.values()))
    return (*size, sum(shape[-1] for shape in shapes.values()))


def _check_shortcut(params: Params, state: State) -> None:
    for what, tree in (("parameters", params), ("state", state)):
        if "shortcut" not in tree:
            raise ValueError(
                f"Residual {what}: expected a dict with the name 'shortcut', got {tuple(tree)}; "
                "was it made by this layer's init?"
            )


def _without_shortcut(tree: dict) -> dict:
    return {name: value for name, value in tree.items() if name != "shortcut"}


def _split(key: jax.Array | None, n: int, train: bool) -> list:
    """Returns a key for each of n layers, or None for all if there is no key or no layer draws random numbers."""
    return [None] * n if key is None or not train or n == 0 else list(jax.random.split(key, n))


def _check_layer(name: str, layer: Layer) -> None:
    if "/" in name or not name:
        raise ValueError(f"expected a layer name without '/', which separates the names of a path, got {name!r}")
    if isinstance(layer, type) or not isinstance(layer, Layer) or not _takes_train(layer):
        raise TypeError(
            f"expected {name!r} to be a layer, with init(key) and apply(params, state, x, *, train, key=None), "
            f"got {layer!r}; wrap a function in Function, a linen module in jaxcnn.interop.flax.from_linen"
        )


def _takes_train(layer: Layer) -> bool:
    return "train" in _parameter_names(getattr(layer.apply, "__func__", layer.apply))


@functools.lru_cache(maxsize=256)
def _parameter_names(function: Callable) -> frozenset[str]:
    """Names the parameters of a function. Cached, because a deep model has thousands of layers of a few classes."""
    return frozenset(signature(function).parameters)


def _call(name: str, arguments: list[str]) -> str:
    """Writes a constructor call, on several lines if it is long."""
    line = f"{name}({', '.join(arguments)})"
    if len(line) <= 100 and "\n" not in line:
        return line
    body = ",\n".join(arguments).replace("\n", "\n    ")
    return f"{name}(\n    {body},\n)"


@contextmanager
def named(name: str) -> Iterator[None]:
    """Names a layer for profilers, and in the notes of errors.

    Args:
      name: name of the layer that runs in the `with` block.
    """
    try:
        with jax.named_scope(name):
            yield
    except Exception as error:
        notes = getattr(error, "__notes__", [])
        inner = next((i for i, note in enumerate(notes) if note.startswith(LAYER_NOTE)), None)
        if inner is None:
            error.add_note(f"{LAYER_NOTE}'{name}'")
        else:
            notes[inner] = f"{LAYER_NOTE}'{name}/{notes[inner].removeprefix(LAYER_NOTE)[1:]}"
        raise
