"""Medians and quartiles of repeated measurements, and ratios of measurements made side by side."""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Spread(NamedTuple):
    """The distribution of repeated measurements.

    Attributes:
      median: the median.
      lower_quartile: a quarter of the measurements is below; interpolated linearly.
      upper_quartile: a quarter of the measurements is above.
      minimum: the smallest.
      n: number of measurements.
    """

    median: float
    lower_quartile: float
    upper_quartile: float
    minimum: float
    n: int

    def as_dict(self) -> dict[str, Any]:
        """Returns the numbers by name, for a record."""
        return self._asdict()


def spread(values: Sequence[float]) -> Spread:
    """Describes repeated measurements.

    Args:
      values: at least one number.

    Returns:
      Median, quartiles, minimum and number.

    Raises:
      ValueError: there are no values.
    """
    if not values:
        raise ValueError("spread expects at least one value, got none")
    lower, median, upper = (float(q) for q in np.quantile(values, (0.25, 0.5, 0.75)))
    return Spread(median, lower, upper, float(min(values)), len(values))


def three_digits(value: float) -> str:
    """Formats a number with three digits, or as an integer above a hundred: 0.123, 12.3, 1,235."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def ratios(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> list[float]:
    """Divides our time by theirs, round by round, so that a slowdown of a whole round cancels out.

    Args:
      ours: for each round the seconds of a step, at least one number.
      theirs: the same of a peer; if one has more rounds than the other, its last ones do not count.

    Returns:
      For each round the ratio of the medians; below 1, we are faster.
    """
    return [statistics.median(a) / statistics.median(b) for a, b in zip(ours, theirs, strict=False)]
