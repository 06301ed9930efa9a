"""jaxcnn layers as flax modules, linen and nnx, and linen modules as jaxcnn layers.

    from jaxcnn.interop.flax import from_linen, to_linen, to_nnx

    linen_module = to_linen(layer)
    nnx_module = to_nnx(layer, nnx.Rngs(0))
    layer = from_linen(linen_module, (32, 32, 3), train_argument="train")

A jaxcnn model is written for one image, a flax module for a batch. So the flax modules here take and return batches,
shape (batch, height, width, channels), and the jaxcnn layers single images.

One difference remains. The running variance of `jaxcnn.layers.BatchNorm` is unbiased unless `unbiased=False`; that of
flax's own batch norms is biased.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.layers import batched
from jaxcnn.layers.flow import structure
from jaxcnn.types import Layer, Params, Shape, State
from jaxcnn.values import Value

try:
    import flax.linen as nn
    from flax import nnx
    from flax.core import unfreeze
    from flax.errors import InvalidRngError
except ImportError as error:
    raise ImportError("jaxcnn.interop.flax expects flax to be installed; pip install 'jaxcnn[flax]'") from error

_INVERSE_ARGUMENTS = ("deterministic", "use_running_average")
_KNOWN_ARGUMENTS = ("train", "training", "is_training", *_INVERSE_ARGUMENTS)


class LayerAsLinen(nn.Module):
    """A jaxcnn layer as a linen module; `to_linen` returns it.

    Attributes:
      layer: any layer or model.
      axis_name: name of the batch axis, over which its batch norms take their moments.
    """

    layer: Layer
    axis_name: str = "batch"

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Applies the layer to a batch.

        Args:
          images: shape (batch, height, width, channels).
          train: see `jaxcnn.types.Layer.apply`; a Python bool.

        Returns:
          The results, with the batch as their first axis. In training the collection "batch_stats" is updated.
        """
        if self.is_initializing() and not self.variables:
            for collection, tree in zip(("params", "batch_stats"), self.layer.init(self.make_rng()), strict=True):
                for name, value in tree.items():
                    self.put_variable(collection, name, value)
        trees = [self.variables.get(collection, {}) for collection in ("params", "batch_stats")]
        params, state = map(_complete, trees, structure(self.layer))
        # As in linen's own modules, "params" stands in for an rng that was not given.
        key = self.make_rng("dropout") if train and (self.has_rng("dropout") or self.has_rng("params")) else None
        outputs, state = _apply(self, params, state, images, train, key, "pass rngs={'dropout': key} to module.apply")
        if train and not self.is_initializing():
            for name, value in state.items():
                if jax.tree.leaves(value):
                    self.put_variable("batch_stats", name, value)
        return outputs


def to_linen(layer: Layer, *, axis_name: str = "batch", name: str | None = None) -> LayerAsLinen:
    """Turns a layer into a linen module.

        module = to_linen(model)
        variables = module.init(jax.random.key(0), images, train=False)  # {"params": ..., "batch_stats": ...}
        logits = module.apply(variables, images, train=False)            # (batch, num_classes)
        logits, updates = module.apply(
            variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )

    The module is a value as the layer is, and works alone or inside other linen modules. `variables["params"]` is the
    layer's `params` and `variables["batch_stats"]` its `state`, with the same names, so that they can be exchanged.
    Flax has no collection for a layer whose params or state are `{}`, and empty dicts inside may be missing, as after
    `flax.traverse_util.flatten_dict`. As in flax, initialisation leaves the running moments alone, also in training.

    Args:
      layer: any layer or model; its own init draws the parameters, with flax's rng "params".
      axis_name: name of the batch axis, over which batch norms take their moments.
      name: name of the module inside another one.

    Returns:
      A linen module: `module(images, train)` maps a batch of shape (batch, height, width, channels).

    Raises:
      TypeError: `layer` is not a jaxcnn layer.
    """
    _check_layer("to_linen", layer)
    return LayerAsLinen(layer, axis_name, name=name)


