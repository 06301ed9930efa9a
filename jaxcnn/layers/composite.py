"""The base of layers made of layers. Only this module passes on parameters, state, keys, names and error notes."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from inspect import signature
from typing import Any, ClassVar, NamedTuple, Protocol, Self, TypeGuard

import jax
from jax.extend.core import get_opaque_trace_state

from jaxcnn.layers.drawing import split_key
from jaxcnn.layers.function import identity
from jaxcnn.layers.parameters import check_names
from jaxcnn.types import Layer, Params, State
from jaxcnn.values import Value, call

LAYER_NOTE = "in layer "
"""Prefix of the error note that names the layer; its path follows in quotes."""

# Keys that a forward draws for itself are counted from here, far from those of its children.
_OWN_KEYS = 1 << 31

_TRANSFORMED = "got a call within one, such as the body of jax.lax.scan or a function under jax.vmap or jax.jit"


class Around(Protocol):
    """A function that is called around each layer within a model; see `apply_around`."""

    def __call__(
        self,
        path: str,
        layer: Layer,
        apply: Callable[[Params, State, Any], tuple[Any, State]],
        params: Params,
        state: State,
        x: Any,
    ) -> tuple[Any, State]:
        """Returns the layer's result and new state, usually those of `apply(params, state, x)`."""
        ...


