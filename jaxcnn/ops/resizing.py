"""Resizes one image with the results of torch."""

import math
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import max_dim

from jaxcnn.ops import lowering
from jaxcnn.ops.check import Size, as_image_size, as_scale, at_least_float32, check_image
from jaxcnn.ops.pool import adaptive_avg_pool
from jaxcnn.ops.sizes import as_number, is_known, positions

Method: TypeAlias = Literal["bilinear", "bicubic", "nearest", "nearest-exact", "area"]
"""torch's names of the methods."""


def resize(
    x: jax.Array,
    output_shape: Size | None = None,
    *,
    scale_factor: float | tuple[float, float] | None = None,
    method: Method = "bilinear",
    align_corners: bool = False,
    antialias: bool = False,
) -> jax.Array:
    """Resizes one image as `torch.nn.functional.interpolate` does.

    Pixels are squares: output pixel i is centred at (i + 1/2) scale - 1/2 in pixels of the image, where scale is size /
    output size, or 1 / `scale_factor` if given. With `align_corners` it is centred at i (size - 1) / (output size - 1),
    so that the outermost centres coincide. Beyond the border the outermost pixel is repeated; with antialias the filter
    is cut at the border and its weights are rescaled to sum 1. Bicubic may overshoot the range of the input. Its
    coefficient is -0.75 without and -0.5 with antialias, as in torch and Pillow (Keys 1981).

    Pixels of weight zero are ignored. torch multiplies them by zero, which gives NaN for infinite pixels.

    Args:
      x: image, shape (height, width, channels), floating point.
      output_shape: (height, width) of the output, in pixels; or None if `scale_factor` is given.
      scale_factor: factor of enlargement, (vertical, horizontal) or one number for both, more than 0. The output has
        floor(size * scale_factor) pixels. The scale is 1 / `scale_factor`, even if size / output size differs (torch's
        `recompute_scale_factor=None`).
      method: "bilinear" or "bicubic"; "nearest": the pixel at floor(i scale); "nearest-exact": the pixel at
        floor((i + 1/2) scale) (torch rounds the scale to float32, and is one pixel off at a few sizes, such as 2 to
        82); "area": the means of `adaptive_avg_pool`.
      align_corners: whether the centres of the outermost pixels coincide, instead of their outer edges; only for
        "bilinear" and "bicubic" without antialias.
      antialias: widen the filter when shrinking, so that every input pixel counts; no effect when enlarging by
        "bilinear". Only for "bilinear" and "bicubic".

    Returns:
      Shape (*output_shape, channels), in the dtype of `x`; computed in at least float32.

    Raises:
      ValueError: `x` is not one image, the method is unknown, an option does not apply to it, or both or neither of
        `output_shape` and `scale_factor` are given.
      TypeError: `x` is not floating point.
    """
    check_image("resize", x)
    _check_options(method, align_corners, antialias)
    output_shape, scales = _sizes(x, output_shape, scale_factor)
    if antialias and not is_known((*x.shape, *output_shape)):
        raise ValueError(
            f"resize expects known sizes with antialias=True, got {x.shape} to {output_shape}; export it for one size"
        )
    if method == "area":
        return adaptive_avg_pool(x, output_shape)
    y = x.astype(at_least_float32(x.dtype))
    for axis, (n, scale) in enumerate(zip(output_shape, scales, strict=True)):
        size = y.shape[axis]
        if method in ("nearest", "nearest-exact"):
            places = _nearest(size, n, method, scale)[:, None]
            y = lowering.resample(y, axis, places, places * 0 + 1)
        elif antialias:
            y = lowering.resample(y, axis, *_antialiased(size, n, method, scale))
        else:
            y = lowering.resample(y, axis, *_interpolating(size, n, method, align_corners, scale))
    return y.astype(x.dtype)


def _check_options(method: str, align_corners: bool, antialias: bool) -> None:
    if method not in get_args(Method):
        raise ValueError(f"resize expects a method among {', '.join(map(repr, get_args(Method)))}, got {method!r}")
    if antialias and method not in ("bilinear", "bicubic"):
        raise ValueError(f"resize expects antialias=False with method {method!r}, which has no filter, got True")
    if align_corners and (antialias or method not in ("bilinear", "bicubic")):
        raise ValueError(
            "resize supports align_corners=True only for methods 'bilinear' and 'bicubic' without antialias, "
            f"got method {method!r} and antialias={antialias}"
        )