class LayerAsNnx(nnx.Module):
    """A jaxcnn layer with its parameters and state as an nnx module; `to_nnx` returns it.

    Attributes:
      layer: the layer, static.
      axis_name: name of the batch axis, over which its batch norms take their moments.
      params: the layer's parameters, a nested dict of `nnx.Param`.
      state: the layer's state, a nested dict of `nnx.BatchStat`.
      rngs: stream of keys for training, or None.
      deterministic: False in training; set by `train()` and `eval()`.
      use_running_average: False in training; always as `deterministic`, since a layer has one `train`.
    """

    def __init__(self, layer: Layer, rngs: nnx.Rngs, axis_name: str = "batch") -> None:
        params, state = layer.init(rngs.params())
        self.layer = layer
        self.axis_name = axis_name
        self.params = nnx.data(jax.tree.map(nnx.Param, params))
        self.state = nnx.data(jax.tree.map(nnx.BatchStat, state))
        self.rngs = rngs["dropout"].fork() if "dropout" in rngs or "default" in rngs else nnx.data(None)
        self.deterministic = False
        self.use_running_average = False

    def __call__(self, images: jax.Array, *, train: bool | None = None) -> jax.Array:
        """Applies the layer to a batch, and in training updates its state in place.

        Args:
          images: shape (batch, height, width, channels).
          train: see `jaxcnn.types.Layer.apply`; as `train()` or `eval()` set it if None.

        Returns:
          The results, with the batch as their first axis.

        Raises:
          ValueError: `deterministic` and `use_running_average` differ.
        """
        if train is None:
            if self.deterministic != self.use_running_average:
                raise ValueError(
                    "a jaxcnn layer has one train and expects deterministic and use_running_average to be equal, got "
                    f"{self.deterministic} and {self.use_running_average}; call train() or eval(), or pass train=..."
                )
            train = not self.deterministic
        params, state = self.to_jaxcnn()
        key = self.rngs() if train and self.rngs is not None else None
        outputs, state = _apply(self, params, state, images, train, key, "give to_nnx an nnx.Rngs with 'dropout'")
        if train:
            jax.tree.map(_assign, self.state, state, is_leaf=_is_variable)
        return outputs

    def to_jaxcnn(self) -> tuple[Params, State]:
        """Returns the current parameters and state in the form that `layer.apply` takes."""
        values = jax.tree.map(lambda variable: variable[...], (self.params, self.state), is_leaf=_is_variable)
        return values[0], values[1]

    def set_view(self, deterministic: bool | None = None, use_running_average: bool | None = None) -> None:
        """Sets the mode of a view made by `nnx.view`.

        Args:
          deterministic: False in training.
          use_running_average: False in training.
        """
        self.deterministic = self.deterministic if deterministic is None else deterministic
        self.use_running_average = self.use_running_average if use_running_average is None else use_running_average


def to_nnx(layer: Layer, rngs: nnx.Rngs, *, axis_name: str = "batch") -> LayerAsNnx:
    """Turns a layer into an nnx module, with fresh parameters `layer.init(rngs.params())`.

        model = to_nnx(layer, nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)

        @nnx.jit
        def train_step(model, optimizer, images, labels):
            loss, gradients = nnx.value_and_grad(loss_of)(model, images, labels)  # loss_of calls model(images)
            optimizer.update(model, gradients)
            return loss

        model.eval()
        logits = model(images)                                     # (batch, num_classes)
        params, state = model.to_jaxcnn()                          # back to layer.apply
        nnx.update(model, {"params": params, "state": state})      # and in again

    Fresh modules are in training mode, as nnx's own; `model.train()`, `model.eval()`, `nnx.view` and the argument
    `train` of the call change it. In training the state is updated in place and keys come from the stream "dropout".

    Args:
      layer: any layer or model.
      rngs: its stream "params" draws the parameters; a fork of its stream "dropout" gives the keys for training, which
        a layer without random numbers does not need. As everywhere in nnx, the default stream stands in for either.
      axis_name: name of the batch axis, over which batch norms take their moments.

    Returns:
      An nnx module: `model(images)` maps a batch of shape (batch, height, width, channels).

    Raises:
      TypeError: `layer` is not a jaxcnn layer, or `rngs` not an `nnx.Rngs`.
    """
    _check_layer("to_nnx", layer)
    if not isinstance(rngs, nnx.Rngs):
        raise TypeError(f"to_nnx expects rngs to be a flax.nnx.Rngs, such as nnx.Rngs(0), got {rngs!r}")
    return LayerAsNnx(layer, rngs, axis_name)


