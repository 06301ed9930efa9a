"""The loops around the compiled steps: no files, no printing."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import jax
import numpy as np

from jaxcnn.data import Batches
from jaxcnn.data.prefetch import ahead
from jaxcnn.training.metrics import Metrics, add_sums
from jaxcnn.training.step import TrainStep
from jaxcnn.training.train_state import TrainState
from jaxcnn.types import Example, Mean, Params, State

# The host reads the metrics of as many steps together as take this long, in seconds, so that a training stops soon
# after a NaN; of this many at most, since the batch of each is in memory until the device has computed it.
_READ_SECONDS, _MOST_UNREAD = 0.02, 16


@runtime_checkable
class TrainingBatches(Protocol):
    """Endless training data by step, such as `jaxcnn.data.Batches`."""

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in an epoch."""
        ...

    def __getitem__(self, step: int) -> Example:
        """The batch of a step, a pure function of the step."""
        ...


class Progress(NamedTuple):
    """The progress of training, as callbacks get it.

    Attributes:
      step: number of steps done.
      epoch: the epoch of the last step, from 1.
      train_state: the train state after the last step. The next step donates its buffers: copy what you keep.
      metrics: sums over the epoch so far. After a step they exclude that step, which the device may still be computing,
        and the steps of the last 0.02 seconds; after an epoch they are complete.
      waiting: share of the time of the epoch so far in which the device had nothing to do but to wait for the next
        batch, without the first step of the epoch; 0 without a thread that prepares batches.
    """

    step: int
    epoch: int
    train_state: TrainState
    metrics: Metrics
    waiting: float = 0.0


class Fitted(NamedTuple):
    """The result of `fit`.

    Attributes:
      train_state: the train state after the last step.
      metrics: sums over the unfinished epoch; zeros after a whole epoch.
      stopped: whether a callback stopped training before the last epoch was done.
      history: a dict for each finished epoch: "epoch", "step" and the figures of its metrics, such as "loss".
    """

    train_state: TrainState
    metrics: Metrics
    stopped: bool
    history: list[dict[str, float]]


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
    batches: TrainingBatches | Iterable[Example],
    key: jax.Array,
    *,
    epochs: int,
    on_step: Sequence[Callback] = (),
    on_epoch: Sequence[Callback] = (),
    metrics: Metrics | None = None,
    prefetch: int = 2,
) -> Fitted:
    """Trains for a number of epochs.

    A thread prepares the next batches. The metrics of a step are copied to the host while the device computes the next
    step, those of several quick steps at once, so that the device does not wait. A non-finite gradient stops training
    only if it makes a parameter non-finite: `optax.zero_nans` or `apply_if_finite` can skip it. `Metrics.gradient_norm`
    shows it in both cases.

    Args:
      train_state: the train state to start from. It is donated.
      train_step: as `make_train_step` returns it.
      batches: training data by step (`TrainingBatches`), where the step of the train state selects the next batch, so
        that a resumed training continues within an epoch; or any iterable of batches, of which one pass is an epoch.
      key: typed random key of the whole run; the step is folded into it.
      epochs: total number of epochs: of data by step counted from step 0, of an iterable those of this call.
      on_step: called after each step.
      on_epoch: called after each epoch, after the check that its last loss and train state are finite.
      metrics: sums of the unfinished epoch, if training was stopped within one.
      prefetch: greatest number of batches that wait; 0 for no thread. See `jaxcnn.data.prefetch.ahead`.

    Returns:
      The train state, the metrics to continue with, and the history.

    Raises:
      NonFiniteLossError: a loss, parameter or running moment became NaN or infinite.
      ValueError: an iterable yields no batch in an epoch.
    """
    metrics, history = metrics or Metrics(), []
    step, stopped = int(train_state.step), False
    unread, clock = _Unread(), WaitClock()

    def on_wait() -> None:
        # Only what comes after the step before is lost.
        unread.wait()
        clock.wait()

    with closing(ahead(_batches_of_epochs(batches, step, epochs), prefetch, on_wait)) as items:
        for epoch, is_last, batch in items:
            clock.go_on()
            train_state, step_metrics = train_step(train_state, batch, key)
            if unread.is_full:
                metrics = unread.read(metrics)
            step += 1
            unread.add(step, step_metrics)
            clock.begin(epoch)
            stopped = _any(on_step, Progress(step, epoch, train_state, metrics, clock.share))
            if is_last:
                metrics = unread.read(metrics)
                history.append({"epoch": epoch, "step": step, **metrics.figures()})
                stopped = _any(on_epoch, Progress(step, epoch, train_state, metrics, clock.share)) or stopped
                metrics = Metrics()
            if stopped:
                stopped = not (is_last and epoch == epochs)
                break
    return Fitted(train_state, unread.read(metrics), stopped, history)


