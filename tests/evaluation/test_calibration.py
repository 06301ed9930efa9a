import numpy as np
import pytest

from jaxcnn.evaluation import calibration_curve, fit_temperature


@pytest.fixture(scope="module")
def answers():
    """Logits of 500 examples in 4 classes that are too sure by a factor of 2.5, and labels."""
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 1.5, (500, 4))
    chances = softmax(honest)
    labels = np.array([rng.choice(4, p=row) for row in chances])
    return 2.5 * honest, labels


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def loop(chances, labels, bins):
    """Guo et al. 2017, equations 1 to 3 and 5, example by example."""
    members = [[] for _ in range(bins)]
    for row, label in zip(chances, labels, strict=True):
        top = max(row)
        for k in range(bins):
            if k / bins < top <= (k + 1) / bins:
                members[k].append((top, list(row).index(top) == label))
    gaps = {k: abs(np.mean([r for _, r in m]) - np.mean([c for c, _ in m])) for k, m in enumerate(members) if m}
    expected = sum(len(members[k]) / len(labels) * gap for k, gap in gaps.items())
    return [len(m) for m in members], expected, max(gaps.values())


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_errors_are_those_of_a_loop_over_the_examples(answers, bins):
    logits, labels = answers
    found = calibration_curve(softmax(logits), labels, bins=bins)
    counts, expected, maximum = loop(softmax(logits), labels, bins)
    assert found.counts.tolist() == counts
    assert found.expected_error == pytest.approx(expected, rel=1e-12)
    assert found.maximum_error == pytest.approx(maximum, rel=1e-12)


def test_bins_are_those_of_scikit_learn(answers):
    from sklearn.calibration import calibration_curve as sklearn_curve

    logits, labels = answers
    chances = softmax(logits)
    right = chances.argmax(axis=1) == labels
    accuracy, confidence = sklearn_curve(right, chances.max(axis=1), n_bins=10)
    found = calibration_curve(chances, labels, bins=10)
    filled = found.counts > 0
    np.testing.assert_allclose(found.accuracy[filled], accuracy)
    np.testing.assert_allclose(found.confidence[filled], confidence)


def test_edges_belong_to_the_lower_bin_and_empty_bins_are_nan():
    found = calibration_curve([[0.5, 0.5], [1.0, 0.0], [0.75, 0.25]], [0, 1, 0], bins=4)
    assert found.counts.tolist() == [0, 1, 1, 1]
    np.testing.assert_array_equal(found.accuracy, [np.nan, 1, 1, 0])
    np.testing.assert_array_equal(found.confidence, [np.nan, 0.5, 0.75, 1])
    assert found.expected_error == pytest.approx((0.5 + 0.25 + 1) / 3)
    assert found.maximum_error == 1


def test_the_temperature_minimises_the_cross_entropy(answers):
    from scipy.optimize import minimize_scalar
    from sklearn.metrics import log_loss

    logits, labels = answers
    found = fit_temperature(logits, labels)
    best = minimize_scalar(lambda t: log_loss(labels, softmax(logits / t)), bounds=(0.1, 10), options={"xatol": 1e-9})
    assert found == pytest.approx(best.x, rel=1e-5)
    # The logits are those of honest probabilities, times 2.5.
    assert found == pytest.approx(2.5, rel=0.15)
    before = calibration_curve(softmax(logits), labels).expected_error
    assert calibration_curve(softmax(logits / found), labels).expected_error < before / 2


def test_logits_without_a_best_temperature_are_refused():
    logits = np.array([[3.0, 0.0], [0.0, 2.0]])
    with pytest.raises(ValueError, match="got logits that are right for all examples; use more examples"):
        fit_temperature(logits, [0, 1])
    with pytest.raises(ValueError, match="got logits that are no better than equal logits"):
        fit_temperature(logits, [1, 0])
    with pytest.raises(ValueError, match="got logits that are no better than equal logits"):
        fit_temperature([[1.0, 1.0], [2.0, 2.0]], [0, 1])


@pytest.mark.parametrize("function", [calibration_curve, fit_temperature])
@pytest.mark.parametrize(
    ("numbers", "labels", "error", "message"),
    [
        ([[0.5, 0.5]], [0.0], TypeError, "labels that are integers, got float64"),
        ([[0.5, 0.5]], [0, 1], ValueError, r"shapes .* got \(1, 2\) and \(2,\)"),
        (np.zeros((0, 2)), np.zeros(0, int), ValueError, r"at least one, got \(0, 2\)"),
        ([[0.5, np.nan]], [0], ValueError, "finite numbers, got NaN or infinity"),
        ([[0.5, 0.5]], [2], ValueError, r"labels in \[0, 2\), got 2 to 2"),
    ],
)
def test_nonsense_is_refused(function, numbers, labels, error, message):
    with pytest.raises(error, match=message):
        function(numbers, labels)


def test_logits_are_no_probabilities():
    with pytest.raises(ValueError, match=r"in \[0, 1\], got -1 to 2; of logits, take the softmax"):
        calibration_curve([[2.0, -1.0]], [0])
    with pytest.raises(ValueError, match="at least 1 bin, got 0"):
        calibration_curve([[0.5, 0.5]], [0], bins=0)
