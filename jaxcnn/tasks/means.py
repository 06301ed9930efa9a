"""Turns summed metrics into figures to print and to compare."""

from collections.abc import Mapping

import numpy as np

from jaxcnn.types import Mean


def figures(sums: Mapping[str, Mean]) -> dict[str, float]:
    """Turns sums into one number for each metric.

    Args:
      sums: metrics by name, summed over any number of batches.

    Returns:
      The figures by name. A single mean keeps its name. Several means, such as one for each class, become their average
      over those whose weight is not 0, with the prefix "mean_". NaN if all weights are 0.
    """
    result = {}
    for name, mean in sums.items():
        values = np.asarray(mean.value)
        if values.ndim == 0:
            result[name] = float(values)
        else:
            occurring = values[np.asarray(mean.weight) != 0]
            result[f"mean_{name}"] = float(occurring.mean()) if occurring.size else float("nan")
    return result