def evaluate(
    eval_step: Callable[[Params, State, Any], dict[str, Mean]],
    params: Params,
    state: State,
    batches: Iterable[Example],
    *,
    count: int | None = None,
    prefetch: int = 2,
) -> dict[str, Mean]:
    """Evaluates a model on every example exactly once.

    Args:
      eval_step: as `make_eval_step` returns it.
      params: the model's parameters.
      state: the model's state.
      batches: the examples, such as `jaxcnn.data.eval_batches` yields; those of weight 0 do not count.
      count: total number of examples, which is checked; None for no check.
      prefetch: greatest number of batches that wait; 0 for no thread.

    Returns:
      The loss under "loss" and the metrics, summed over all examples, in NumPy; `Task.report` turns them into figures.

    Raises:
      ValueError: the batches do not hold `count` examples, or none.
    """
    total: dict[str, Mean] = {}
    pending, seen = None, 0
    with closing(ahead(batches, prefetch)) as items:
        for batch in items:
            sums = eval_step(params, state, batch)
            # Fetch the sums of the previous batch while the device computes this one.
            total, pending = total if pending is None else add_sums(total, jax.device_get(pending)), sums
            seen += _count(batch)
    if pending is None or count not in (None, seen):
        raise ValueError(f"evaluate expected batches of {count or 'some'} examples in all, got {seen}")
    return add_sums(total, jax.device_get(pending))


def predict(
    predict_step: Callable[[Params, State, Any], Any],
    params: Params,
    state: State,
    batches: Iterable[Example],
    *,
    prefetch: int = 2,
) -> Any:
    """Computes the outputs for many images.

    Args:
      predict_step: as `make_predict_step` returns it.
      params: the model's parameters.
      state: the model's state.
      batches: examples with "image", such as `image_batches` yields; those of weight 0 are left out.
      prefetch: greatest number of batches that wait; 0 for no thread.

    Returns:
      What the step returns, for all examples in order, as NumPy arrays.

    Raises:
      ValueError: there is no batch.
    """
    results = []
    with closing(ahead(batches, prefetch)) as items:
        for batch in items:
            outputs = jax.device_get(predict_step(params, state, batch["image"]))
            weight = batch.get("weight")
            results.append(outputs if weight is None else _rows(outputs, np.asarray(weight) != 0))
    if not results:
        raise ValueError("predict expects batches of images, got none")
    return jax.tree.map(lambda *parts: np.concatenate(parts), *results)


