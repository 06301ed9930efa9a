"""The train state: everything that training changes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcnn import layers, trees
from jaxcnn.training.precision import as_precision
from jaxcnn.types import Layer, Params, State


class Average(NamedTuple):
    """Exponential moving averages of a model's arrays over the steps.

    Attributes:
      params: of the parameters.
      state: of the state.
    """

    params: Params
    state: State


class TrainState(NamedTuple):
    """Everything that training changes; `init_train_state` and `make_train_state` make one.

    Attributes:
      step: number of steps done, int32.
      params: the model's parameters.
      state: the model's state, such as running moments.
      opt_state: the optimizer's state, of the parameters outside of frozen layers.
      ema: moving averages of parameters and state, or None.
    """

    step: jax.Array
    params: Params
    state: State
    opt_state: Any
    ema: Average | None = None


def init_train_state(
    model: Layer,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    *,
    precision: Any = "float32",
    ema: bool = False,
    trainable: Any = None,
) -> TrainState:
    """Draws fresh parameters and makes the optimizer's first state.

    Args:
      model: any layer.
      optimizer: any Optax optimizer.
      key: typed random key, consumed.
      precision: a `Precision` or the name of a dtype; its `params` is the dtype of the parameters.
      ema: whether to keep moving averages, for a train step with `ema`.
      trainable: see `make_train_step`.

    Returns:
      The train state at step 0.

    Raises:
      TypeError: `optimizer` is not an optimizer, or `key` is not a key.
    """
    if not isinstance(key, jax.Array):
        raise TypeError(f"init_train_state expects a key, such as jax.random.key(0), got {key!r}")
    check_optimizer(optimizer)
    params, state = model.init(key)
    params = as_precision(precision).cast_params(params)
    return _first_train_state(
        params, state, optimizer, step=0, ema=ema, trainable=trainable_mask(model, params, trainable)
    )


def make_train_state(
    params: Params,
    state: State,
    optimizer: optax.GradientTransformation,
    *,
    step: int = 0,
    ema: bool = False,
    trainable: Any = None,
) -> TrainState:
    """Makes a train state from existing parameters, with a fresh state of the optimizer.

    Args:
      params: trained or read parameters; they are copied, since a train step takes over its train state.
      state: the state that belongs to them; it is copied too.
      optimizer: any Optax optimizer.
      step: number of steps done, at least 0.
      ema: whether to keep moving averages, for a train step with `ema`; they begin at these parameters.
      trainable: a tree like `params` of bools, True for parameters to train, such as `jaxcnn.layers.trainable` makes
        for a model with frozen layers; None to train all.

    Returns:
      The train state.

    Raises:
      ValueError: the step is negative.
      TypeError: `optimizer` is not an optimizer.
    """
    check_optimizer(optimizer)
    if step < 0:
        raise ValueError(f"make_train_state expects a step of at least 0, got {step}")
    # jnp.array copies, also NumPy's arrays.
    params, state = jax.tree.map(jnp.array, (params, state))
    return _first_train_state(params, state, optimizer, step=step, ema=ema, trainable=trainable)


def evaluation_weights(train_state: TrainState) -> tuple[Params, State]:
    """Returns the parameters and the state to evaluate and to export: their moving averages where there are any.

    Args:
      train_state: a train state; its arrays are not copied, and the next step takes them over.

    Returns:
      Parameters and state.
    """
    source = train_state if train_state.ema is None else train_state.ema
    return source.params, source.state


def trainable_mask(model: Layer, params: Params, given: Any) -> Any:
    """Tells which parameters are trained.

    Args:
      model: the model.
      params: its parameters.
      given: a tree like `params` of bools; None for the parameters outside of frozen layers.

    Returns:
      A tree like `params` of bools.
    """
    return layers.trainable(model, params) if given is None else given


def with_fixed_types(tree: Any) -> Any:
    """Drops JAX's weak types: a weak leaf would change its type in the first step, or in a checkpoint.

    Args:
      tree: any pytree of arrays.

    Returns:
      The same arrays, each of the dtype that it has.
    """
    return jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), tree)


def check_optimizer(optimizer: Any) -> None:
    """Refuses a value that is not an Optax optimizer.

    Args:
      optimizer: anything.

    Raises:
      TypeError: it has no `init` and `update`.
    """
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        raise TypeError(f"expected an optimizer of Optax, such as optax.adam(1e-3), got {optimizer!r}")


def _first_train_state(
    params: Params, state: State, optimizer: optax.GradientTransformation, *, step: int, ema: bool, trainable: Any
) -> TrainState:
    trained = params if trainable is None else trees.partition(params, trainable)[0]
    # Some optimizers keep the arrays of the parameters themselves, which cannot be donated twice.
    opt_state = jax.tree.map(lambda leaf: jax.device_put(leaf, may_alias=False), optimizer.init(trained))
    average = jax.tree.map(jnp.copy, Average(params, state)) if ema else None
    return TrainState(jnp.asarray(step, jnp.int32), params, state, with_fixed_types(opt_state), average)
