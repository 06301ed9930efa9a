"""The loops around the compiled steps: no files, no printing."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from jaxcnn.training.metrics import Metrics
from jaxcnn.training.step import TrainState, TrainStep
from jaxcnn.types import Params, State


class TrainingBatches(Protocol):
    """Endless training data by step, such as `jaxcnn.data.Batches`."""

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in an epoch."""
        ...

    def __getitem__(self, step: int) -> tuple[Any, Any]:
        """Images and labels of a step, a pure function of the step."""
        ...


class Progress(NamedTuple):
    """The progress of training, as callbacks get it.

    Attributes:
      step: number of steps done.
      epoch: the epoch of the last step, from 1.
      train_state: the train state after the last step. The next step donates its buffers: copy what you keep.
      metrics: sums over the epoch so far. After a step they exclude that step, which the device may still be computing;
        after an epoch they are complete.
    """

    step: int
    epoch: int
    train_state: TrainState
    metrics: Metrics


class Fitted(NamedTuple):
    """The result of `fit`.

    Attributes:
      train_state: the train state after the last step.
      metrics: sums over the unfinished epoch; zeros after a whole epoch.
      stopped: whether a callback stopped training before the last epoch was done.
    """

    train_state: TrainState
    metrics: Metrics
    stopped: bool


Callback = Callable[[Progress], bool | None]
"""Called with the progress; returns True to stop training."""


class NonFiniteLossError(ArithmeticError):
    """A loss, parameter or running moment became NaN or infinite.

    Attributes:
      step: the step whose loss or update is non-finite, from 1.
    """

    def __init__(self, step: int, loss: float, non_finite: int = 0) -> None:
        got = (
            f"a finite loss, got {loss} at step {step}"
            if not math.isfinite(loss)
            else f"finite parameters and running moments, got NaN or infinity in {non_finite} arrays after step {step}"
        )
        super().__init__(
            f"expected {got}; lower the learning rate, warm it up or clip the gradients, and make sure that the images "
            "are finite and the labels in [0, num_classes)"
        )
        self.step = step


def fit(
    train_state: TrainState,
    train_step: TrainStep,
    batches: TrainingBatches,
    key: jax.Array,
    *,
    epochs: int,
    on_step: Sequence[Callback] = (),
    on_epoch: Sequence[Callback] = (),
    metrics: Metrics | None = None,
) -> Fitted:
    """Trains from the step of the train state until a number of epochs is done.

    The metrics of each step are checked while the device computes the next step, so that the device does not wait. A
    non-finite gradient stops training only if it makes a parameter non-finite: `optax.zero_nans` or `apply_if_finite`
    can skip it. `Metrics.gradient_norm` shows it in both cases.

    Args:
      train_state: the train state to start from; its step selects the next batch. It is donated.
      train_step: as `make_train_step` returns it.
      batches: training data by step.
      key: typed random key of the whole run; the step is folded into it.
      epochs: total number of epochs, counted from step 0.
      on_step: called after each step.
      on_epoch: called after each epoch, after the check that its last loss and train state are finite.
      metrics: sums of the unfinished epoch, if training was stopped within one.

    Returns:
      The train state, and the metrics to continue with.

    Raises:
      NonFiniteLossError: a loss, parameter or running moment became NaN or infinite.
    """
    metrics = metrics or Metrics()
    pending: tuple[int, Metrics] | None = None
    step, stopped = int(train_state.step), False
    while step < epochs * batches.steps_per_epoch and not stopped:
        images, labels = batches[step]
        train_state, step_metrics = train_step(train_state, images, labels, key)
        metrics = _counted(metrics, pending)
        step, pending = step + 1, (step + 1, step_metrics)
        epoch = (step - 1) // batches.steps_per_epoch + 1
        stopped = _any(on_step, Progress(step, epoch, train_state, metrics))
        if step % batches.steps_per_epoch == 0:
            metrics, pending = _counted(metrics, pending), None
            stopped = _any(on_epoch, Progress(step, epoch, train_state, metrics)) or stopped
            metrics = Metrics()
    return Fitted(train_state, _counted(metrics, pending), stopped and step < epochs * batches.steps_per_epoch)


def evaluate(
    eval_step: Callable[[Params, State, Any, Any, Any], Metrics],
    params: Params,
    state: State,
    batches: Iterable[tuple[Any, Any, Any]],
    *,
    count: int,
) -> Metrics:
    """Evaluates a model on every example exactly once.

    Args:
      eval_step: as `make_eval_step` returns it.
      params: the model's parameters.
      state: the model's state.
      batches: images, labels and mask, such as `jaxcnn.data.eval_batches` yields.
      count: total number of examples.

    Returns:
      The sums over all examples, as Python numbers.

    Raises:
      ValueError: the batches do not hold `count` examples.
    """
    total = Metrics()
    for images, labels, mask in batches:
        total = total.plus(eval_step(params, state, images, labels, mask))
    if total.examples != count:
        raise ValueError(f"evaluate expected batches of {count} examples in all, got {total.examples}")
    return total


def predict(
    predict_step: Callable[[Params, State, Any], jax.Array],
    params: Params,
    state: State,
    images: np.ndarray,
    *,
    batch_size: int,
) -> np.ndarray:
    """Computes the logits of many images, batch by batch, with one compiled program.

    Args:
      predict_step: as `make_predict_step` returns it.
      params: the model's parameters.
      state: the model's state.
      images: shape (n, height, width, channels).
      batch_size: number of images in a batch; the last one is padded with zeros.

    Returns:
      Shape (n, num_classes), in the dtype of the step's outputs.

    Raises:
      ValueError: there are no images, or the batch size is not positive.
    """
    if len(images) == 0 or batch_size < 1:
        raise ValueError(f"predict expects images and a positive batch_size, got {images.shape} and {batch_size}")
    results = []
    for first in range(0, len(images), batch_size):
        batch = images[first : first + batch_size]
        padding = ((0, batch_size - len(batch)), *[(0, 0)] * (images.ndim - 1))
        results.append(np.asarray(predict_step(params, state, np.pad(batch, padding)))[: len(batch)])
    return np.concatenate(results)


def _counted(metrics: Metrics, pending: tuple[int, Metrics] | None) -> Metrics:
    """Waits for the metrics of a step and adds them; refuses a non-finite loss or train state."""
    if pending is None:
        return metrics
    step, step_metrics = pending
    mean, non_finite = step_metrics.mean_loss(), int(step_metrics.non_finite)
    if non_finite or not math.isfinite(mean):
        raise NonFiniteLossError(step, mean, non_finite)
    return metrics.plus(step_metrics)


def _any(callbacks: Sequence[Callback], progress: Progress) -> bool:
    """Calls all callbacks, and returns whether any of them stops training."""
    return any([bool(callback(progress)) for callback in callbacks])
