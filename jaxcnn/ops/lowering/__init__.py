"""How the ops run: the seam between what an op means (`jaxcnn.ops`) and the program XLA is given.

The functions here take arguments that the ops have checked and brought to one form: paddings in pixels, pairs
for sizes. Convolutions take a batch of images, since that is what their programs are chosen for; a `jax.vmap` over
them joins it.
"""

from jaxcnn.ops.lowering.channels import affine, own_moments
from jaxcnn.ops.lowering.convolution import convolve, input_gradient, kernel_gradient
from jaxcnn.ops.lowering.geometry import Geometry
from jaxcnn.ops.lowering.plain import PLAIN_RULES
from jaxcnn.ops.lowering.pooling import (
    adaptive_argmax,
    adaptive_max,
    adaptive_taps,
    image_max,
    window_argmax,
    window_max,
    window_sum,
)
from jaxcnn.ops.lowering.resampling import resample
from jaxcnn.ops.lowering.xla import exchanged

__all__ = [
    "PLAIN_RULES",
    "Geometry",
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
    "window_argmax",
    "window_max",
    "window_sum",
]
