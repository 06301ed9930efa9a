"""The implementations of the ops: `jaxcnn.ops` defines what an op computes, this package how.

The ops check the arguments and normalise them before they call these functions: paddings are in pixels, sizes are
pairs. Convolutions take a batch of images, because the best program depends on the batch; `jax.vmap` adds to this
batch.
"""

from jaxcnn.ops.lowering.convolution import convolve, input_gradient, kernel_gradient
from jaxcnn.ops.lowering.fallbacks import PLAIN_RULES
from jaxcnn.ops.lowering.geometry import Geometry
from jaxcnn.ops.lowering.moments import affine, own_moments
from jaxcnn.ops.lowering.pooling import (
    adaptive_argmax,
    adaptive_max,
    adaptive_taps,
    image_max,
    window_argmax,
    window_max,
    window_sum,
)
from jaxcnn.ops.lowering.regions import Taps, sum_regions
from jaxcnn.ops.lowering.resampling import resample
from jaxcnn.ops.lowering.xla import exchanged

__all__ = [
    "PLAIN_RULES",
    "Geometry",
    "Taps",
    "adaptive_argmax",
    "adaptive_max",
    "adaptive_taps",
    "affine",
    "convolve",
    "exchanged",
    "image_max",
    "input_gradient",
    "kernel_gradient",
    "own_moments",
    "resample",
    "sum_regions",
    "window_argmax",
    "window_max",
    "window_sum",
]