def _sizes(
    x: jax.Array, output_shape: Size | None, scale_factor: float | tuple[float, float] | None
) -> tuple[tuple[int, int], tuple[float | None, float | None]]:
    """Returns the output size, and the scale if it is not the quotient of the sizes."""
    if (output_shape is None) == (scale_factor is None):
        raise ValueError(
            f"resize expects either output_shape or scale_factor, got output_shape={output_shape} and "
            f"scale_factor={scale_factor}"
        )
    if scale_factor is None:
        return as_image_size("output_shape", output_shape), (None, None)
    factors = as_scale("scale_factor", scale_factor)
    if not is_known(x.shape):
        if all(factor.is_integer() for factor in factors):
            # The scale is the quotient of the sizes.
            return (x.shape[0] * int(factors[0]), x.shape[1] * int(factors[1])), (None, None)
        raise ValueError(f"resize expects a known size with a scale_factor of {scale_factor}, got {x.shape}")
    height, width = (math.floor(size * factor) for size, factor in zip(x.shape, factors, strict=False))
    if height < 1 or width < 1:
        raise ValueError(
            f"resize expects a scale_factor that gives at least one pixel of {x.shape[:2]}, got {scale_factor}"
        )
    return (height, width), (1 / factors[0], 1 / factors[1])


def _nearest(size: Any, n: Any, method: str, scale: float | None) -> Any:
    """Returns the index of the nearest pixel of each output, shape (n,)."""
    if scale is not None:
        # In float32 and with torch's order of rounding, so that no pixel differs from torch's.
        shift = np.float32(0.5 if method == "nearest-exact" else 0)
        return np.floor((np.arange(n, dtype=np.float32) + shift) * np.float32(scale)).astype(int).clip(0, size - 1)
    # In integers: floor(i * size / n) in floating point may be off by one if the quotient is an integer.
    row, size, n = positions(n), as_number(size), as_number(n)
    return (2 * row + 1) * size // (2 * n) if method == "nearest-exact" else row * size // n


def _interpolating(size: Any, n: Any, method: str, align_corners: bool, scale: float | None) -> tuple[Any, Any]:
    """Returns the 2 or 4 nearest pixels and their weights, both of shape (n, taps)."""
    row, size, gaps, n = positions(n), as_number(size), as_number(max_dim(n - 1, 1)), as_number(n)
    if scale is not None and not align_corners:
        centre = (row + 0.5) * scale - 0.5
        centre = centre.clip(0) if method == "bilinear" else centre
        first = np.floor(centre).astype(int)
        beyond = centre - first
    else:
        # In integers: `parts` times the centre.
        parts = gaps if align_corners else 2 * n
        scaled = row * (size - 1) if align_corners else (2 * row + 1) * size - n
        scaled = scaled.clip(0) if method == "bilinear" else scaled
        first = scaled // parts
        beyond = (scaled - first * parts) / parts
    taps = np.arange(2) if method == "bilinear" else np.arange(-1, 3)
    places = (first[:, None] + taps[None, :]).clip(0, size - 1)
    return places, interpolation_weights(
        beyond[:, None] - taps[None, :].astype(beyond.dtype), method, coefficient=-0.75
    )


def _antialiased(size: int, n: int, method: str, scale: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns pixels and weights (n, taps) of a filter widened by the factor of shrinking, as Pillow computes them."""
    scale = size / n if scale is None else scale
    stretch = max(scale, 1.0)
    centre = (np.arange(n)[:, None] + 0.5) * scale
    reach = (1 if method == "bilinear" else 2) * stretch
    # Pillow rounds the ends of the filter's support to whole pixels; a pixel outside has weight zero.
    first = np.maximum(np.floor(centre - reach + 0.5), 0).astype(int)
    last = np.minimum(np.floor(centre + reach + 0.5), size).astype(int)
    pixel = first + np.arange(np.max(last - first))[None, :]
    weights = np.where(
        pixel < last, interpolation_weights((pixel + 0.5 - centre) / stretch, method, coefficient=-0.5), 0
    )
    return pixel.clip(0, size - 1), weights / weights.sum(1, keepdims=True)


def interpolation_weights(distance: Any, method: str, coefficient: float) -> Any:
    """Evaluates the kernel of an interpolation: the triangle, or Keys' cubic convolution.

    Args:
      distance: in pixels, floating point, any shape; an array of NumPy or JAX.
      method: "bilinear" or "bicubic".
      coefficient: of the cubic kernel.

    Returns:
      The weights, of the same shape and kind.
    """
    d = abs(distance)
    if method == "bilinear":
        return (1 - d).clip(0)
    a = coefficient
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = (((d - 5) * d + 8) * d - 4) * a
    choose = np.where if isinstance(d, np.ndarray) else jnp.where
    return choose(d < 1, near, choose(d < 2, far, 0))
