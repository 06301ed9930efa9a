"""The reliability diagram of a classifier."""

from typing import TYPE_CHECKING

import numpy as np

from jaxcnn.evaluation.calibration import Calibration
from jaxcnn.plots.figures import (
    BLUE,
    GREY,
    INK,
    LABEL,
    TICK,
    VERMILLION,
    counted,
    fit_below_heading,
    new_figure,
    percent,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def reliability(calibration: Calibration, *, subtitle: str = "") -> "Figure":
    """Draws the accuracy over the confidence, and how often each confidence occurs (Guo et al. 2017, figure 1).

    A bar is a bin of the confidence, as high as its accuracy; a line across it is at the mean confidence of the bin,
    which is the height of the bar for a calibrated model. Empty bins have no bar.

    Args:
      calibration: as `jaxcnn.evaluation.calibration_curve` computes it.
      subtitle: names model, data and set, such as 'lenet5 on digits, test set'.

    Returns:
      A figure of 7.2 x 7.8 inches.

    Raises:
      ImportError: matplotlib is not installed.
    """
    counts, confidence, accuracy = calibration
    bins, examples = len(counts), int(np.sum(counts))
    filled = np.flatnonzero(counts)
    title = f"Expected calibration error {percent(calibration.expected_error, 2)}"
    detail = f"{counted(examples, 'example')}, {counted(bins, 'bin')}; largest error of a bin "
    detail += percent(calibration.maximum_error, 2)
    height = 7.8
    figure = new_figure(7.2, height, title, subtitle, detail)
    fit_below_heading(figure, height)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    centres, width = 100 * (filled + 0.5) / bins, 100 / bins
    above.bar(centres, 100 * accuracy[filled], 0.92 * width, color=BLUE, label="accuracy")
    ends = centres - 0.46 * width, centres + 0.46 * width
    above.hlines(100 * confidence[filled], *ends, color=VERMILLION, linewidth=3.0, label="mean confidence")
    above.plot([0, 100], [0, 100], color=GREY, linestyle=(0, (2, 2)), linewidth=1.4, label="calibrated")
    above.set_xlim(0, 100)
    above.set_ylim(0, 100)
    style_axes(above, "Accuracy (%)")
    below.bar(centres, 100 * counts[filled] / examples, 0.92 * width, color=GREY)
    style_axes(below, "Share of the examples (%)")
    below.set_xlabel("confidence (%)", fontsize=LABEL, color=INK, labelpad=6)
    figure.legend(loc="outside lower left", ncols=3, frameon=False, borderaxespad=1.4, fontsize=TICK, labelcolor=INK)
    return figure
