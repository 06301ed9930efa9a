"""Convolution on CPU in C++, for the kernels that are much slower in plain JAX.

XLA's convolutions on CPU reach half of what the cores can do, and its kernel gradients a third. These reach nearly all
of it, and Winograd's algorithm saves three quarters of the multiplications of a 3x3 kernel of stride 1. The sources are
in this folder. An installed package has libraries for several kinds of processors (setup.py). Where it has none that
fits, the system's C++ compiler builds one for this processor when the first convolution is compiled, and it is kept in
a cache folder. If the build fails, the rules of `lowering.cpu_jax` are used.
"""

from jaxcnn.ops.lowering.native.build import reads, ready
from jaxcnn.ops.lowering.native.conversions import before_conversion
from jaxcnn.ops.lowering.native.rules import (
    convolve,
    input_gradient,
    kernel_gradient,
    moments,
    own_moments,
    sums,
    takes,
)
from jaxcnn.ops.lowering.native.splitting import split_of

__all__ = [
    "before_conversion",
    "convolve",
    "input_gradient",
    "kernel_gradient",
    "moments",
    "own_moments",
    "reads",
    "ready",
    "split_of",
    "sums",
    "takes",
]
