"""A slice of the loss landscape."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from jaxcnn.plots.figures import INK, LABEL, TICK, VERMILLION, fit_below_heading, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def landscape(
    losses: ArrayLike,
    steps: ArrayLike,
    *,
    names: tuple[str, str] = ("first direction", "second direction"),
    subtitle: str = "",
) -> "Figure":
    """Draws the loss on a plane through the parameters, as coloured levels with a mark at the parameters (step 0).

    Levels are logarithmic if all losses are above 0 and the largest is at least 10 times the smallest. Places without a
    finite loss are white, and the heading gives their number.

    Args:
      losses: as `jaxcnn.inspection.loss_slice` computes them, shape (n, n).
      steps: multiples of the directions, increasing, shape (n,).
      names: what the first and the second direction are.
      subtitle: names model and data, such as 'lenet5 on digits, training set'.

    Returns:
      A figure 8.2 inches wide.

    Raises:
      ImportError: matplotlib is not installed.
      ValueError: the shapes do not fit, the steps do not increase, or no loss is finite.
    """
    values, places = np.asarray(losses, np.float64), np.asarray(steps, np.float64)
    if places.ndim != 1 or len(places) < 2 or values.shape != (len(places),) * 2 or np.any(np.diff(places) <= 0):
        raise ValueError(
            f"landscape expects losses (n, n) and n increasing steps, n at least 2, got {values.shape} and steps of "
            f"shape {places.shape}"
        )
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise ValueError("landscape expects a finite loss, got none; take smaller steps")
    from matplotlib.colors import LogNorm, Normalize

    low, high = float(finite.min()), float(finite.max())
    logarithmic = low > 0 and high >= 10 * low
    levels = np.geomspace(low, high, 25) if logarithmic else np.linspace(low, high if high > low else low + 1, 25)
    missing = values.size - finite.size
    detail = "log scale" if logarithmic else "linear scale"
    detail += f"; {missing} of {values.size} places have no finite loss" if missing else ""
    height = 6.6
    figure = new_figure(8.2, height, f"Loss {low:.4g} to {high:.4g}", subtitle, detail)
    fit_below_heading(figure, height)
    axes = figure.subplots()
    norm = LogNorm(low, high) if logarithmic else Normalize(levels[0], levels[-1])
    drawn = axes.contourf(places, places, np.ma.masked_invalid(values.T), levels=levels, norm=norm, cmap="viridis_r")
    axes.plot([0], [0], marker="o", markersize=9, color=VERMILLION, markeredgecolor="white", linestyle="none")
    axes.set_aspect("equal")
    axes.set_xlabel(f"step along the {names[0]}", fontsize=LABEL, color=INK)
    axes.set_ylabel(f"step along the {names[1]}", fontsize=LABEL, color=INK)
    axes.tick_params(labelsize=TICK)
    bar = figure.colorbar(drawn, ax=axes, ticks=levels[::4], format="%.3g", fraction=0.046, pad=0.04)
    bar.ax.tick_params(labelsize=TICK)
    bar.ax.minorticks_off()
    return figure
