import sys
from statistics import NormalDist

import numpy as np
import pytest

from jaxcnn.training import privacy_spent


def gaussian_epsilon(sigma, delta):
    """Epsilon of the Gaussian mechanism by its exact formula (Balle & Wang 2018, theorem 8), by bisection."""
    normal = NormalDist()

    def failing(epsilon):
        ends = (1 / (2 * sigma) - epsilon * sigma, -1 / (2 * sigma) - epsilon * sigma)
        return normal.cdf(ends[0]) - np.exp(epsilon) * normal.cdf(ends[1])

    low, high = 0.0, 100.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if failing(middle) > delta else (low, middle)
    return high


@pytest.mark.parametrize(("sigma", "steps"), [(2.0, 1), (4.0, 9)])
def test_steps_with_all_examples_are_one_gaussian_of_less_noise(sigma, steps):
    pytest.importorskip("dp_accounting")
    expected = gaussian_epsilon(sigma / np.sqrt(steps), 1e-5)
    assert privacy_spent(sigma, 1.0, steps, delta=1e-5) == pytest.approx(expected, rel=1e-3)


def test_sampled_steps_are_those_of_a_numerical_integral():
    """One step of the Poisson-sampled Gaussian: delta(epsilon) is an integral over the output of the mechanism."""
    pytest.importorskip("dp_accounting")
    rate, sigma = 0.1, 1.0
    epsilon = privacy_spent(sigma, rate, 1, delta=1e-3)
    x = np.linspace(-12, 13, 400_001)
    without, shifted = (np.exp(-((x - m) ** 2) / (2 * sigma**2)) / np.sqrt(2 * np.pi) / sigma for m in (0, 1))
    with_it = (1 - rate) * without + rate * shifted
    deltas = [
        np.trapezoid(np.maximum(p - np.exp(epsilon) * q, 0), x) for p, q in ((with_it, without), (without, with_it))
    ]
    assert max(deltas) == pytest.approx(1e-3, rel=1e-2)


def test_the_figure_of_the_docstring():
    pytest.importorskip("dp_accounting")
    assert privacy_spent(1.1, 256 / 60_000, 60 * 234, delta=1e-5) == pytest.approx(2.4, abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 0.1, 1, 1e-5), "noise_multiplier above 0, and finite, got 0.0"),
        ((1.0, 0.0, 1, 1e-5), r"sampling_rate in \(0, 1\], got 0.0"),
        ((1.0, 0.1, 0, 1e-5), "steps of at least 1, got 0"),
        ((1.0, 0.1, 1, 1.0), r"delta in \(0, 1\), got 1.0"),
    ],
)
def test_nonsense_is_refused(arguments, message):
    *given, delta = arguments
    with pytest.raises(ValueError, match=message):
        privacy_spent(*given, delta=delta)


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxcnn\[privacy\]'"):
        privacy_spent(1.0, 0.1, 1, delta=1e-5)
