"""Features: what layers within a model return, by their names."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from jaxcnn.layers.containers import AuxiliaryHeads, Container, Part, Sequential, Unjoined, layer_names
from jaxcnn.layers.frozen import unfreeze
from jaxcnn.layers.function import identity
from jaxcnn.types import Layer, Params, State
from jaxcnn.values import Value


def features(model: Layer, params: Params, state: State, x: jax.Array, *, at: Sequence[str]) -> dict[str, jax.Array]:
    """Computes what layers within a model return for one image, as in evaluation.

        maps = features(model, params, state, image, at=["stage2", "stage4/block0/conv1"])
        maps["stage2"]  # (28, 28, 128)

    Layers after the last one that is named are not computed, not even traced: the image may have a size that they do
    not take. It is a pure function, to be compiled, differentiated and mapped like any other; what goes through a
    transform such as `jax.jit` comes out sorted by name, as all dicts do.

    Args:
      model: a whole model, or a container.
      params: its parameters.
      state: its state.
      x: one image, shape (height, width, channels); a batch goes to `batched_features`.
      at: paths of layers, such as "stage2" or "stage4/block0/shortcut", at least one. A path gives the layer's own
        result: the shortcut's before it is added, a branch's before it is joined to the others. An auxiliary head is
        computed where it or a layer in it is named.

    Returns:
      The results by path, in the order of `at`.

    Raises:
      ValueError: there is no layer of that name, none is asked for, or `x` is a batch.
      TypeError: `at` is a single string.
    """
    if isinstance(at, str):
        raise TypeError(f"features expects a sequence of paths, got the string {at!r}; write at=[{at!r}]")
    if not at:
        raise ValueError("features expects at least one path, got none")
    if nameless := [path for path in at if "" in path.split("/")]:
        raise ValueError(f"features expects paths of names with '/' between them, got {nameless[0]!r}")
    if x.ndim == 4:
        raise ValueError(
            f"features expects one image of shape (height, width, channels), got {x.shape}; "
            "use jaxcnn.layers.batched_features for a batch"
        )
    tapped, params, state = _tap(*unfreeze(model, params, state), list(at), to_the_end=False)
    _, taps = tapped.apply(params, state, x, train=False)
    return {path: _found(taps, path) for path in at}


def batched_features(
    model: Layer, params: Params, state: State, images: jax.Array, *, at: Sequence[str]
) -> dict[str, jax.Array]:
    """Computes what layers within a model return for each image of a batch: `features` under `jax.vmap`.

    Args:
      model: a whole model, or a container.
      params: its parameters.
      state: its state.
      images: shape (batch, height, width, channels).
      at: paths of layers, at least one; see `features`.

    Returns:
      The results by path, with the batch as their first axis, in the order of `at`.

    Raises:
      ValueError: there is no layer of that name, none is asked for, or the batch is empty or none.
      TypeError: `at` is a single string.
    """
    if images.ndim < 2 or images.shape[0] == 0:
        raise ValueError(
            f"batched_features expects images of shape (batch, height, width, channels), got {images.shape}"
        )
    found = jax.vmap(lambda x: features(model, params, state, x, at=at), axis_name="batch")(images)
    # What goes through a transform of JAX comes out sorted by name.
    return {path: found[path] for path in at}


class _Tapped(NamedTuple):
    """What a `_Tap` leaves in the place of its layer's state, where the containers hand it on."""

    output: jax.Array
    state: State


@dataclass(frozen=True, repr=False)
class _Tap(Value):
    """A layer whose result is also found in the state that it returns."""

    layer: Layer

    def init(self, key: jax.Array) -> tuple[Params, State]:
        return self.layer.init(key)

    def apply(
        self, params: Params, state: State, x: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, State]:
        y, state = self.layer.apply(params, state, x, train=train, key=key)
        return y, _Tapped(y, state)  # pyright: ignore[reportReturnType]


@dataclass(frozen=True, repr=False)
class _Beside(Value):
    """An auxiliary head in a row of layers: it leaves its state, and the next layer is given what it was given."""

    head: Layer

    def init(self, key: jax.Array) -> tuple[Params, State]:
        return self.head.init(key)

    def apply(
        self, params: Params, state: State, x: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, State]:
        _, state = self.head.apply(params, state, x, train=train, key=key)
        return x, state


def _tap(layer: Layer, params: Params, state: State, paths: list[str], *, to_the_end: bool) -> Part:
    """Puts a tap around each layer that a path names.

    Args:
      layer: a layer or a whole model.
      params: its parameters.
      state: its state.
      paths: paths within the layer; "" is the layer itself.
      to_the_end: whether the layer's own result is needed. Otherwise it ends with the last tap.

    Returns:
      The new layer, for the same parameters and state.
    """
    inner, needed = [path for path in paths if path], to_the_end or "" in paths
    if inner:
        if not isinstance(layer, Container):
            raise ValueError(f"features expects a path that ends at {layer!r}, which holds no layers, got {inner[0]!r}")
        layer = _tapped_within(layer, params, state, inner, to_the_end=needed)
    return (_Tap(layer) if "" in paths else layer), params, state


def _tapped_within(layer: Container, params: Params, state: State, paths: list[str], *, to_the_end: bool) -> Layer:
    shares = _shares(layer, paths)
    # In a row, all layers are needed up to the last one that has a tap; side by side, each for itself.
    in_a_row, heads = isinstance(layer, Sequential | AuxiliaryHeads), getattr(layer, "heads", ())
    order = list(layer.part_names)
    last = max(order.index(name) for name in shares)

    def change(name: str, part: Layer, params: Params, state: State) -> Part:
        share = shares.get(name, [])
        needed = name not in heads and (to_the_end or (in_a_row and order.index(name) < last))
        if not share and not needed:
            return identity, params, state
        return _tap(part, params, state, share, to_the_end=needed)

    tapped, _, _ = layer.map_parts(params, state, change)
    if isinstance(tapped, AuxiliaryHeads):
        tapped = Sequential(**{name: _Beside(part) if name in heads else part for name, part in tapped.layers})
    return tapped if to_the_end or isinstance(tapped, Sequential) else Unjoined(tapped)


def _shares(layer: Container, paths: list[str]) -> dict[str, list[str]]:
    """Deals paths out to the parts of a container; the layers of a body, whose name is empty, stand beside them."""
    names = layer_names(layer)
    shares: dict[str, list[str]] = {}
    for path in paths:
        first, _, rest = path.partition("/")
        if first not in names:
            raise ValueError(f"features expects paths that begin with a layer among {names}, got {path!r}")
        part, rest = (first, rest) if first in layer.part_names else ("", path)
        shares.setdefault(part, []).append(rest)
    return shares


def _found(taps: State, path: str) -> jax.Array:
    """Follows a path through the state that a tapped model returned."""
    place: Any = taps
    for name in path.split("/"):
        place = (place.state if isinstance(place, _Tapped) else place)[name]
    return place.output