class Composite(Value):
    """A layer made of layers, whose computation is plain Python.

        @dataclass(frozen=True, repr=False)
        class Block(Composite):
            conv1: Conv
            norm1: BatchNorm
            shortcut: Layer = identity

            def forward(self, run, x):
                return jax.nn.relu(run.norm1(run.conv1(x)) + run.shortcut(x))

        block = Block(Conv(64, 64), BatchNorm(64))

    The fields that are layers are its children: parameters and state are dicts of their names. A subclass with other
    children overrides `children` and `with_children`.

    Attributes:
      inlined: name of a child whose parameters and state are not nested under its name: their names stand beside those
        of the other children. None for most classes.
    """

    inlined: ClassVar[str | None] = None

    def __new__(cls, *arguments: Any, **options: Any) -> Self:
        """Creates the object, after a check of its class."""
        _check_class(cls)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        children = self.children()
        known = {id(child) for child in children.values()}
        for field in dataclasses.fields(self):  # pyright: ignore[reportArgumentType]
            value = getattr(self, field.name)
            if isinstance(value, list | dict) or any(id(layer) not in known for layer in _layers_in(value)):
                raise TypeError(
                    f"{type(self).__name__} expects fields that are layers or hashable options, got {field.name}="
                    f"{value!r}; put several layers into a Sequential, and apply each by run.{field.name}"
                )
        if self.inlined is not None and self.inlined not in children:
            _check_child(self.inlined, getattr(self, self.inlined))
        for name, child in children.items():
            _check_child(name, child)
        if repeated := [name for name, count in Counter(self.names).items() if count > 1]:
            raise ValueError(
                f"{type(self).__name__} expects children of different names, got {min(repeated)!r} twice: "
                f"{self.inlined!r} has a layer with the name of another child"
            )

    def __repr__(self) -> str:
        return call(type(self).__name__, self._arguments())

    def children(self) -> Mapping[str, Layer]:
        """Returns the layers directly within this one, by name: the fields that are layers."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # pyright: ignore[reportArgumentType]
        return {name: value for name, value in fields.items() if _is_layer(value)}

    def with_children(self, children: Mapping[str, Layer]) -> Self:
        """Returns a copy with other children.

        Args:
          children: the new layers, by the names of `children()`.

        Returns:
          The new layer; this one is unchanged.
        """
        return dataclasses.replace(self, **children)  # pyright: ignore[reportArgumentType]

    def without(self, name: str) -> Self:
        """Returns a copy without a child: `identity` takes its place, or a container drops it."""
        return self.with_children({**self.children(), name: identity})

    def up_to(self, name: str) -> Layer:
        """Returns the layer without the children that its forward applies after one of them, as far as that is known.

        The order of a forward is not known here, so all children stay; containers override this.

        Args:
          name: name of a child, among those of `children()`.

        Returns:
          The layer; `Backbone` uses it, and stops where the child has been applied.
        """
        del name
        return self

    def forward(self, run: "Run", x: Any) -> Any:
        """Computes the layer on one image.

        Args:
          run: applies the children: `run.conv1(x)` or `run["conv1"](x)`. `run.train` tells whether this is training,
            and `run.key()` returns a random key.
          x: the input.

        Returns:
          The result.
        """
        raise NotImplementedError(f"{type(self).__name__} expects a method forward(self, run, x)")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the layers directly within this one, with which the paths of parameters begin."""
        names: list[str] = []
        for name, child in self.children().items():
            if name != self.inlined:
                names.append(name)
            elif isinstance(child, Composite):
                names.extend(child.names)
        return tuple(names)

    def __getitem__(self, path: str) -> Layer:
        """Returns a layer by name, or by a path such as "stage1/block0"."""
        first, _, rest = path.partition("/")
        if first not in self.names:
            raise KeyError(f"expected one of the layers {self.names}, got {first!r}")
        child, rest = self._first_step(path)
        layer = self.children()[child]
        if rest and not isinstance(layer, Composite):
            raise KeyError(f"expected a path that ends at {first!r}, which holds no layers, got {path!r}")
        return layer[rest] if rest else layer  # pyright: ignore[reportIndexIssue]

    def replace(self, layers: Mapping[str, Layer] | None = None, /, **named: Layer) -> Self:
        """Returns a copy with some layers replaced, at any depth.

            model.replace(head=Dense(512, 10))
            model.replace({"stage4/block0/shortcut": identity})

        Args:
          layers: the new layers, by path.
          **named: the new layers, by name.

        Returns:
          The new layer; this one is unchanged.

        Raises:
          ValueError: a path is unknown, or lies within another one.
          TypeError: a value is not a layer.
        """
        layers = {**(layers or {}), **named}
        if unknown := [path for path in layers if path.partition("/")[0] not in self.names]:
            raise ValueError(f"replace expects names among {self.names}, got {', '.join(map(repr, unknown))}")
        if within := [path for path in layers if any(path.startswith(f"{other}/") for other in layers)]:
            raise ValueError(f"replace expects paths apart from each other, got {within[0]!r} and a layer around it")
        children = dict(self.children())
        inner: dict[str, dict[str, Layer]] = {}
        for path, layer in layers.items():
            first, rest = self._first_step(path)
            if rest and not isinstance(children[first], Composite):
                raise ValueError(f"replace expects a path that ends at {first!r}, which holds no layers, got {path!r}")
            if rest:
                inner.setdefault(first, {})[rest] = layer
            else:
                _check_child(first, layer)
                children[first] = layer
        for first, within in inner.items():
            children[first] = children[first].replace(within)  # pyright: ignore[reportAttributeAccessIssue]
        return self.with_children(children)

    def init(self, key: jax.Array) -> tuple[Params, State]:
        """Draws parameters and state of all children, under their names."""
        children = self.children()
        keys = [key] if self._hands_on_its_key() else split_key(key, len(children))
        parts = {}
        for (name, child), child_key in zip(children.items(), keys, strict=True):
            with self.naming(name):
                parts[name] = child.init(child_key)
        params, state = (self.joined({name: part[i] for name, part in parts.items()}) for i in (0, 1))
        return params, state

    def apply(
        self, params: Params, state: State, x: Any, *, train: bool, key: jax.Array | None = None
    ) -> tuple[Any, State]:
        """Computes `forward` on one image."""
        return self._apply(params, state, x, train=train, key=key, inside=None)

    def parts(self, what: str, tree: dict) -> dict[str, Any]:
        """Splits a tree of parameters or state into the trees of the children.

        Args:
          what: "parameters" or "state", for the message.
          tree: the tree of this layer.

        Returns:
          The tree of each child, by the names of `children()`.

        Raises:
          ValueError: the names of the tree are not those of this layer.
        """
        names = [name for name in self.children() if name != self.inlined]
        if self.inlined is None:
            check_names(f"{type(self).__name__} {what}", tree, names)
            return tree
        if not isinstance(tree, dict) or not set(names) <= set(tree):
            got = tuple(tree) if isinstance(tree, dict) else type(tree).__name__
            raise ValueError(
                f"{type(self).__name__} {what}: expected a dict with the names {tuple(names)}, got {got}; "
                "was it made by this layer's init?"
            )
        inlined = {name: value for name, value in tree.items() if name not in names}
        return {name: inlined if name == self.inlined else tree[name] for name in self.children()}

    def joined(self, parts: Mapping[str, Any]) -> dict[str, Any]:
        """Joins the trees of the children into one; the inverse of `parts`."""
        tree = {}
        for name, part in parts.items():
            tree.update(part if name == self.inlined else {name: part})
        return tree

    def _first_step(self, path: str) -> tuple[str, str]:
        """Returns the child that a path leads to, and the path within it."""
        first, _, rest = path.partition("/")
        if self.inlined is None or (first != self.inlined and first in self.children()):
            return first, rest
        return self.inlined, path

    def _apply(
        self, params: Params, state: State, x: Any, *, train: bool, key: jax.Array | None, inside: "_Inside | None"
    ) -> tuple[Any, State]:
        run = Run(self, params, state, train=train, key=key, inside=inside)
        y = self.forward(run, x)
        if y is None:
            raise TypeError(f"{type(self).__name__} expects forward to return its result, got None; return it")
        return y, run._new_state()

    def _hands_on_its_key(self) -> bool:
        return self.inlined is not None and len(self.children()) == 1

    def naming(self, name: str) -> AbstractContextManager[None]:
        """Returns a context that names a child for profilers and in the notes of errors, unless it is inlined."""
        return nullcontext() if name == self.inlined else named(name)


