"""Gradients of single examples: their norms, the training on clipped ones, and scores of how hard examples are."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcnn import trees
from jaxcnn.data import unit_pixels
from jaxcnn.tasks import Classification
from jaxcnn.training.metrics import Metrics
from jaxcnn.training.step import TrainStep, check_batch
from jaxcnn.training.train_state import TrainState, check_optimizer, trainable_mask, with_fixed_types
from jaxcnn.types import Augment, Example, Layer, Mean, Params, State, Task

_CLASSIFICATION = Classification()


def per_example_gradients(
    layer: Layer,
    params: Params,
    state: State,
    batch: Example,
    task: Task = _CLASSIFICATION,
    *,
    train: bool = False,
    key: jax.Array | None = None,
) -> tuple[Params, dict[str, Mean]]:
    """Computes the gradient of the loss of each example of a batch: `jax.vmap` of `jax.grad`.

        gradients, sums = per_example_gradients(layer, params, state, {"image": images, "label": labels})

    Args:
      layer: the model.
      params: its parameters.
      state: its state.
      batch: examples, with images of floating point or uint8, which become float32 in [0, 1].
      task: the loss.
      train: whether the layers compute as in training. Then no layer may update its state, as batch norm does: it mixes
        the examples of a batch, so that none has a gradient of its own.
      key: typed random key for layers that draw random numbers; consumed.

    Returns:
      A tree like `params`, of arrays with the batch as their first axis. And the loss under "loss" and the metrics of
      the task: means with one total and one weight for each example, shape (batch,).

    Raises:
      TypeError: the batch is not a mapping, or the images are of another dtype.
      ValueError: there is no image, or a layer updates its state.
    """
    check_batch("per_example_gradients", batch)
    batch = {**batch, "image": unit_pixels(batch["image"])}
    count = batch["image"].shape[0]
    keys = None if key is None else jax.random.split(key, count)

    def loss(params: Params, example: Example, key: jax.Array | None) -> tuple[jax.Array, dict[str, Mean]]:
        outputs, after = layer.apply(params, state, example["image"], train=train, key=key)
        _check_state(state, after)
        alone: Any = jax.tree.map(lambda leaf: leaf[None], dict(example))
        outputs = jax.tree.map(lambda leaf: leaf[None], outputs)
        mean = task.loss(outputs, alone)
        value = mean.total / jnp.where(mean.weight == 0, jnp.ones_like(mean.weight), mean.weight)
        return value, {"loss": mean, **task.metrics(outputs, alone)}

    in_axes = (None, 0, None if keys is None else 0)
    # With the name of the axis, batch norm gets as far as the check of its state.
    return jax.vmap(jax.grad(loss, has_aux=True), in_axes=in_axes, axis_name="batch")(params, batch, keys)


def gradient_norms(gradients: Any) -> jax.Array:
    """Computes the Euclidean norm of the gradient of each example, over all parameters.

    Args:
      gradients: as `per_example_gradients` returns them.

    Returns:
      Shape (batch,).
    """
    return jax.vmap(optax.tree.norm)(gradients)


def make_per_example_step(
    model: Layer,
    optimizer: optax.GradientTransformation,
    task: Task = _CLASSIFICATION,
    *,
    augment: Augment | None = None,
) -> TrainStep:
    """Makes a compiled training step whose optimizer gets the gradient of each example, to clip them one by one.

        private = optax.contrib.differentially_private_aggregate(1.0, noise_multiplier=1.1, key=noise_key)
        optimizer = optax.chain(private, optax.sgd(0.5))
        train_step = make_per_example_step(model, optimizer)
        fit(init_train_state(model, optimizer, key), train_step, batches, key, epochs=10)

    This is differentially private SGD (Abadi et al. 2016); `privacy_spent` computes the epsilon that it spends.

    Args:
      model: a layer whose state training does not change: with `GroupNorm`, or frozen batch norms.
      optimizer: an Optax optimizer whose updates have the batch as their first axis in, and the shapes of the
        parameters out.
      task: the loss.
      augment: changes one example at random, or None.

    Returns:
      A train step as `make_train_step` returns it; its gradient norm is the largest one of an example.

    Raises:
      TypeError: `optimizer` is not an optimizer.
    """
    check_optimizer(optimizer)

    def train_step(train_state: TrainState, batch: Example, key: jax.Array) -> tuple[TrainState, Metrics]:
        check_batch("train_step", batch)
        augment_key, model_key = jax.random.split(jax.random.fold_in(key, train_state.step))
        batch = {**batch, "image": unit_pixels(batch["image"])}
        if augment is not None:
            batch = jax.vmap(augment)(jax.random.split(augment_key, batch["image"].shape[0]), batch)
        params, state = train_state.params, train_state.state
        mask = trainable_mask(model, params, None)
        trained, frozen = trees.partition(params, mask)
        gradients, each = per_example_gradients(model, params, state, batch, task, train=True, key=model_key)
        updates, opt_state = optimizer.update(trees.partition(gradients, mask)[0], train_state.opt_state, trained)
        _check_updates(trained, updates)
        params = trees.merge(optax.apply_updates(trained, updates), frozen)
        sums = {name: Mean(*(jnp.sum(part, axis=0) for part in mean)) for name, mean in each.items()}
        bad = sum(jnp.any(~jnp.isfinite(leaf)).astype(jnp.int32) for leaf in jax.tree.leaves(params))
        metrics = Metrics(sums, jnp.max(gradient_norms(gradients)), bad)
        return TrainState(train_state.step + 1, params, state, with_fixed_types(opt_state)), metrics

    return jax.jit(train_step, donate_argnums=0)


def _check_state(before: State, after: State) -> None:
    """Refuses a model of which training changes the state."""
    leaves = zip(trees.named_leaves(before).items(), jax.tree.leaves(after), strict=True)
    changed = [name for (name, leaf), new in leaves if leaf is not new]
    if changed:
        raise ValueError(
            "per_example_gradients expects a model whose state training does not change, got one that changes "
            f"{', '.join(changed):.200}: batch norm mixes the examples of a batch; use GroupNorm, or freeze the "
            "batch norms"
        )


def _check_updates(params: Params, updates: Any) -> None:
    if jax.tree.map(jnp.shape, updates) != jax.tree.map(jnp.shape, params):
        raise ValueError(
            "make_per_example_step expects an optimizer that combines the gradients of the examples, got one "
            "that keeps them apart; chain optax.contrib.differentially_private_aggregate before it"
        )


def el2n_scores(probabilities: Any, labels: Any) -> np.ndarray:
    """Computes EL2N: the Euclidean norm of the error of the probabilities of each example.

    Examples that the model gets wrong, or whose label is wrong, have a large score. Average it over several models
    early in training (Paul et al. 2021, definition 2.2).

    Args:
      probabilities: of the classes, shape (..., examples, classes); further axes in front are averaged over, such as
        that of several models.
      labels: the true classes, integers, shape (examples,).

    Returns:
      Shape (examples,), in [0, sqrt(2)].

    Raises:
      TypeError: labels are not integers.
      ValueError: the shapes do not fit, or a probability or a label is out of range.
    """
    chances, classes = np.asarray(probabilities, np.float64), np.asarray(labels)
    if chances.ndim < 2 or classes.shape != chances.shape[-2:-1]:
        raise ValueError(
            "el2n_scores expects probabilities (..., examples, classes) and labels (examples,), got "
            f"{chances.shape} and {classes.shape}"
        )
    if not np.issubdtype(classes.dtype, np.integer):
        raise TypeError(f"el2n_scores expects labels that are integers, got {classes.dtype}")
    if chances.size and not (chances.min() >= 0 and chances.max() <= 1 + 1e-6):
        raise ValueError(
            f"el2n_scores expects probabilities in [0, 1], got {chances.min():g} to {chances.max():g}; of logits, take "
            "the softmax"
        )
    if classes.size and not 0 <= classes.min() <= classes.max() < chances.shape[-1]:
        raise ValueError(
            f"el2n_scores expects labels in [0, {chances.shape[-1]}), got {classes.min()} to {classes.max()}"
        )
    error = chances - np.eye(chances.shape[-1])[classes]
    return np.linalg.norm(error, axis=-1).reshape(-1, len(classes)).mean(axis=0)


def grand_scores(
    layer: Layer,
    members: Iterable[tuple[Params, State]],
    batches: Callable[[], Iterable[Example]],
    task: Task = _CLASSIFICATION,
) -> np.ndarray:
    """Computes GraNd: the norm of the gradient of each example, averaged over several models.

    Paul et al. 2021, definition 2.1. The model computes as in evaluation.

    Args:
      layer: the model.
      members: parameters and state of each model, at least one, early in training.
      batches: a function that returns an iterator of all examples in their order, such as
        `lambda: jaxcnn.data.eval_batches(source, 256)`; those of weight 0 are left out.
      task: the loss.

    Returns:
      Shape (examples,).

    Raises:
      ValueError: there are no members or no examples.
    """

    @jax.jit
    def norms(params: Params, state: State, batch: Example) -> jax.Array:
        return gradient_norms(per_example_gradients(layer, params, state, batch, task)[0])

    scores = []
    for params, state in members:
        parts = []
        for batch in batches():
            weight = np.asarray(batch.get("weight", np.ones(len(batch["image"]))))
            parts.append(np.asarray(norms(params, state, batch))[weight != 0])
        scores.append(np.concatenate(parts) if parts else np.zeros(0))
    if not scores or not len(scores[0]):
        raise ValueError("grand_scores expects at least one model and one example, got none")
    return np.mean(scores, axis=0)
