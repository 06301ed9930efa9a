"""Which convolutions the C++ kernels take, and by which algorithm.

The choice is made by shape when a program is lowered. For each tile of 4x4 results, input channel and output channel,
Winograd's algorithm replaces 144 multiplications by 36. It must also transform tiles and kernel. The costs of these
transforms, in multiplications, are two numbers that `experiments/convolution_rules.py` measures:

    tile     of each tile, for each of its channels (input and output)      800
    kernel   of the kernel, for each input and output channel              2200

They were fitted on a processor with AVX-512; on one with only AVX2 the script finds 980 and 2060.
"""

import enum
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.ops.check import at_least_float32
from jaxcnn.ops.lowering.geometry import Geometry
from jaxcnn.ops.lowering.native.build import reads

Pair = tuple[int, int]

TILE_COST = 800
KERNEL_COST = 2200

_VECTOR_BYTES = 64
"""Bytes of the widest vectors: Winograd's kernels take whole vectors of channels."""


class Algorithm(enum.IntEnum):
    """The algorithms, numbered as in kernels.cc."""

    DIRECT = 0
    DEPTHWISE = 1
    WINOGRAD = 2


def takes(image: Any, kernel_shape: tuple[int, ...], geometry: Geometry) -> bool:
    """Tells whether the C++ kernels compute a convolution and its gradients.

    Args:
      image: shape and dtype of the images, (batch, height, width, channels).
      kernel_shape: (height, width, in_channels / groups, out_channels).
      geometry: of the convolution.

    Returns:
      False for unknown shapes, and for depthwise kernels for which `lowering.cpu_jax` has a faster rule.
    """
    if not (_is_known(image.shape) and _is_known(kernel_shape)):
        return False
    if geometry.groups > 1 and kernel_shape[2] == 1:
        return kernel_shape[3] == geometry.groups and geometry.groups >= _lanes(at_least_float32(image.dtype))
    return True


def sums(image: Any) -> bool:
    """Tells whether the C++ kernels sum the pixels of images.

    Args:
      image: shape and dtype, (images, pixels, channels).
    """
    return image.dtype in (jnp.float32, jnp.float64) and _is_known(image.shape)


def _is_known(shape: Sequence[Any]) -> bool:
    return all(isinstance(n, int) and n > 0 for n in shape)


def own_moments(x: jax.Array, shift: jax.Array) -> Sequence[jax.Array]:
    """See `lowering.moments.own_moments`; `x` may be of any dtype that `reads` accepts, and is summed in float32."""
    return jax.ffi.ffi_call("jaxcnn_own_moments", _sums(x))(x, shift)


def moments(x: jax.Array, y: jax.Array, shift: jax.Array) -> Sequence[jax.Array]:
    """Sums y and (x - shift) * y; see `lowering.moments` and, for dtypes, `own_moments`."""
    return jax.ffi.ffi_call("jaxcnn_moments", _sums(x))(x, y, shift)


def _sums(x: jax.Array) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct((x.shape[0], x.shape[2]), at_least_float32(x.dtype))] * 2


def convolve(x: jax.Array, kernel: jax.Array, *, geometry: Geometry, output_size: Pair) -> jax.Array:
    """See `lowering.convolution.convolve`."""
    shape = (x.shape[0], *output_size, kernel.shape[3])
    return _call("jaxcnn_convolve", shape, x, kernel, geometry=geometry, kernel_shape=kernel.shape, pixels=output_size)


def input_gradient(dy: jax.Array, kernel: jax.Array, *, geometry: Geometry, input_size: Pair) -> jax.Array:
    """See `lowering.convolution.input_gradient`."""
    shape = (dy.shape[0], *input_size, kernel.shape[2] * geometry.groups)
    return _call(
        "jaxcnn_input_gradient", shape, dy, kernel, geometry=geometry, kernel_shape=kernel.shape, pixels=input_size
    )


def kernel_gradient(x: jax.Array, dy: jax.Array, *, geometry: Geometry, kernel_size: Pair) -> jax.Array:
    """See `lowering.convolution.kernel_gradient`."""
    shape = (*kernel_size, x.shape[3] // geometry.groups, dy.shape[3])
    pixels = (dy.shape[1], dy.shape[2])
    return _call("jaxcnn_kernel_gradient", shape, x, dy, geometry=geometry, kernel_shape=shape, pixels=pixels)


def _call(
    target: str,
    shape: tuple[int, ...],
    *operands: jax.Array,
    geometry: Geometry,
    kernel_shape: tuple[int, ...],
    pixels: Pair,
) -> jax.Array:
    # Narrower numbers are multiplied and summed as float32, and their results are rounded once: those of a kernel's
    # gradient by XLA, together with what follows.
    images, given = operands[0].shape[0], operands[0].dtype
    dtype = at_least_float32(given)
    stored = given if reads(given) else dtype
    result = jax.ffi.ffi_call(target, jax.ShapeDtypeStruct(shape, dtype if shape is kernel_shape else stored))
    return result(
        *(x.astype(stored) for x in operands),
        strides=np.array(geometry.strides, np.int64),
        before=np.array([geometry.padding[0][0], geometry.padding[1][0]], np.int64),
        dilation=np.array(geometry.dilation, np.int64),
        groups=np.int64(geometry.groups),
        algorithm=np.int64(_algorithm(geometry, kernel_shape, images, pixels, dtype)),
    ).astype(given)


def _lanes(dtype: Any) -> int:
    return _VECTOR_BYTES // jnp.dtype(dtype).itemsize


def _algorithm(geometry: Geometry, kernel_shape: tuple[int, ...], images: int, pixels: Pair, dtype: Any) -> Algorithm:
    *kernel_size, channels, outputs = kernel_shape
    if geometry.groups >= _lanes(dtype) and channels == 1 and outputs == geometry.groups:
        return Algorithm.DEPTHWISE
    fits = (
        tuple(kernel_size) == (3, 3)
        and geometry.strides == geometry.dilation == (1, 1)
        and geometry.groups == 1
        and channels % _lanes(dtype) == outputs % _lanes(dtype) == 0
    )
    if not fits or geometry.precision in ("highest", "float32"):
        return Algorithm.DIRECT
    tiles = images * math.ceil(pixels[0] / 4) * math.ceil(pixels[1] / 4)
    matrix = channels * outputs
    winograd = tiles * (36 * matrix + TILE_COST * (channels + outputs)) + KERNEL_COST * matrix
    return Algorithm.WINOGRAD if winograd < 9 * images * math.prod(pixels) * matrix else Algorithm.DIRECT
