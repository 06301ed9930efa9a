"""The contracts of the library: layers, examples, tasks."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import numpy as np

Params: TypeAlias = dict[str, Any]
"""Trainable arrays: a nested dict with the names of the layers, `{}` under a layer without parameters."""

State: TypeAlias = dict[str, Any]
"""Arrays that training updates without a gradient (running moments): nested as `Params`."""

Shape: TypeAlias = tuple[int, ...]

Example: TypeAlias = Mapping[str, Any]
"""One example as arrays by name, such as {"image", "label"} or {"image", "mask"}; a batch has one more axis in front.

A batch may have "weight", shape (batch,): the weight of each example, 0 for padding. Without it every weight is 1.
"""

Augment: TypeAlias = Callable[[jax.Array, Example], dict[str, Any]]
"""From a typed random key and one example to an example of the same names and dtypes; labels move with the image.

The shapes stay too, unless the augmentation has a size of its own."""


@runtime_checkable
class Layer(Protocol):
    """A pair of pure functions, written for one image, held by a hashable value.

    A layer or a whole model is a frozen dataclass: comparable, hashable, printable as its constructor and
    therefore usable as a static argument of `jax.jit`. It holds sizes and options, never arrays.
    """

    def init(self, key: jax.Array) -> tuple[Params, State]:
        """Draws fresh parameters and state.

        Args:
          key: typed random key (`jax.random.key`); it is consumed.

        Returns:
          The parameters and the state: nested dicts of the same names. No two leaves share an array.
        """
        ...

    def apply(
        self, params: Params, state: State, x: Any, *, train: bool, key: jax.Array | None = None
    ) -> tuple[Any, State]:
        """Computes the layer on one image.

        Args:
          params: as `init` returned them, or trained since.
          state: as `init` returned it, or updated since.
          x: one image, shape (height, width, channels), or the result of the previous layer: an array or a tree of
            arrays.
          train: a Python bool. True: normalise by the moments of the batch, drop units, update the state.
            False: use the state, return it unchanged.
          key: typed random key, consumed; needed only when `train` and a layer draws random numbers.

        Returns:
          The result in the dtype of `x`, and the state in the structure of `state`.
        """
        ...


class Mean(NamedTuple):
    """A mean as a sum and its weight, which add up exactly over batches, micro-batches and hosts.

    `jax.tree.map(operator.add, one, other)` adds two. Both parts are scalars, or arrays of one shape for several means
    at once, such as one for each class.

    Attributes:
      total: weighted sum.
      weight: sum of the weights, such as a number of examples, pixels or objects.
    """

    total: Any
    weight: Any

    @property
    def value(self) -> Any:
        """The mean, total / weight, in NumPy: a float or an array; NaN where the weight is zero."""
        total, weight = np.asarray(self.total, float), np.asarray(self.weight, float)
        return np.divide(total, weight, out=np.full(total.shape, np.nan), where=weight != 0)[()]


class Objective(NamedTuple):
    """The figure of a task that chooses the best of several epochs.

    Attributes:
      figure: its name among those of `Task.report`.
      larger_is_better: whether the largest value is the best, rather than the smallest.
    """

    figure: str
    larger_is_better: bool


@runtime_checkable
class Task(Protocol):
    """What a model is trained for: a loss, metrics and the meaning of its outputs. A hashable value."""

    @property
    def objective(self) -> Objective:
        """The figure that chooses the best epoch."""
        ...

    def loss(self, outputs: Any, batch: Example) -> Mean:
        """Computes the loss of a batch.

        Args:
          outputs: of the model, with the batch as their first axis, float32.
          batch: the examples.

        Returns:
          The weighted sum of the losses and the sum of the weights; their quotient over the whole global batch is
          minimised.
        """
        ...

    def metrics(self, outputs: Any, batch: Example) -> dict[str, Mean]:
        """Computes the metrics of a batch, by name; arguments as in `loss`."""
        ...

    def decode(self, outputs: Any) -> Any:
        """Turns the outputs for a batch into predictions, such as probabilities of classes or a mask of classes."""
        ...

    def report(self, sums: dict[str, Mean]) -> dict[str, float]:
        """Turns metrics that are summed over any number of batches into figures by name, one number each."""
        ...


def check_task(caller: str, task: Any) -> None:
    """Refuses what is not a task.

    Args:
      caller: name of the caller, for the message.
      task: anything.

    Raises:
      TypeError: it lacks an attribute of `Task`, or is a class.
    """
    if isinstance(task, type) or not isinstance(task, Task):
        raise TypeError(f"{caller} expects a task, such as jaxcnn.tasks.Classification(), got {task!r:.200}")