class _Inside(NamedTuple):
    """How the layers within a model are applied.

    Attributes:
      around: called around each of them.
      asked: paths of layers that are computed even if evaluation does not need them.
      path: path of the composite that is applied now.
    """

    around: Around
    asked: frozenset[str]
    path: str


class Run:
    """Applies the children of a composite to one image: `run.name(x)` or `run["name"](x)`.

    A child that is applied several times uses the same parameters, passes its state from call to call and draws new
    random numbers in each. A child with the name of an attribute of `Run`, such as "train", needs the brackets.

    Within a function that JAX transforms, such as the body of a `jax.lax.scan`, one call in the program may be many
    calls of the child. There, a child whose state changes is refused, and one that draws random numbers needs a key of
    its own for each call: `run.name(x, key=key)`.

    Attributes:
      train: whether this is training; see `jaxcnn.types.Layer.apply`.
    """

    def __init__(
        self,
        composite: Composite,
        params: Params,
        state: State,
        *,
        train: bool,
        key: jax.Array | None,
        inside: _Inside | None,
    ) -> None:
        self.train = train
        self._composite, self._children, self._inside = composite, composite.children(), inside
        self._params, self._state = composite.parts("parameters", params), dict(composite.parts("state", state))
        self._key = key if train else None
        self._keys = dict(zip(self._children, self._split(), strict=True))
        self._calls = dict.fromkeys(self._children, 0)
        self._drawn = 0
        self._trace = get_opaque_trace_state()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> Callable[..., Any]:
        """Returns the function that applies a child: of `x`, and of a key to use instead of that of the child."""
        if name not in self._children:
            raise AttributeError(
                f"{type(self._composite).__name__} expects one of its layers {tuple(self._children)}, got {name!r}"
            )
        return functools.partial(self._call, name)

    def key(self) -> jax.Array:
        """Returns a fresh random key for the forward itself.

        Raises:
          ValueError: `apply` got no key, this is not training, or the call is within a function that JAX transforms.
        """
        if self._is_transformed():
            raise ValueError(
                f"{type(self._composite).__name__} expects run.key() to be called outside of functions that JAX "
                f"transforms, {_TRANSFORMED}: each step would draw the same numbers; call it before, and hand "
                "the keys in, as jax.random.split(run.key(), steps)"
            )
        return self._next_key()

    def _next_key(self) -> jax.Array:
        if self._key is None:
            raise ValueError(
                f"{type(self._composite).__name__} draws random numbers and expects a key in training, got "
                + ("none; pass key= to apply" if self.train else "train=False; ask run.train first")
            )
        self._drawn += 1
        return jax.random.fold_in(self._key, _OWN_KEYS + self._drawn)

    def is_asked_for(self, name: str) -> bool:
        """Tells whether a child's result is asked for by name, as by `features`; if so, evaluation computes it too."""
        if self._inside is None:
            return False
        path = _join(self._inside.path, name)
        return any(asked == path or asked.startswith(f"{path}/") for asked in self._inside.asked)

    def results_within(self, name: str, x: Any, at: Sequence[str]) -> dict[str, Any]:
        """Applies a child until some layers within it have been computed.

        Args:
          name: name of the child, a composite.
          x: its input.
          at: paths of layers within it; the last one is the one that is computed last.

        Returns:
          The results of these layers by path, in the order in which they were computed.

        Raises:
          ValueError: the child does not apply one of them.
        """
        child, outside = self._children[name], self._inside
        before = "" if outside is None else outside.path
        path = path_of_child(self._composite, before, name)
        layers = {_join(path, one): layer_at(child, one) for one in at}
        taps = Taps(layers, None if outside is None else outside.around)
        asked = frozenset(layers) | (frozenset() if outside is None else outside.asked)
        self._inside = _Inside(taps, asked, before)
        try:
            self._call(name, x)
        except Stopped as stopped:
            if stopped.by is not taps:
                raise
        finally:
            self._inside = outside
        if missing := [one for one in at if _join(path, one) not in taps.found]:
            raise ValueError(f"expected the path of a layer that the model applies, got {missing[0]!r}")
        return {found.removeprefix(path).removeprefix("/"): y for found, y in taps.found.items()}

    def _split(self) -> list[jax.Array | None]:
        if self._key is None or not self._children:
            return [None] * len(self._children)
        if self._composite._hands_on_its_key():
            return [self._key]
        return list(jax.random.split(self._key, len(self._children)))

    def _is_transformed(self) -> bool:
        """Tells whether JAX traces a function within the forward now."""
        return get_opaque_trace_state() != self._trace

    def _call(self, name: str, x: Any, *, key: jax.Array | None = None) -> Any:
        own_key = key is None
        if not self.train:
            key = None
        elif own_key:
            key = self._next_key() if self._calls[name] and self._key is not None else self._keys[name]
        self._calls[name] += 1
        with self._composite.naming(name):
            try:
                y, state = self._applied(name, x, key)
            except Stopped as stopped:
                self._state[name] = stopped.state
                stopped.state = self._composite.joined(self._state)
                raise
            if not self._is_transformed():
                self._state[name] = state
            elif self.train:
                self._check_transformed(name, x, state, own_key and key is not None)
        return y

    def _check_transformed(self, name: str, x: Any, state: State, draws: bool) -> None:
        """Refuses a call within a function that JAX transforms if the child changes its state, or draws from our key.

        Args:
          name: name of the child.
          x: its input.
          state: its new state.
          draws: whether it was given a key of ours.
        """
        what = f"{type(self._composite).__name__} expects {name!r}"
        before = self._state[name]
        if any(new is not old for new, old in zip(jax.tree.leaves(state), jax.tree.leaves(before), strict=True)):
            raise ValueError(
                f"{what}, whose state changes in training, to be called outside of functions that JAX transforms, "
                f"{_TRANSFORMED}; call it in a Python loop, or use a layer without state, such as LayerNorm"
            )
        if draws:
            try:
                without = functools.partial(self._children[name].apply, train=True, key=None)
                jax.eval_shape(without, self._params[name], before, x)
            except Exception:
                raise ValueError(
                    f"{what}, which draws random numbers, to be given a key in functions that JAX transforms, "
                    f"{_TRANSFORMED}: all steps would draw the same numbers; split run.key() outside, and "
                    f"call run.{name}(x, key=key)"
                ) from None

    def _applied(self, name: str, x: Any, key: jax.Array | None) -> tuple[Any, State]:
        layer, params, state = self._children[name], self._params[name], self._state[name]
        if self._inside is None:
            return layer.apply(params, state, x, train=self.train, key=key)
        around, asked, path = self._inside
        is_inlined = name == self._composite.inlined
        if not is_inlined:
            path = _join(path, name if self._calls[name] == 1 else f"{name}#{self._calls[name]}")
        if not is_open(layer):
            apply = functools.partial(layer.apply, train=self.train, key=key)
        else:
            inside = _Inside(around, asked, path)
            apply = functools.partial(layer._apply, train=self.train, key=key, inside=inside)
            if is_inlined:
                return apply(params, state, x)
        return around(path, layer, apply, params, state, x)

    def _new_state(self) -> State:
        if self.train and (missing := [name for name, calls in self._calls.items() if calls == 0]):
            raise ValueError(
                f"{type(self._composite).__name__} expects forward to apply every layer in training, got no call of "
                f"{', '.join(map(repr, missing))}; apply it, as run.{missing[0]}(x), or remove the field"
            )
        return self._composite.joined(self._state)


