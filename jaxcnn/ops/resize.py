"""Resizing of one image, to the numbers that torch gives."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.ops.check import Size, as_image_size, check_image
from jaxcnn.ops.sizes import as_number, is_known, positions


def resize(
    x: jax.Array,
    output_shape: Size,
    *,
    method: Literal["bilinear", "bicubic", "nearest"] = "bilinear",
    antialias: bool = False,
) -> jax.Array:
    """Resizes one image as `torch.nn.functional.interpolate(align_corners=False)` does.

    Pixels are squares: output pixel i is centred at (i + 1/2) scale - 1/2. Beyond the border the outermost pixel goes
    on; with antialias the filter is cut there and its weights brought back to sum one. Bicubic may overshoot the range
    of the input. Its coefficient is -0.75 without and -0.5 with antialias, as in torch and Pillow (Keys 1981).

    Args:
      x: image, shape (height, width, channels), floating point.
      output_shape: (height, width) of the output, in pixels.
      method: "bilinear", "bicubic" or "nearest": the pixel at floor(i scale), exactly; torch, which rounds the scale to
        float32, is a pixel off at a few sizes such as 2 to 82.
      antialias: widen the filter when shrinking, so that every input pixel counts; no effect when enlarging by
        "bilinear". Not for "nearest".

    Returns:
      Shape (*output_shape, channels), in the dtype of `x`.

    Raises:
      ValueError: `x` is not one image, the method is unknown, or antialias is asked of "nearest".
      TypeError: `x` is not floating point.
    """
    check_image("resize", x)
    output_shape = as_image_size("output_shape", output_shape)
    if method not in ("bilinear", "bicubic", "nearest"):
        raise ValueError(f"resize expects method 'bilinear', 'bicubic' or 'nearest', got {method!r}")
    if method == "nearest":
        if antialias:
            raise ValueError(
                "resize expects antialias=False with method 'nearest', which takes single pixels, got True"
            )
        for axis, n in enumerate(output_shape):
            # In integers: floor(i * size / n) by floating point is off by one where the quotient is a whole number.
            x = jnp.take(x, positions(n) * as_number(x.shape[axis]) // as_number(n), axis=axis)
        return x
    if antialias and not is_known((*x.shape, *output_shape)):
        raise ValueError(
            f"resize expects known sizes where antialias=True, got {x.shape} to {output_shape}; export it for one size"
        )
    for axis, n in enumerate(output_shape):
        weights = (_antialiased if antialias else _interpolating)(x.shape[axis], n, method)
        matrix = jnp.asarray(weights.astype(x.dtype))
        x = jnp.moveaxis(jnp.tensordot(matrix, x, (1, axis), precision="highest"), 0, axis)
    return x


def _interpolating(size: int, n: int, method: str) -> Any:
    """Returns the weights (n, size) of interpolation between the 2 or 4 nearest pixels."""
    row, pixel, size, n = positions(n), positions(size), as_number(size), as_number(n)
    # In integers: 2 n times the centre (i + 1/2) size / n - 1/2.
    scaled = (2 * row + 1) * size - n
    if method == "bilinear":
        scaled = scaled.clip(0)
    first = scaled // (2 * n)
    beyond = (scaled - first * 2 * n) / (2 * n)
    taps = range(2) if method == "bilinear" else range(-1, 3)
    return sum(
        _filter(beyond - tap, method, coefficient=-0.75)[:, None]
        * ((first + tap).clip(0, size - 1)[:, None] == pixel).astype(beyond.dtype)
        for tap in taps
    )


def _antialiased(size: int, n: int, method: str) -> np.ndarray:
    """Returns the weights (n, size) of a filter widened by the factor of shrinking, as Pillow computes them."""
    scale = size / n
    stretch = max(scale, 1.0)
    centre = (np.arange(n)[:, None] + 0.5) * scale
    pixel = np.arange(size)[None, :]
    reach = (1 if method == "bilinear" else 2) * stretch
    # Pillow rounds the ends of the filter's support to whole pixels; a pixel outside them has no weight.
    first = np.maximum(np.floor(centre - reach + 0.5), 0)
    last = np.minimum(np.floor(centre + reach + 0.5), size)
    weights = _filter((pixel + 0.5 - centre) / stretch, method, coefficient=-0.5)
    weights = np.where((pixel >= first) & (pixel < last), weights, 0)
    return weights / weights.sum(1, keepdims=True)


def _filter(distance: Any, method: str, coefficient: float) -> Any:
    """Evaluates the triangle, or Keys' cubic convolution kernel, at distances in pixels."""
    d = abs(distance)
    if method == "bilinear":
        return (1 - d).clip(0)
    a = coefficient
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = (((d - 5) * d + 8) * d - 4) * a
    choose = np.where if isinstance(d, np.ndarray) else jnp.where
    return choose(d < 1, near, choose(d < 2, far, 0))
