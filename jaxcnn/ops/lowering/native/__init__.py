"""Convolution on CPU in C++: the kernels that plain JAX comes nowhere near.

XLA's convolutions on CPU reach half of what the cores can do, and its kernel gradients a third. These reach nearly all
of it, and Winograd's algorithm passes over three quarters of the multiplications of a 3x3 kernel of stride 1. The
sources are in this folder. They are built by the system's C++ compiler when the first convolution is compiled, for the
processor they run on, and kept in a cache folder; where that fails, the rules of `lowering.cpu_jax` are used.
"""

from jaxcnn.ops.lowering.native.build import ready
from jaxcnn.ops.lowering.native.rules import (
    convolve,
    input_gradient,
    kernel_gradient,
    may_call,
    moments,
    own_moments,
    sums,
    takes,
)

__all__ = [
    "convolve",
    "input_gradient",
    "kernel_gradient",
    "may_call",
    "moments",
    "own_moments",
    "ready",
    "sums",
    "takes",
]