class Stopped(BaseException):
    """All layers that `Taps` waits for have been computed. Not an `Exception`, since no handler of errors may catch it.

    Attributes:
      by: what stopped the computation.
      state: the new state of the layer that the exception has left last.
    """

    def __init__(self, by: "Taps", state: State) -> None:
        super().__init__()
        self.by, self.state = by, state


class Taps:
    """Goes around layers, keeps the results of some of them, and stops when it has all.

    Args:
      layers: the layers by path; the last one is computed last if something else goes around the layers too.
      outside: what goes around the layers too, or None. It does not see a composite that is stopped before its end.
    """

    def __init__(self, layers: Mapping[str, Layer], outside: Around | None = None) -> None:
        self.found: dict[str, Any] = {}
        self._layers, self._outside, self._last = layers, outside, next(reversed(dict(layers)))

    def __call__(self, path: str, layer: Layer, apply: Any, params: Params, state: State, x: Any) -> tuple[Any, State]:
        """Returns the layer's result and its new state."""
        if self._outside is None or self._last.startswith(f"{path}/"):
            y, state = apply(params, state, x)
        elif any(one.startswith(f"{path}/") for one in self._layers):
            y, state = self._passed_outside(path, layer, apply, params, state, x)
        else:
            y, state = self._outside(path, layer, apply, params, state, x)
        # A layer that is inlined has the path of the composite around it.
        if self._layers.get(path) is layer:
            self.found[path] = y
            if len(self.found) == len(self._layers):
                raise Stopped(self, state)
        return y, state

    def _passed_outside(
        self, path: str, layer: Layer, apply: Any, params: Params, state: State, x: Any
    ) -> tuple[Any, State]:
        # `outside` may trace `apply` on its own, and then its results are all that may leave the trace: the results
        # found within pass through beside the state.
        def with_found(params: Params, state: State, x: Any) -> tuple[Any, Any]:
            y, state = apply(params, state, x)
            return y, (state, {one: y for one, y in self.found.items() if one.startswith(f"{path}/")})

        outside: Any = self._outside
        y, (state, found) = outside(path, layer, with_found, params, state, x)
        self.found |= found
        return y, state