def image_batches(images: np.ndarray, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields images in batches of equal size, so that one compiled program handles all of them.

    Args:
      images: shape (n, height, width, channels), at least one.
      batch_size: number of images in a batch, at least 1; the last one is padded with zeros of weight 0.

    Returns:
      An iterator over batches with "image" and "weight".

    Raises:
      ValueError: there are no images, or the batch size is not positive.
    """
    if len(images) == 0 or batch_size < 1:
        raise ValueError(f"image_batches expects images and a positive batch_size, got {images.shape} and {batch_size}")
    return (_padded(images[first : first + batch_size], batch_size) for first in range(0, len(images), batch_size))


def _padded(images: np.ndarray, size: int) -> dict[str, np.ndarray]:
    padding = ((0, size - len(images)), *[(0, 0)] * (images.ndim - 1))
    return {"image": np.pad(images, padding), "weight": (np.arange(size) < len(images)).astype(np.float32)}


class _Item(NamedTuple):
    """A batch, with its epoch, from 1, and whether it is the last one of the epoch."""

    epoch: int
    is_last: bool
    batch: Example


def _batches_of_epochs(batches: TrainingBatches | Iterable[Example], first_step: int, epochs: int) -> Iterator[_Item]:
    if isinstance(batches, TrainingBatches):
        length = batches.steps_per_epoch
        steps = range(first_step, epochs * length)
        # These read the next batch meanwhile.
        in_order = batches.at(steps) if isinstance(batches, Batches) else map(batches.__getitem__, steps)
        for step, batch in zip(steps, in_order, strict=True):
            yield _Item(step // length + 1, (step + 1) % length == 0, batch)
        return
    for epoch in range(1, epochs + 1):
        iterator = iter(cast(Iterable[Example], batches))
        current = next(iterator, None)
        if current is None:
            raise ValueError(
                f"fit expects batches in every epoch, got none in epoch {epoch}; give a list, or an object whose "
                "iteration begins anew, instead of a generator"
            )
        for following in iterator:
            yield _Item(epoch, False, current)
            current = following
        yield _Item(epoch, True, current)


class _Unread:
    """The metrics of the last steps, which the host has not read yet.

    Reading takes the host some 0.1 ms, and waits for the device. So those of quick steps are read together: of as many
    steps as take `_READ_SECONDS`. They are added one by one, so that the sums do not depend on it.
    """

    def __init__(self) -> None:
        self._steps: list[tuple[int, Metrics]] = []
        self._together, self._read_at = 1, time.perf_counter()

    @property
    def is_full(self) -> bool:
        """Whether it is time to read."""
        return len(self._steps) >= self._together

    def add(self, step: int, metrics: Metrics) -> None:
        """Adds the metrics of a step, which the device may still compute."""
        self._steps.append((step, metrics))

    def wait(self) -> None:
        """Waits until the device has computed all steps."""
        if self._steps:
            jax.block_until_ready(self._steps[-1][1])

    def read(self, metrics: Metrics) -> Metrics:
        """Waits for all steps and adds their metrics; refuses a non-finite loss or train state."""
        if not self._steps:
            return metrics
        on_host = _on_host(self._steps)
        for step, step_metrics in on_host:
            # Check the sum, not the mean: that of a batch of weight 0 is NaN, which is no fault of the model.
            finite = math.isfinite(step_metrics.sums["loss"].total)
            if step_metrics.non_finite or not finite:
                raise NonFiniteLossError(step, step_metrics.mean_loss, int(step_metrics.non_finite))
        metrics = metrics.plus(*(step_metrics for _, step_metrics in on_host))
        now = time.perf_counter()
        seconds = (now - self._read_at) / len(self._steps)
        self._together = min(max(int(_READ_SECONDS / max(seconds, 1e-9)), 1), _MOST_UNREAD)
        self._steps, self._read_at = [], now
        return metrics


def _on_host(tree: Any) -> Any:
    """Waits for arrays and returns them in NumPy."""
    if jax.default_backend() == "cpu":
        # A sixth of the time of `jax.device_get`, which starts a copy of each array before it waits for the first.
        return jax.tree.map(np.asarray, tree)
    return jax.device_get(tree)


class WaitClock:
    """Measures the share of an epoch that passes in waiting."""

    def __init__(self) -> None:
        self._epoch, self._began, self._waited, self._since = 0, 0.0, 0.0, math.inf

    def begin(self, epoch: int) -> None:
        """Starts anew if this is another epoch than before."""
        if epoch != self._epoch:
            self._epoch, self._began, self._waited = epoch, time.perf_counter(), 0.0

    def wait(self) -> None:
        """Begins to wait."""
        self._since = time.perf_counter()

    def go_on(self) -> None:
        """Ends the waiting, if there was any."""
        self._waited, self._since = self._waited + max(time.perf_counter() - self._since, 0.0), math.inf

    @property
    def share(self) -> float:
        """The share so far, in [0, 1]."""
        elapsed = time.perf_counter() - self._began
        return self._waited / elapsed if elapsed > 0 else 0.0


def _any(callbacks: Sequence[Callback], progress: Progress) -> bool:
    """Calls all callbacks, and returns whether any of them stops training."""
    return any([bool(callback(progress)) for callback in callbacks])


def _count(batch: Example) -> int:
    """Counts the examples of a batch whose weight is not 0."""
    weight = batch.get("weight")
    return len(batch["image"]) if weight is None else int(np.count_nonzero(np.asarray(weight)))


def _rows(outputs: Any, which: np.ndarray) -> Any:
    return jax.tree.map(lambda array: array[which], outputs)
