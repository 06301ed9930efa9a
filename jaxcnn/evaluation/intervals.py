"""Confidence intervals of the mean of several runs."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Interval(NamedTuple):
    """The mean of several numbers, and its confidence interval.

    Attributes:
      mean: mean; a float, or an array.
      low: lower end of the interval; NaN for fewer than two numbers.
      high: upper end.
      n: number of values.
    """

    mean: Any
    low: Any
    high: Any
    n: int


def mean_interval(values: Sequence[Any] | np.ndarray, confidence: float = 0.95) -> Interval:
    """Computes the mean and its confidence interval, by Student's t distribution (Student 1908).

    The values are taken as draws from one normal distribution, such as the accuracies of runs that differ in their
    seed.

    Args:
      values: numbers, or arrays of one shape, along the first axis; at least one.
      confidence: probability that such an interval contains the mean of the distribution, in (0, 1).

    Returns:
      Mean and interval, of the shape of one value.

    Raises:
      ValueError: there are no values, or the confidence is out of range.
    """
    if len(values) == 0:
        raise ValueError("mean_interval expects at least one value, got none")
    if not 0 < confidence < 1:
        raise ValueError(f"mean_interval expects a confidence in (0, 1), got {confidence!r}")
    array = np.asarray(values, np.float64)
    count, mean = len(array), array.mean(axis=0)
    if count == 1:
        unknown = np.full(mean.shape, np.nan)[()]
        return Interval(mean, unknown, unknown, 1)
    from scipy.special import stdtrit

    half = stdtrit(count - 1, (1 + confidence) / 2) * array.std(axis=0, ddof=1) / np.sqrt(count)
    return Interval(mean, mean - half, mean + half, count)
