"""The metrics of a training step: sums that add up exactly, and checks that do not."""

import functools
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from jaxcnn.tasks import figures
from jaxcnn.types import Mean


class Metrics(NamedTuple):
    """The metrics of one training step, as device arrays, or of several, as numbers on the host.

    Attributes:
      sums: the loss under "loss" and the metrics of the task, as means.
      gradient_norm: Euclidean norm of the gradient of the mean loss; the maximum over several steps, NaN if any is NaN.
      non_finite: number of parameters and running moments (arrays) that are non-finite after a training step.
    """

    sums: Mapping[str, Mean] = {}
    gradient_norm: Any = 0.0
    non_finite: Any = 0

    def plus(self, *others: "Metrics") -> "Metrics":
        """Adds the metrics of other examples in float64, in order; waits for the device if it still computes them."""
        return Metrics(
            add_sums(self.sums, *(other.sums for other in others)),
            # Unlike Python's `max`, NumPy's keeps NaN.
            float(np.max([self.gradient_norm, *(other.gradient_norm for other in others)])),
            int(self.non_finite) + sum(int(other.non_finite) for other in others),
        )

    @property
    def mean_loss(self) -> float:
        """The mean loss; NaN without examples."""
        return float(self.sums["loss"].value) if "loss" in self.sums else math.nan

    def figures(self) -> dict[str, float]:
        """Returns one number for each mean; see `jaxcnn.tasks.figures`."""
        return figures(self.sums)

    def as_json(self) -> dict[str, Any]:
        """Returns the metrics as JSON values, to store them with a checkpoint; `from_json` reads them."""
        return {
            "sums": {
                name: [np.asarray(part, np.float64).tolist() for part in mean] for name, mean in self.sums.items()
            },
            "gradient_norm": float(self.gradient_norm),
            "non_finite": int(self.non_finite),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Reads what `as_json` returned."""
        sums = {name: Mean(*(_float64(part) for part in parts)) for name, parts in stored["sums"].items()}
        return cls(sums, stored["gradient_norm"], stored["non_finite"])


def add_sums(one: Mapping[str, Mean], *others: Mapping[str, Mean]) -> dict[str, Mean]:
    """Adds metrics in float64 on the host, one after the other.

    Args:
      one: metrics by name; empty for no example.
      *others: metrics of other examples.

    Returns:
      The sums of all.

    Raises:
      ValueError: the names differ.
    """
    one = one or {name: Mean(0.0, 0.0) for name in others[0]}
    for other in others:
        if one.keys() != other.keys():
            raise ValueError(f"expected metrics of the same names, got {sorted(one)} and {sorted(other)}")
    return {
        name: Mean(*(_total(parts) for parts in zip(mean, *(other[name] for other in others), strict=True)))
        for name, mean in one.items()
    }


def _total(numbers: Sequence[Any]) -> Any:
    # Not by NumPy's sum, which adds pairs: the result must not depend on how many are added at once.
    return functools.reduce(operator.add, map(np.asarray, numbers[1:]), _float64(numbers[0]))


def _float64(number: Any) -> Any:
    return np.asarray(number, np.float64)[()]