def layer_at(model: Layer, path: str) -> Layer:
    """Returns a layer within a model.

    Args:
      model: a layer made of layers.
      path: its path; that of the second call of a layer ends in "#2".

    Returns:
      The layer.

    Raises:
      ValueError: there is no layer of that path.
    """
    names = [name.partition("#")[0] for name in path.split("/")]
    if "" in names:
        raise ValueError(f"expected paths of names with '/' between them, got {path!r}")
    if not isinstance(model, Composite):
        raise ValueError(f"expected a model made of layers, got {model!r}")
    try:
        return model["/".join(names)]
    except KeyError as error:
        raise ValueError(f"{error.args[0]}, in the path {path!r}") from None


def apply_around(
    model: Layer,
    params: Params,
    state: State,
    x: Any,
    around: Around,
    *,
    train: bool,
    key: jax.Array | None = None,
    asked: frozenset[str] = frozenset(),
) -> tuple[Any, State]:
    """Applies a model to one image, with a function called around each layer within it.

    `around(path, layer, apply, params, state, x)` returns the result and the state of a layer. It may record, change or
    replace what `apply(params, state, x)` returns. It is called for the layers within composites, the composites among
    them, but not for the model itself. The path of the second call of a layer ends in "#2". An inlined composite has
    no path, and an inlined layer that is not a composite has that of its composite.

    Args:
      model: a layer or a whole model; without layers inside, this is `model.apply`.
      params: its parameters.
      state: its state.
      x: the input.
      around: the function.
      train: see `jaxcnn.types.Layer.apply`.
      key: see `jaxcnn.types.Layer.apply`.
      asked: paths of layers to compute even if evaluation does not need them, such as auxiliary heads.

    Returns:
      The result and the new state.
    """
    if not is_open(model):
        return model.apply(params, state, x, train=train, key=key)
    return model._apply(params, state, x, train=train, key=key, inside=_Inside(around, asked, ""))


