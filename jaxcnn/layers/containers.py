"""The only layers that contain layers: they thread parameters, state, keys, names and notes on errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature

import jax

from jaxcnn.layers.function import Function, identity
from jaxcnn.layers.parameters import check_names
from jaxcnn.types import Layer, Params, State
from jaxcnn.values import Value

_NOTE = "in layer "


@dataclass(frozen=True, init=False, repr=False)
class Sequential:
    """Layers in a row, each with its name: `Sequential(conv=Conv(3, 64), relu=Function(jax.nn.relu))`.

    Parameters and state are dicts of the layers' names. Keys are split in the declared order, so that a layer added at
    the end leaves the initial parameters of the others as they were.

    Args:
      **layers: the layers by name, in order of use. A name has no "/", which separates the names of a path.

    Raises:
      TypeError: something is not a layer.
      ValueError: a name contains "/".
    """

    layers: tuple[tuple[str, Layer], ...]

    def __init__(self, **layers: Layer) -> None:
        for name, layer in layers.items():
            _check_layer(name, layer)
        object.__setattr__(self, "layers", tuple(layers.items()))

    def __repr__(self) -> str:
        return _call("Sequential", [f"{name}={layer!r}" for name, layer in self.layers])

    def __getitem__(self, name: str) -> Layer:
        """Returns the layer of that name; a path such as "stage1/block0" goes into layers of layers."""
        first, _, rest = name.partition("/")
        layer = dict(self.layers).get(first)
        if layer is None:
            raise KeyError(f"expected one of the layers {self.names}, got {first!r}")
        return layer[rest] if rest else layer  # pyright: ignore[reportIndexIssue]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the layers, in order of use."""
        return tuple(name for name, _ in self.layers)

    def replace(self, **layers: Layer) -> "Sequential":
        """Returns a copy with other layers under names that are there.

        Args:
          **layers: the new layers by name.

        Returns:
          The new layer value; this one stays as it is.

        Raises:
          ValueError: there is no layer of that name.
          TypeError: something is not a layer.
        """
        unknown = [name for name in layers if name not in self.names]
        if unknown:
            raise ValueError(f"replace expects names among {self.names}, got {', '.join(map(repr, unknown))}")
        return Sequential(**{**dict(self.layers), **layers})

    def init(self, key: jax.Array) -> tuple[Params, State]:
        """Draws parameters and state of all layers, under their names."""
        params, state = {}, {}
        keys = jax.random.split(key, len(self.layers)) if self.layers else ()
        for (name, layer), layer_key in zip(self.layers, keys, strict=True):
            with _named(name):
                params[name], state[name] = layer.init(layer_key)
        return params, state

    def apply(
        self, params: Params, state: State, x: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, State]:
        """Applies the layers one after the other to one image."""
        check_names("Sequential parameters", params, self.names)
        check_names("Sequential state", state, self.names)
        new_state = {}
        keys = _split(key, len(self.layers), train)
        for (name, layer), layer_key in zip(self.layers, keys, strict=True):
            with _named(name):
                x, new_state[name] = layer.apply(params[name], state[name], x, train=train, key=layer_key)
        return x, new_state


@dataclass(frozen=True, repr=False)
class Residual(Value):
    """A layer and a way around it: activation(body(x) + shortcut(x)) (He et al. 2016, equation 1).

    Parameters and state are those of the body, and under "shortcut" those of the shortcut.

    Attributes:
      body: the residual branch; it has no layer named "shortcut" of its own.
      shortcut: the way around; it must give the shape that the body gives.
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
        if isinstance(self.body, Sequential) and "shortcut" in self.body.names:
            raise ValueError("Residual expects a body without a layer named 'shortcut', the name of its own shortcut")

    def __repr__(self) -> str:
        fields = [("body", self.body, None), ("shortcut", self.shortcut, identity)]
        fields.append(("activation", self.activation, identity))
        return _call("Residual", [f"{name}={layer!r}" for name, layer, default in fields if layer != default])

    def __getitem__(self, name: str) -> Layer:
        """Returns the layer of that name: "shortcut", or one of the body's, or a path into them."""
        first, _, rest = name.partition("/")
        if first != "shortcut":
            return self.body[name]  # pyright: ignore[reportIndexIssue]
        return self.shortcut[rest] if rest else self.shortcut  # pyright: ignore[reportIndexIssue]

    def init(self, key: jax.Array) -> tuple[Params, State]:
        """Draws parameters and state of body and shortcut."""
        body_key, shortcut_key = jax.random.split(key)
        params, state = self.body.init(body_key)
        with _named("shortcut"):
            shortcut_params, shortcut_state = self.shortcut.init(shortcut_key)
        return {**params, "shortcut": shortcut_params}, {**state, "shortcut": shortcut_state}

    def apply(
        self, params: Params, state: State, x: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, State]:
        """Applies body and shortcut to one image, and the activation to their sum."""
        for what, tree in (("parameters", params), ("state", state)):
            if "shortcut" not in tree:
                raise ValueError(
                    f"Residual {what}: expected a dict with the name 'shortcut', got {tuple(tree)}; "
                    "was it made by this layer's init?"
                )
        body_key, shortcut_key = _split(key, 2, train)
        y, body_state = self.body.apply(
            _without_shortcut(params), _without_shortcut(state), x, train=train, key=body_key
        )
        with _named("shortcut"):
            around, shortcut_state = self.shortcut.apply(
                params["shortcut"], state["shortcut"], x, train=train, key=shortcut_key
            )
        if y.shape != around.shape:
            raise ValueError(
                f"Residual expects body and shortcut to give the same shape, got {y.shape} and {around.shape}; "
                "project the shortcut with a 1x1 convolution of the same strides"
            )
        return self.activation(y + around), {**body_state, "shortcut": shortcut_state}


def _without_shortcut(tree: dict) -> dict:
    return {name: value for name, value in tree.items() if name != "shortcut"}


def _split(key: jax.Array | None, n: int, train: bool) -> list:
    """Gives each of n layers a key; none where none is there, or nothing can be drawn."""
    return [None] * n if key is None or not train or n == 0 else list(jax.random.split(key, n))


def _check_layer(name: str, layer: Layer) -> None:
    if "/" in name or not name:
        raise ValueError(f"expected a layer name without '/', which separates the names of a path, got {name!r}")
    if isinstance(layer, type) or not isinstance(layer, Layer) or "train" not in signature(layer.apply).parameters:
        raise TypeError(
            f"expected {name!r} to be a layer, with init(key) and apply(params, state, x, *, train, key=None), "
            f"got {layer!r}; wrap a function in Function, a linen module in jaxcnn.interop.flax.from_linen"
        )


def _call(name: str, arguments: list[str]) -> str:
    """Writes a constructor call, on several lines where one would be long."""
    line = f"{name}({', '.join(arguments)})"
    if len(line) <= 100 and "\n" not in line:
        return line
    body = ",\n".join(arguments).replace("\n", "\n    ")
    return f"{name}(\n    {body},\n)"


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Names what is computed for profilers, and where an error came from in a note on it."""
    try:
        with jax.named_scope(name):
            yield
    except Exception as error:
        notes = getattr(error, "__notes__", [])
        inner = next((i for i, note in enumerate(notes) if note.startswith(_NOTE)), None)
        if inner is None:
            error.add_note(f"{_NOTE}'{name}'")
        else:
            notes[inner] = f"{_NOTE}'{name}/{notes[inner].removeprefix(_NOTE)[1:]}"
        raise
