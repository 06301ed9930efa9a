"""How the ops run: the seam between what an op means (`jaxcnn.ops`) and the program XLA is given.

The functions here take arguments that the ops have checked and brought to one form: paddings in pixels, pairs
for sizes, one image without a batch axis.
"""

from jaxcnn.ops.lowering.convolution import convolve
from jaxcnn.ops.lowering.pooling import window_argmax, window_max, window_sum

__all__ = ["convolve", "window_argmax", "window_max", "window_sum"]