def apply_with_hook(
    model: Layer,
    params: Params,
    state: State,
    x: Any,
    hook: Callable[[str, Layer, Any], Any],
    *,
    train: bool = False,
    key: jax.Array | None = None,
) -> tuple[Any, State]:
    """Applies a model to one image, and a function to the result of each layer within it.

        def without_channel_7(path, layer, y):
            return y.at[..., 7].set(0) if path == "stage2/block0/conv1" else y

        logits, _ = apply_with_hook(model, params, state, image, without_channel_7)

    Args:
      model: a layer or a whole model.
      params: its parameters.
      state: its state.
      x: the input.
      hook: from a layer's path, the layer and its result to the result that the model goes on with. The path of the
        second call of a layer ends in "#2".
      train: see `jaxcnn.types.Layer.apply`.
      key: see `jaxcnn.types.Layer.apply`.

    Returns:
      The result and the new state.
    """

    def around(path: str, layer: Layer, apply: Any, params: Params, state: State, x: Any) -> tuple[Any, State]:
        y, state = apply(params, state, x)
        return hook(path, layer, y), state

    return apply_around(model, params, state, x, around, train=train, key=key)


def is_open(layer: Layer) -> TypeGuard[Composite]:
    """Tells whether the layers within a layer can be seen: it is a composite with the `apply` of its base."""
    return isinstance(layer, Composite) and type(layer).apply is Composite.apply


def path_of_child(composite: Composite, path: str, name: str) -> str:
    """Returns the path of a child: that of the composite itself if the child is inlined.

    Args:
      composite: a layer made of layers.
      path: its path; empty for a whole model.
      name: name of the child.

    Returns:
      The path, with "/" between names.
    """
    return path if name == composite.inlined else _join(path, name)


def layer_paths(layer: Layer, path: str = "") -> Iterator[str]:
    """Yields the paths of all layers within a layer, each before those within it.

    Args:
      layer: a layer or a whole model.
      path: its own path; empty for a whole model.

    Yields:
      Paths, such as "stage1/block0/conv1".
    """
    if isinstance(layer, Composite):
        for name, child in layer.children().items():
            inner = path_of_child(layer, path, name)
            if name != layer.inlined:
                yield inner
            yield from layer_paths(child, inner)


def layer_names(layer: Layer) -> tuple[str, ...]:
    """Names the layers directly within a layer; none if it is not a composite."""
    return layer.names if isinstance(layer, Composite) else ()


def _check_child(name: str, layer: Any) -> None:
    """Refuses what cannot be a child of a composite."""
    if "/" in name or "#" in name or not name:
        raise ValueError(f"expected a layer name without '/' and '#', which separate the parts of a path, got {name!r}")
    if not _is_layer(layer) or not _takes_train(layer):
        raise TypeError(
            f"expected {name!r} to be a layer, with init(key) and apply(params, state, x, *, train, key=None), "
            f"got {layer!r}; wrap a function in Function, a linen module in jaxcnn.interop.flax.from_linen"
        )


def _is_layer(value: Any) -> bool:
    return _is_layer_class(type(value))


# Cached, because a deep model has thousands of layers of a few classes.
@functools.lru_cache(maxsize=256)
def _is_layer_class(kind: type) -> bool:
    return callable(getattr(kind, "init", None)) and callable(getattr(kind, "apply", None))


def _layers_in(value: Any) -> Iterator[Layer]:
    """Yields the layers within a tuple or another container, at any depth; none if the value is not a container."""
    if isinstance(value, tuple | frozenset | Mapping) and not _is_layer(value):
        for item in value.values() if isinstance(value, Mapping) else value:
            if _is_layer(item):
                yield item
            yield from _layers_in(item)


@functools.lru_cache(maxsize=256)
def _check_class(kind: type[Composite]) -> None:
    """Refuses a class of composites that is not a frozen dataclass, or has a field with the name of a method."""
    if not dataclasses.is_dataclass(kind) or not kind.__dataclass_params__.frozen:  # pyright: ignore[reportAttributeAccessIssue]
        raise TypeError(
            f"{kind.__name__} expects to be a frozen dataclass; write @dataclass(frozen=True, repr=False) before it"
        )
    reserved = [field.name for field in dataclasses.fields(kind) if hasattr(Composite, field.name)]
    if reserved:
        raise TypeError(
            f"{kind.__name__} expects fields with other names than the attributes of Composite, got {reserved[0]!r}; "
            "rename it"
        )


def _takes_train(layer: Layer) -> bool:
    return "train" in _parameter_names(getattr(layer.apply, "__func__", layer.apply))


@functools.lru_cache(maxsize=256)
def _parameter_names(function: Callable) -> frozenset[str]:
    return frozenset(signature(function).parameters)


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


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