@dataclass(frozen=True, repr=False)
class Linen(Value):
    """A linen module as a layer; `from_linen` returns it and explains it.

    Attributes:
      module: the linen module; hashable, so its fields are tuples, not lists.
      image_shape: shape of the input of the layer, usually (height, width, channels).
      train_argument: name of the argument of `module.__call__` that says whether it trains.
      takes_batch: whether the module is written for a batch of images, as is usual in flax, or for one image.
      rng_collection: name under which the module asks for random numbers in training.
    """

    module: nn.Module
    image_shape: Shape
    train_argument: str | None = None
    takes_batch: bool = True
    rng_collection: str = "dropout"

    def __post_init__(self) -> None:
        if not isinstance(self.module, nn.Module):
            raise TypeError(f"Linen expects an instance of flax.linen.Module, got {self.module!r}")
        try:
            hash(self.module)
        except TypeError as error:
            raise TypeError(
                f"Linen expects a module that can be hashed, got {type(self.module).__name__} with a field that cannot "
                "be; use a tuple for a list, a flax.core.FrozenDict for a dict, and no arrays"
            ) from error
        shape = self.image_shape
        if not isinstance(shape, tuple) or not shape or not all(isinstance(size, int) and size > 0 for size in shape):
            raise ValueError(
                f"Linen expects image_shape to be a tuple of positive ints (height, width, channels), got {shape!r}"
            )
        self._check_train_argument()

    def _check_train_argument(self) -> None:
        parameters = inspect.signature(self.module.__call__).parameters
        if self.train_argument is None:
            for name in _KNOWN_ARGUMENTS:
                if name in parameters and getattr(self.module, name, None) is None:
                    raise ValueError(
                        f"Linen expects the name of the argument that says whether {type(self.module).__name__} "
                        f"trains, got None; pass train_argument={name!r}"
                    )
        elif self.train_argument not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            raise ValueError(
                f"Linen expects train_argument among the arguments {tuple(parameters)} of "
                f"{type(self.module).__name__}, got {self.train_argument!r}"
            )

    def init(self, key: jax.Array) -> tuple[Params, State]:
        """Runs the module on zeros; returns its collection "params", and the others under their names."""
        params_key, other_key = jax.random.split(key)
        variables = self.module.init(
            {self.rng_collection: other_key, "params": params_key},
            self._as_input(jnp.zeros(self.image_shape, jnp.float32)),
            **self._mode(train=False),
        )
        state = nn.meta.unbox(unfreeze(variables))
        return state.pop("params", {}), state

    def apply(
        self, params: Params, state: State, x: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, State]:
        """Applies the module to one image; its result has the dtype that the module gives it."""
        if x.ndim != len(self.image_shape):
            raise ValueError(
                f"Linen expects one image with as many axes as {self.image_shape}, got {x.shape}; "
                "map it over a batch with jaxcnn.batched or jax.vmap"
            )
        variables, inputs, mode = {"params": params, **state}, self._as_input(x), self._mode(train)
        if not train:
            return self._as_output(self.module.apply(variables, inputs, **mode)), state
        rngs = {} if key is None else {self.rng_collection: key}
        try:
            with nn.intercept_methods(_check_batch_norm):
                y, updates = self.module.apply(variables, inputs, rngs=rngs, mutable=list(state), **mode)
        except InvalidRngError as error:
            raise ValueError(
                f"{type(self.module).__name__} draws random numbers in training and expects a key under the name "
                f"{self.rng_collection!r}, got {key!r}; pass key=..., or the name it asks for as rng_collection"
            ) from error
        return self._as_output(y), {**state, **unfreeze(updates)}

    def _mode(self, train: bool) -> dict[str, Any]:
        if self.train_argument is None:
            return {}
        return {self.train_argument: train != (self.train_argument in _INVERSE_ARGUMENTS)}

    def _as_input(self, x: jax.Array) -> jax.Array:
        return x[None] if self.takes_batch else x

    def _as_output(self, y: Any) -> jax.Array:
        if not isinstance(y, jax.Array):
            raise TypeError(f"Linen expects {type(self.module).__name__} to return one array, got {type(y).__name__}")
        if not self.takes_batch:
            return y
        if y.shape[:1] != (1,):
            raise ValueError(
                f"Linen gave {type(self.module).__name__} a batch of one image and expects a batch of one result, got "
                f"shape {y.shape}; pass takes_batch=False if the module is written for one image"
            )
        return y[0]


