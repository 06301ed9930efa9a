"""The privacy that differentially private training spends, by the accountant of dp-accounting."""

import importlib
import math
from typing import Any


def privacy_spent(noise_multiplier: float, sampling_rate: float, steps: int, *, delta: float) -> float:
    """Computes epsilon of (epsilon, delta)-differential privacy after some steps of private SGD.

        privacy_spent(1.1, 256 / 60_000, 60 * 234, delta=1e-5)  # 2.4

    For neighbouring sets that differ by one example more or less. The accountant composes the distributions of the
    privacy loss (Koskela et al. 2020), which is tight up to a discretisation that rounds up.

    It holds if each batch is drawn anew, every example with the probability `sampling_rate` (Poisson sampling).
    `jaxcnn.data.Batches` goes through a shuffled set in epochs instead: then the figure is an approximation that is
    usual in papers, and no guarantee. With `sampling_rate=1`, every step uses all examples, and it holds exactly.

    Args:
      noise_multiplier: standard deviation of the noise as a multiple of the clipping norm, above 0.
      sampling_rate: share of the examples in a batch, in (0, 1].
      steps: number of steps, at least 1.
      delta: probability that the guarantee fails, in (0, 1); less than 1 / examples.

    Returns:
      Epsilon, at least 0.

    Raises:
      ImportError: dp-accounting is not installed.
      ValueError: an argument is out of range.
    """
    for name, value, valid, expected in (
        ("noise_multiplier", noise_multiplier, 0 < noise_multiplier < math.inf, "above 0, and finite"),
        ("sampling_rate", sampling_rate, 0 < sampling_rate <= 1, "in (0, 1]"),
        ("steps", steps, steps >= 1, "of at least 1"),
        ("delta", delta, 0 < delta < 1, "in (0, 1)"),
    ):
        if not valid:
            raise ValueError(f"privacy_spent expects {name} {expected}, got {value!r}")
    try:
        dp_accounting: Any = importlib.import_module("dp_accounting")
        pld: Any = importlib.import_module("dp_accounting.pld.pld_privacy_accountant")
    except ImportError as error:
        raise ImportError(
            "privacy_spent needs the package dp-accounting; install it with: pip install 'jaxcnn[privacy]'"
        ) from error
    event = dp_accounting.GaussianDpEvent(noise_multiplier)
    if sampling_rate < 1:
        event = dp_accounting.PoissonSampledDpEvent(sampling_rate, event)
    accountant = pld.PLDAccountant()
    accountant.compose(event, steps)
    return float(accountant.get_epsilon(delta))
