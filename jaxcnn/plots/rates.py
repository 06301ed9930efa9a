"""The figure of a search for the learning rate."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from jaxcnn.plots.figures import BLUE, GREY, INK, LABEL, TICK, counted, fit_below_heading, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def learning_rates(
    rates: ArrayLike,
    losses: ArrayLike,
    *,
    smoothed: ArrayLike | None = None,
    suggestion: float | None = None,
    subtitle: str = "",
) -> "Figure":
    """Draws the loss against the learning rate (Smith 2017, section 3.3), and marks the suggested rate.

        learning_rates(found.rates, found.losses, smoothed=found.smoothed, suggestion=found.suggestion)

    The axis of the learning rate is logarithmic. The axis of the loss ends half of the fall above the first loss, so
    that divergence at large rates does not flatten the rest. Losses that are not finite are omitted.

    Args:
      rates: learning rates, increasing and above 0, shape (steps,).
      losses: the loss at each rate, shape (steps,).
      smoothed: the losses averaged over neighbouring steps, finite, shape (steps,); None for no such curve.
      suggestion: the learning rate to mark, between the first and the last; None for no mark.
      subtitle: names model and data, such as 'lenet5 on digits'.

    Returns:
      A figure 9 inches wide.

    Raises:
      ImportError: matplotlib is not installed.
      ValueError: the shapes differ, the rates do not increase or are not above 0, fewer than two losses are finite, a
        smoothed loss is not finite, or the suggestion is outside the rates.
    """
    steps, values = _checked(rates, losses)
    average = None if smoothed is None else _checked_average(smoothed, steps)
    if suggestion is not None and not steps[0] <= suggestion <= steps[-1]:
        raise ValueError(f"suggestion must be between {steps[0]:g} and {steps[-1]:g}, got {suggestion:g}")
    finite = np.isfinite(values)
    title = "Loss against learning rate" if suggestion is None else f"Suggested learning rate {suggestion:.2g}"
    height = 5.0
    curves = "" if average is None else "; grey: loss of each step, blue: average over neighbouring steps"
    figure = new_figure(9.0, height, title, subtitle, counted(len(steps), "step") + curves)
    fit_below_heading(figure, height)
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.set_xlim(steps[0], steps[-1])
    first, low = values[finite][0], values[finite].min()
    top = min(values[finite].max(), first + 0.5 * (first - low))
    margin = 0.05 * (top - low) or 0.05 * abs(top) or 0.05
    axes.set_ylim(low - margin, top + margin)
    if average is None:
        axes.plot(steps[finite], values[finite], color=BLUE, linewidth=2.4)
    else:
        axes.plot(steps[finite], values[finite], color=GREY, linewidth=1.2)
        axes.plot(steps, average, color=BLUE, linewidth=2.4)
    style_axes(axes, "Loss", pad=32)
    axes.set_xlabel("learning rate (log scale)", fontsize=LABEL, color=INK, labelpad=6)
    if suggestion is not None:
        axes.axvline(suggestion, color=GREY, linewidth=1.2, linestyle=(0, (2, 2)), zorder=1)
        if average is not None:
            height_there = np.interp(np.log(suggestion), np.log(steps), average)
            axes.plot([suggestion], [height_there], marker="o", markersize=9, color=BLUE)
        above = axes.get_xaxis_transform()
        axes.text(
            suggestion, 1.035, f"{suggestion:.2g}", transform=above, ha="center", va="bottom", fontsize=TICK, color=BLUE
        )
    return figure


def _checked(rates: ArrayLike, losses: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    steps, values = np.asarray(rates, np.float64), np.asarray(losses, np.float64)
    if steps.ndim != 1 or steps.shape != values.shape:
        raise ValueError(f"rates and losses must have the same shape (steps,), got {steps.shape} and {values.shape}")
    if not (np.isfinite(steps).all() and (steps > 0).all() and (np.diff(steps) > 0).all()):
        raise ValueError(f"rates must increase, be finite and be above 0, got {steps}")
    if np.count_nonzero(np.isfinite(values)) < 2:
        raise ValueError(f"expected at least two finite losses, got {np.count_nonzero(np.isfinite(values))}")
    return steps, values


def _checked_average(smoothed: ArrayLike, steps: np.ndarray) -> np.ndarray:
    average = np.asarray(smoothed, np.float64)
    if average.shape != steps.shape:
        raise ValueError(f"smoothed must have the shape of the rates, {steps.shape}, got {average.shape}")
    if not np.isfinite(average).all():
        raise ValueError(f"smoothed must be finite, got {average[~np.isfinite(average)][0]}")
    return average
