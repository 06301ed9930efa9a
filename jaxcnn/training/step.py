"""The compiled steps of training, evaluation and prediction."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from jaxcnn.layers import batched
from jaxcnn.meshes import spec_of, with_automatic_axes
from jaxcnn.ops.check import at_least_float32, check_floating
from jaxcnn.training.losses import cross_entropy
from jaxcnn.training.metrics import Metrics, batch_metrics
from jaxcnn.types import Layer, Params, State

Loss = Callable[[jax.Array, jax.Array], jax.Array]
"""From logits (batch, num_classes) and labels (batch,) to losses (batch,).

A model with auxiliary heads gives logits (batch, heads, num_classes) in training: see `auxiliary_loss`.
"""

Augment = Callable[[jax.Array, jax.Array], jax.Array]
"""From a typed random key and one image to an image of the same shape and dtype."""


class TrainState(NamedTuple):
    """All that training changes; `init_train_state` and `make_train_state` make one.

    Attributes:
      step: number of steps done, int32.
      params: the model's parameters.
      state: the model's state, such as running moments.
      opt_state: the optimizer's state.
    """

    step: jax.Array
    params: Params
    state: State
    opt_state: Any


class TrainStep(Protocol):
    """One step of training; what `make_train_step` returns."""

    def __call__(self, train_state: TrainState, images: Any, labels: Any, key: jax.Array) -> tuple[TrainState, Metrics]:
        """Returns the new train state and the metrics of the batch; the old train state is donated."""
        ...


def init_train_state(model: Layer, optimizer: optax.GradientTransformation, key: jax.Array) -> TrainState:
    """Draws fresh parameters and makes the optimizer's first state.

    Args:
      model: a layer that gives logits.
      optimizer: any Optax optimizer.
      key: typed random key, consumed.

    Returns:
      The train state at step 0.

    Raises:
      TypeError: `optimizer` is no optimizer, or `key` no key.
    """
    if not isinstance(key, jax.Array):
        raise TypeError(f"init_train_state expects a key, such as jax.random.key(0), got {key!r}")
    _check_optimizer(optimizer)
    params, state = model.init(key)
    return _first_train_state(params, state, optimizer, step=0)


def make_train_state(
    params: Params, state: State, optimizer: optax.GradientTransformation, *, step: int = 0
) -> TrainState:
    """Makes the train state of parameters that are there, with a fresh state of the optimizer.

    Args:
      params: trained or read parameters; they are copied, since a train step takes over its train state.
      state: the state that belongs to them; it is copied too.
      optimizer: any Optax optimizer.
      step: number of steps done, at least 0.

    Returns:
      The train state.

    Raises:
      ValueError: the step is negative.
      TypeError: `optimizer` is no optimizer.
    """
    _check_optimizer(optimizer)
    if step < 0:
        raise ValueError(f"make_train_state expects a step of at least 0, got {step}")
    # jnp.array copies, arrays of NumPy too.
    params, state = jax.tree.map(jnp.array, (params, state))
    return _first_train_state(params, state, optimizer, step=step)


def _check_optimizer(optimizer: Any) -> None:
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        raise TypeError(f"expected an optimizer of Optax, such as optax.adam(1e-3), got {optimizer!r}")


def _first_train_state(
    params: Params, state: State, optimizer: optax.GradientTransformation, *, step: int
) -> TrainState:
    # Some optimizers keep the very arrays of the parameters, which cannot be donated twice.
    opt_state = jax.tree.map(lambda leaf: jax.device_put(leaf, may_alias=False), optimizer.init(params))
    return TrainState(jnp.asarray(step, jnp.int32), params, state, _with_fixed_types(opt_state))


def _with_fixed_types(tree: Any) -> Any:
    """Drops JAX's weak types: a weak leaf would change its type in the first step, or in a checkpoint."""
    return jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), tree)


