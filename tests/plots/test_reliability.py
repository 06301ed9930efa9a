import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg

from jaxcnn.evaluation import calibration_curve
from jaxcnn.plots import reliability
from jaxcnn.plots.figures import percent


def test_bars_are_as_high_as_the_accuracy_and_lines_are_at_the_confidence():
    rng = np.random.default_rng(0)
    chances = rng.dirichlet(np.ones(3) * 0.4, 200)
    found = calibration_curve(chances, rng.integers(0, 3, 200), bins=10)
    figure = reliability(found, subtitle="lenet5 on digits, test set")
    FigureCanvasAgg(figure).draw()
    texts = [text.get_text() for text in figure.texts]
    assert texts[:2] == [f"Expected calibration error {percent(found.expected_error, 2)}", "lenet5 on digits, test set"]
    above, below = figure.axes
    filled = np.flatnonzero(found.counts)
    [bars] = above.containers
    np.testing.assert_allclose([bar.get_height() for bar in bars], 100 * found.accuracy[filled])
    [lines] = above.collections
    np.testing.assert_allclose([line[0, 1] for line in lines.get_segments()], 100 * found.confidence[filled])
    np.testing.assert_allclose([bar.get_x() + bar.get_width() / 2 for bar in bars], 10 * filled + 5)
    np.testing.assert_allclose([bar.get_height() for bar in below.containers[0]], found.counts[filled] / 2)
