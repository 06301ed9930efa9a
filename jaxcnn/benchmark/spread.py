"""Medians and quartiles of repeated measurements, and ratios of measurements made side by side."""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Spread(NamedTuple):
    """What is told of repeated measurements.

    Attributes:
      median: the middle one.
      lower_quartile: a quarter of them is below; between two of them by linear interpolation.
      upper_quartile: a quarter of them is above.
      minimum: the smallest.
      n: how many there are.
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
    """Writes a number to three digits, or to a whole number above a hundred: 0.123, 12.3, 1,235."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def ratios(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> list[float]:
    """Divides our time by theirs, round by round, so that what slows a whole round down cancels out.

    Args:
      ours: for each round the seconds of a step, at least one number.
      theirs: the same of a peer; where one has more rounds than the other, the last of them do not count.

    Returns:
      For each round the ratio of the medians: below 1, we are faster.
    """
    return [statistics.median(a) / statistics.median(b) for a, b in zip(ours, theirs, strict=False)]