def from_linen(
    module: nn.Module,
    image_shape: Shape,
    *,
    train_argument: str | None = None,
    takes_batch: bool = True,
    rng_collection: str = "dropout",
) -> Linen:
    """Turns a linen module into a layer.

        class CNN(nn.Module):
            @nn.compact
            def __call__(self, images, train):                             # (batch, height, width, channels)
                x = nn.Conv(16, (3, 3), use_bias=False)(images)
                x = nn.relu(nn.BatchNorm(use_running_average=not train, axis_name="batch")(x))
                return x.mean(axis=(1, 2))                                 # (batch, 16)

        features = from_linen(CNN(), (32, 32, 3), train_argument="train")
        model = Sequential(features=features, head=Dense(16, 10))
        logits, state = batched(model)(params, state, images, train=True, key=key)

    `params` is the module's collection "params"; `state` holds its other collections under their names, usually
    `{"batch_stats": ...}`, and all of them are mutable in training. Boxes of partitioning metadata are removed.

    The layer runs once for each image of a batch, under `jax.vmap` with a named axis. Give every `nn.BatchNorm` this
    name, "batch" in `jaxcnn.batched`, as `axis_name`: without it, the norm would see one image instead of the batch,
    which is refused. All other variables that a module of your own writes in training must be the same for all images
    of the batch (a `jax.lax.pmean` over the axis makes them so); if not, `jax.vmap` refuses its state: "out_axes is
    None" or "got axis spec None but output was batched". Do not pass a module of `to_linen`, whose batch norms would
    see a batch of one; use its layer.

    Two calls of `nn.initializers.he_normal()` make different modules, which `jax.jit` traces separately: create such an
    initializer once.

    Args:
      module: the linen module, not bound to variables.
      image_shape: shape of the zeros, float32, that initialise the module, usually (height, width, channels); images
        that come later may be of other sizes if the module can take them.
      train_argument: name of the argument of the module's `__call__` that says whether it trains: "deterministic" and
        "use_running_average" get `not train`, any other name `train`. None if there is no such argument.
      takes_batch: True if the module is written for batches, as is usual in flax (`x.reshape((x.shape[0], -1))`): it
        gets a batch of one image, (1, height, width, channels). False if it is written for one image.
      rng_collection: name under which the module asks for random numbers in training; it gets `key`.

    Returns:
      The layer.

    Raises:
      TypeError: the module is not an instance of `flax.linen.Module` or cannot be hashed.
      ValueError: the shape is not a tuple of positive ints; or the module does not take `train_argument`, or takes an
        argument of a usual name (train, training, is_training, deterministic, use_running_average) that would keep its
        default.
    """
    return Linen(module, image_shape, train_argument, takes_batch, rng_collection)


def _apply(
    module: LayerAsLinen | LayerAsNnx,
    params: Params,
    state: State,
    images: jax.Array,
    train: bool,
    key: jax.Array | None,
    advice: str,
) -> tuple[jax.Array, State]:
    """Applies the layer to a batch; if flax gave no key, the note of an error says how to pass one."""
    try:
        return batched(module.layer, module.axis_name)(params, state, images, train=train, key=key)
    except ValueError as error:
        if train and key is None:
            error.add_note(f"flax gave the layer no key; if it needs one, {advice}")
        raise


def _complete(tree: Any, like: Any) -> Any:
    """Returns the tree as plain dicts, with those empty dicts of another tree that it lacks."""
    if not isinstance(tree, Mapping):
        return tree
    like = like if isinstance(like, dict) else {}
    dicts = {name: {} for name, value in like.items() if isinstance(value, dict)}
    return {name: _complete(value, like.get(name)) for name, value in {**dicts, **tree}.items()}


def _is_variable(node: Any) -> bool:
    return isinstance(node, nnx.Variable)


def _assign(variable: nnx.Variable, value: jax.Array) -> None:
    variable[...] = value


def _check_layer(function: str, layer: Layer) -> None:
    # A linen module has init and apply too, with other arguments.
    if isinstance(layer, type | nn.Module) or not isinstance(layer, Layer):
        raise TypeError(f"{function} expects a jaxcnn layer, with init and apply, got {layer!r}")


def _check_batch_norm(call: Any, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
    """Refuses a linen batch norm that would treat one image as the batch: a method interceptor of flax."""
    norm = context.module
    if isinstance(norm, nn.BatchNorm) and context.method_name == "__call__":
        given = args[1] if len(args) > 1 else kwargs.get("use_running_average")
        if not (norm.use_running_average if given is None else given):
            _check_axis("/".join(norm.path), norm.axis_name)
    return call(*args, **kwargs)


def _check_axis(path: str, axis_name: str | None) -> None:
    if axis_name is None:
        raise ValueError(
            f"Linen expects each nn.BatchNorm to know the name of the batch axis in training, got axis_name=None for "
            f"{path!r}; pass axis_name='batch' to it, the name that jaxcnn.batched gives the axis"
        )
    try:
        jax.lax.axis_size(axis_name)
    except NameError:
        raise ValueError(
            f"nn.BatchNorm {path!r} expects a batch in training: a jax.vmap with axis_name={axis_name!r}, got one "
            "image; use jaxcnn.batched, or train=False to use the running moments"
        ) from None