def make_train_step(
    model: Layer,
    optimizer: optax.GradientTransformation,
    *,
    loss: Loss = cross_entropy,
    augment: Augment | None = None,
    dtype: Any = jnp.float32,
    compiler_options: dict[str, Any] | None = None,
) -> TrainStep:
    """Makes the compiled training step: augment, forward, backward, update.

    `train_state, metrics = train_step(train_state, images, labels, key)`. The old train state is donated: its buffers
    are used again, so it must not be read afterwards. Randomness is drawn from the key folded with the step, so that
    the same key serves the whole run and a resumed run draws the same numbers.

    Optimizers that ask for more than gradients (`optax.GradientTransformationExtraArgs`) are given, by keyword, the
    mean loss of the batch (`value`), its gradient (`grad`), the mean loss as a function of parameters (`value_fn`, also
    called `obj_fn`), and the gradient as a function of parameters and a number that it ignores (`grad_fn`). All are of
    the same augmented images and random numbers.

    On a mesh of devices, split the images and labels along the batch and put the train state where it is to stay; the
    new one is laid out as the old one. The axes of the mesh may be automatic or explicit.

    Args:
      model: a layer that gives logits.
      optimizer: any Optax optimizer.
      loss: losses of a batch from logits (float32, or float64 if `dtype` is) and labels; their mean is minimised.
      augment: changes one image at random, or None.
      dtype: dtype of the computation, such as `jnp.bfloat16`; parameters and moments keep theirs. The loss is float32,
        or float64 if `dtype` is.
      compiler_options: XLA's options, as for `jax.jit`, which refuses them within another transformed function.

    Returns:
      A function of train state, images (batch, height, width, channels) of floating point, labels (batch,) and a typed
      key, that gives the new train state and the metrics of the batch: summed losses, correct and examples, before the
      update and on the augmented images; the norm of the gradient; and how many arrays of parameters and moments hold
      NaN or infinity after the update. It raises a TypeError for images that are not floating point, such as uint8, and
      a ValueError for a train state that an earlier step has taken over.
    """
    _check_optimizer(optimizer)
    forward = batched(model)
    extra_args = _extra_args(optimizer)

    def compute(
        train_state: TrainState, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        augment_key, model_key = jax.random.split(jax.random.fold_in(key, train_state.step))
        if augment is not None:
            images = jax.vmap(augment)(jax.random.split(augment_key, images.shape[0]), images)
        images = images.astype(dtype)

        def mean_loss(params: Params):
            logits, state = forward(params, train_state.state, images, train=True, key=model_key)
            logits = logits.astype(at_least_float32(logits.dtype))
            losses = loss(logits, labels)
            return jnp.mean(losses), (state, batch_metrics(losses, logits, labels))

        # Optax's line searches insist that their `value_fn` takes all the arguments that are not theirs.
        def value_fn(params: Params, obj_fn: Any = None, grad_fn: Any = None) -> jax.Array:
            return mean_loss(params)[0]

        def grad_fn(params: Params, number: Any = None) -> Params:
            return jax.grad(value_fn)(params)

        (value, (state, metrics)), gradients = jax.value_and_grad(mean_loss, has_aux=True)(train_state.params)
        known = {"value": value, "grad": gradients, "value_fn": value_fn, "obj_fn": value_fn, "grad_fn": grad_fn}
        updates, opt_state = optimizer.update(
            gradients,
            train_state.opt_state,
            train_state.params,
            **{name: argument for name, argument in known.items() if extra_args is None or name in extra_args},
        )
        params: Any = optax.apply_updates(train_state.params, updates)
        metrics = metrics._replace(gradient_norm=_norm(gradients), non_finite=_count_non_finite((params, state)))
        return TrainState(train_state.step + 1, params, state, _with_fixed_types(opt_state)), metrics

    def train_step(
        train_state: TrainState, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        check_floating("train_step", images)
        return with_automatic_axes(
            compute,
            train_state,
            images,
            labels,
            key,
            out_specs=lambda: (jax.tree.map(spec_of, train_state), PartitionSpec()),
        )

    return _DonatingJit(train_step, compiler_options=compiler_options, donate_argnums=0)


class _DonatingJit:
    """A compiled training step that says what to do with a train state that is gone."""

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        functools.update_wrapper(self, function)
        jitted = jax.jit(function, **options)
        self._jitted, self.trace, self.lower = jitted, jitted.trace, jitted.lower

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self._jitted(*args, **kwargs)
        except (RuntimeError, ValueError) as error:
            # Checked after an error only, to cost nothing otherwise.
            gone = any(isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in jax.tree.leaves((args, kwargs)))
            if gone and ("deleted" in str(error) or "donated" in str(error)):
                raise ValueError(
                    "train_step expects the newest train state, got one that an earlier step has taken over (donated); "
                    "go on with the train state which that step returned, or keep a copy: "
                    "jax.tree.map(jnp.copy, train_state)"
                ) from error
            raise


def _extra_args(optimizer: optax.GradientTransformation) -> set[str] | None:
    """Names the extra arguments that the optimizer's update takes; None if it takes any."""
    if not isinstance(optimizer, optax.GradientTransformationExtraArgs):
        return set()
    parameters = inspect.signature(optimizer.update).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return None if takes_any else set(parameters)


def _norm(tree: Any) -> jax.Array:
    squares = [jnp.sum(jnp.square(leaf)) for leaf in _floating_leaves(tree)]
    dtype = jnp.float64 if any(square.dtype == jnp.float64 for square in squares) else jnp.float32
    return jnp.sqrt(sum((square.astype(dtype) for square in squares), start=jnp.zeros((), dtype)))


def _count_non_finite(tree: Any) -> jax.Array:
    """Counts the arrays that hold NaN or infinity, int32."""
    # x - x is zero for finite x alone. Its sum is several times faster on CPU than jnp.isfinite of each value.
    bad = (jnp.sum(leaf - leaf) != 0 for leaf in _floating_leaves(tree))
    return sum((one.astype(jnp.int32) for one in bad), start=jnp.zeros((), jnp.int32))


def _floating_leaves(tree: Any) -> list[jax.Array]:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return [leaf.astype(at_least_float32(leaf.dtype)) for leaf in leaves]


def make_eval_step(
    model: Layer,
    *,
    loss: Loss = cross_entropy,
    dtype: Any = jnp.float32,
    compiler_options: dict[str, Any] | None = None,
) -> Callable[[Params, State, Any, Any, Any], Metrics]:
    """Makes the compiled evaluation step.

    Args:
      model: a layer that gives logits.
      loss: losses of a batch from logits (float32, or float64 if `dtype` is) and labels.
      dtype: dtype of the computation.
      compiler_options: XLA's options, as for `jax.jit`, which refuses them within another transformed function.

    Returns:
      A function of params, state, images (batch, height, width, channels) of floating point, labels (batch,) and mask
      (batch,) that returns the metrics of the examples whose mask is true. It raises a TypeError for images that are
      not floating point, such as uint8.
    """
    forward = batched(model)

    def compute(params: Params, state: State, images: jax.Array, labels: jax.Array, mask: jax.Array) -> Metrics:
        logits, _ = forward(params, state, images.astype(dtype), train=False)
        logits = logits.astype(at_least_float32(logits.dtype))
        return batch_metrics(loss(logits, labels), logits, labels, mask)

    def eval_step(params: Params, state: State, images: jax.Array, labels: jax.Array, mask: jax.Array) -> Metrics:
        check_floating("eval_step", images)
        return with_automatic_axes(compute, params, state, images, labels, mask, out_specs=PartitionSpec)

    return jax.jit(eval_step, compiler_options=compiler_options)


def make_predict_step(
    model: Layer, *, dtype: Any = jnp.float32, compiler_options: dict[str, Any] | None = None
) -> Callable[[Params, State, Any], jax.Array]:
    """Makes the compiled forward pass.

    Args:
      model: any layer.
      dtype: dtype of the computation.
      compiler_options: XLA's options, as for `jax.jit`, which refuses them within another transformed function.

    Returns:
      A function of params, state and images (batch, height, width, channels) of floating point that returns the results
      in float32, or in float64 if `dtype` is. It raises a TypeError for images that are not floating point, such as
      uint8.
    """
    forward = batched(model)

    def predict_step(params: Params, state: State, images: jax.Array) -> jax.Array:
        check_floating("predict_step", images)
        results, _ = forward(params, state, images.astype(dtype), train=False)
        return results.astype(at_least_float32(results.dtype))

    return jax.jit(predict_step, compiler_options=compiler_options)
