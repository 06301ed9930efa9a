"""Calibration of classifiers: whether probabilities are the shares of right answers."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Calibration(NamedTuple):
    """How the confidence of a classifier compares with its accuracy, by bins of the confidence.

    Confidence is the probability of the predicted class. Bin k of n holds confidences in (k / n, (k + 1) / n].

    Attributes:
      counts: number of examples in each bin, shape (bins,).
      confidence: mean confidence in each bin; NaN for an empty one.
      accuracy: share of right predictions in each bin; NaN for an empty one.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def expected_error(self) -> float:
        """The expected calibration error, ECE: the mean distance of confidence and accuracy, weighted by the counts.

        Naeini et al. 2015; Guo et al. 2017, equation 3.
        """
        filled = self.counts > 0
        gaps = np.abs(self.accuracy - self.confidence)[filled]
        return float(np.sum(self.counts[filled] * gaps) / np.sum(self.counts))

    @property
    def maximum_error(self) -> float:
        """The maximum calibration error, MCE: the largest distance of confidence and accuracy in a bin (equation 5)."""
        return float(np.nanmax(np.abs(self.accuracy - self.confidence)))


def calibration_curve(probabilities: ArrayLike, labels: ArrayLike, *, bins: int = 15) -> Calibration:
    """Compares the confidence of a classifier with its accuracy.

    Args:
      probabilities: of the classes, in [0, 1], shape (examples, classes); the first of equal ones is predicted.
      labels: the true classes, integers in [0, classes), shape (examples,).
      bins: number of bins of the same width, at least 1. The errors depend on it; 15 is usual (Guo et al. 2017).

    Returns:
      Counts, confidences and accuracies of the bins.

    Raises:
      TypeError: labels are not integers.
      ValueError: shapes or numbers are out of range, or there are no examples.
    """
    chances, classes = _checked("calibration_curve", probabilities, labels)
    if not (np.min(chances) >= 0 and np.max(chances) <= 1 + 1e-6):
        raise ValueError(
            f"calibration_curve expects probabilities in [0, 1], got {np.min(chances):g} to {np.max(chances):g}; of "
            "logits, take the softmax"
        )
    if bins < 1:
        raise ValueError(f"calibration_curve expects at least 1 bin, got {bins}")
    confidences = chances.max(axis=1)
    right = chances.argmax(axis=1) == classes
    places = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(places, minlength=bins)

    def mean(values: np.ndarray) -> np.ndarray:
        sums = np.bincount(places, weights=values, minlength=bins)
        return np.divide(sums, counts, out=np.full(bins, np.nan), where=counts > 0)

    return Calibration(counts, mean(confidences), mean(right.astype(float)))


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """Finds the temperature that makes logits / temperature fit labels best (Guo et al. 2017, section 4.2).

    It minimises the mean cross-entropy, which is convex in 1 / temperature, by bisection of its derivative. Predicted
    classes stay the same. Fit it on the validation set, and use it on others.

    Args:
      logits: shape (examples, classes).
      labels: the true classes, integers in [0, classes), shape (examples,).

    Returns:
      The temperature, above 0: above 1 for a model that is too sure.

    Raises:
      TypeError: labels are not integers.
      ValueError: shapes or labels are out of range, or no temperature between 0.001 and 1,000 is the best: the logits
        are right for all examples, so that any smaller temperature fits better; or no better than equal logits.
    """
    scores, classes = _checked("fit_temperature", logits, labels)
    scores = scores - scores.max(axis=1, keepdims=True)
    true = scores[np.arange(len(scores)), classes]

    def slope(inverse: float) -> float:
        weights = np.exp(scores * inverse)
        return float(np.mean((weights * scores).sum(axis=1) / weights.sum(axis=1) - true))

    low, high = 1e-3, 1e3
    if not slope(low) < 0 < slope(high):
        what = "no better than equal logits" if slope(low) >= 0 else "right for all examples"
        raise ValueError(
            f"fit_temperature expects logits that have a best temperature between {1 / high:g} and {1 / low:g}, got "
            f"logits that are {what}; use more examples, which the model was not trained on"
        )
    while high / low > 1 + 1e-12:
        middle = np.sqrt(low * high)
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return float(1 / np.sqrt(low * high))


def _checked(caller: str, numbers: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    rows, classes = np.asarray(numbers, np.float64), np.asarray(labels)
    if not np.issubdtype(classes.dtype, np.integer):
        raise TypeError(f"{caller} expects labels that are integers, got {classes.dtype}")
    if rows.ndim != 2 or classes.shape != rows.shape[:1] or rows.size == 0:
        raise ValueError(
            f"{caller} expects shapes (examples, classes) and (examples,), at least one, got {rows.shape} and "
            f"{classes.shape}"
        )
    if not np.isfinite(rows).all():
        raise ValueError(f"{caller} expects finite numbers, got NaN or infinity")
    if classes.min() < 0 or classes.max() >= rows.shape[1]:
        raise ValueError(f"{caller} expects labels in [0, {rows.shape[1]}), got {classes.min()} to {classes.max()}")
    return rows, classes
