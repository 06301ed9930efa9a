"""The compiled steps of training, evaluation and prediction."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from jaxcnn.compiler import TopLevelJit
from jaxcnn.layers import batched
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
    """All that training changes.

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
    """
    params, state = model.init(key)
    return TrainState(jnp.zeros((), jnp.int32), params, state, optimizer.init(params))


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
    """
    if step < 0:
        raise ValueError(f"make_train_state expects a step of at least 0, got {step}")
    # jnp.array copies, arrays of NumPy too.
    params, state = jax.tree.map(jnp.array, (params, state))
    return TrainState(jnp.asarray(step, jnp.int32), params, state, optimizer.init(params))


def make_train_step(
    model: Layer,
    optimizer: optax.GradientTransformation,
    *,
    loss: Loss = cross_entropy,
    augment: Augment | None = None,
    dtype: Any = jnp.float32,
    compiler_options: Mapping[str, Any] | None = None,
) -> TrainStep:
    """Makes the compiled training step: augment, forward, backward, update.

    `train_state, metrics = train_step(train_state, images, labels, key)`. The old train state is donated: its buffers
    are used again, so it must not be read afterwards. Randomness is drawn from the key folded with the step, so that
    the same key serves the whole run and a resumed run draws the same numbers.

    Args:
      model: a layer that gives logits.
      optimizer: any Optax optimizer.
      loss: losses of a batch from logits (float32) and labels; their mean is minimised.
      augment: changes one image at random, or None.
      dtype: dtype of the computation, such as `jnp.bfloat16`; parameters, moments and the loss stay float32.
      compiler_options: XLA's options for this program; None for those of `jaxcnn.compiler_options()`.

    Returns:
      A function of train state, images (batch, height, width, channels), labels (batch,) and a typed key, that gives
      the new train state and the metrics of the batch: summed losses, correct and examples, before the update and on
      the augmented images.
    """
    forward = batched(model)

    def mean_loss(params: Params, state: State, images: jax.Array, labels: jax.Array, key: jax.Array):
        logits, state = forward(params, state, images, train=True, key=key)
        logits = logits.astype(jnp.float32)
        losses = loss(logits, labels)
        return jnp.mean(losses), (state, batch_metrics(losses, logits, labels))

    def train_step(
        train_state: TrainState, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        augment_key, model_key = jax.random.split(jax.random.fold_in(key, train_state.step))
        if augment is not None:
            images = jax.vmap(augment)(jax.random.split(augment_key, images.shape[0]), images)
        gradients, (state, metrics) = jax.grad(mean_loss, has_aux=True)(
            train_state.params, train_state.state, images.astype(dtype), labels, model_key
        )
        updates, opt_state = optimizer.update(gradients, train_state.opt_state, train_state.params)
        params: Any = optax.apply_updates(train_state.params, updates)
        return TrainState(train_state.step + 1, params, state, opt_state), metrics

    return TopLevelJit(train_step, compiler_options=compiler_options, donate_argnums=0)


def make_eval_step(
    model: Layer,
    *,
    loss: Loss = cross_entropy,
    dtype: Any = jnp.float32,
    compiler_options: Mapping[str, Any] | None = None,
) -> Callable[[Params, State, Any, Any, Any], Metrics]:
    """Makes the compiled evaluation step.

    Args:
      model: a layer that gives logits.
      loss: losses of a batch from logits (float32) and labels.
      dtype: dtype of the computation.
      compiler_options: XLA's options for this program; None for those of `jaxcnn.compiler_options()`.

    Returns:
      A function of params, state, images (batch, height, width, channels), labels (batch,) and mask (batch,) that
      returns the metrics of the examples whose mask is true.
    """
    forward = batched(model)

    def eval_step(params: Params, state: State, images: jax.Array, labels: jax.Array, mask: jax.Array) -> Metrics:
        logits, _ = forward(params, state, images.astype(dtype), train=False)
        logits = logits.astype(jnp.float32)
        return batch_metrics(loss(logits, labels), logits, labels, mask)

    return TopLevelJit(eval_step, compiler_options=compiler_options)


def make_predict_step(
    model: Layer, *, dtype: Any = jnp.float32, compiler_options: Mapping[str, Any] | None = None
) -> Callable[[Params, State, Any], jax.Array]:
    """Makes the compiled forward pass.

    Args:
      model: any layer.
      dtype: dtype of the computation.
      compiler_options: XLA's options for this program; None for those of `jaxcnn.compiler_options()`.

    Returns:
      A function of params, state and images (batch, height, width, channels) that returns the results in float32.
    """
    forward = batched(model)

    def predict_step(params: Params, state: State, images: jax.Array) -> jax.Array:
        return forward(params, state, images.astype(dtype), train=False)[0].astype(jnp.float32)

    return TopLevelJit(predict_step, compiler_options=compiler_options)
