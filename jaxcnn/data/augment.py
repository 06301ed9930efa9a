"""Random changes of one training image: pure, keyed, of unchanged shape and dtype.

Map them over a batch with one key for each image; the options are static:

    augment = compose(Step(shift, max_shift=2), Step(cutout, size=8))
    images = jax.vmap(augment)(jax.random.split(key, len(images)), images)

At zero strength every one of them is the identity.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.ops.check import check_image
from jaxcnn.values import Partial


def shift(key: jax.Array, image: jax.Array, max_shift: int, *, fill: float = 0.0) -> jax.Array:
    """Moves the image by a random whole number of pixels in each direction; nothing wraps around.

    Args:
      key: typed random key, consumed.
      image: shape (height, width, channels), floating point.
      max_shift: greatest distance in pixels, from 0 to less than the image; every distance is equally likely.
      fill: value of the pixels that come into view.

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image, or `max_shift` is out of range.
      TypeError: `image` is not floating point.
    """
    check_image("shift", image)
    _check_pixels("shift", "max_shift", max_shift, min(image.shape[:2]) - 1)
    sides = ((max_shift, max_shift), (max_shift, max_shift), (0, 0))
    return _crop(key, jnp.pad(image, sides, constant_values=fill), image.shape)


def random_crop(
    key: jax.Array, image: jax.Array, padding: int, *, border: Literal["zeros", "edge", "reflect"] = "zeros"
) -> jax.Array:
    """Pads the image on all sides and cuts a window of its own size out at random.

    Args:
      key: typed random key, consumed.
      image: shape (height, width, channels), floating point.
      padding: width of the border in pixels, from 0 to less than the image; every window is equally likely.
      border: what the padded pixels hold: zeros, the nearest pixel, or the mirror image without the edge itself.

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image, `padding` is out of range, or `border` is unknown.
      TypeError: `image` is not floating point.
    """
    check_image("random_crop", image)
    _check_pixels("random_crop", "padding", padding, min(image.shape[:2]) - 1)
    modes = {"zeros": "constant", "edge": "edge", "reflect": "reflect"}
    if border not in modes:
        raise ValueError(f"random_crop expects border 'zeros', 'edge' or 'reflect', got {border!r}")
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode=modes[border])
    return _crop(key, padded, image.shape)


def flip(
    key: jax.Array,
    image: jax.Array,
    *,
    axis: Literal["horizontal", "vertical"] = "horizontal",
    probability: float = 0.5,
) -> jax.Array:
    """Mirrors the image with the given probability.

    Args:
      key: typed random key, consumed.
      image: shape (height, width, channels), floating point.
      axis: "horizontal" swaps left and right, "vertical" top and bottom.
      probability: of mirroring, in [0, 1].

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image, `axis` is unknown, or `probability` is out of range.
      TypeError: `image` is not floating point.
    """
    check_image("flip", image)
    axes = {"horizontal": 1, "vertical": 0}
    if axis not in axes:
        raise ValueError(f"flip expects axis 'horizontal' or 'vertical', got {axis!r}")
    _check("flip", "probability", probability, 0 <= probability <= 1, "in [0, 1]")
    return jnp.where(jax.random.bernoulli(key, float(probability)), jnp.flip(image, axes[axis]), image)


def affine(
    key: jax.Array,
    image: jax.Array,
    *,
    max_degrees: float = 0.0,
    max_scale: float = 0.0,
    max_shear: float = 0.0,
    max_shift: float = 0.0,
    fill: float = 0.0,
) -> jax.Array:
    """Shears, scales, rotates and moves the image about its centre, in one bilinear resampling.

    Each amount is uniform in its interval, and those for down and right are drawn separately. Beyond
    the border all pixels hold `fill`, into which the outermost pixels of a turned image fade.

    Args:
      key: typed random key, consumed.
      image: shape (height, width, channels), floating point.
      max_degrees: greatest angle of rotation either way, in [0, 180].
      max_scale: the image grows by a factor in [1 - max_scale, 1 + max_scale]; in [0, 1).
      max_shear: greatest angle by which columns lean either way, in degrees, in [0, 90).
      max_shift: greatest distance in each direction, in pixels and fractions of them, at least 0.
      fill: value of the pixels beyond the border.

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image, or a greatest amount is out of range.
      TypeError: `image` is not floating point.
    """
    check_image("affine", image)
    height, width, _ = image.shape
    side = min(height, width)
    _check("affine", "max_degrees", max_degrees, 0 <= max_degrees <= 180, "in [0, 180]")
    _check("affine", "max_scale", max_scale, 0 <= max_scale < 1, "in [0, 1)")
    _check("affine", "max_shear", max_shear, 0 <= max_shear < 90, "in [0, 90)")
    _check("affine", "max_shift", max_shift, 0 <= max_shift < side, f"in [0, {side}), less than the image")
    # Four draws for what they are, whatever is switched off: an option left at zero changes no other amount.
    rotation, scale, shear, motion = jax.random.split(key, 4)
    rows, columns = _affine_coordinates(
        height,
        width,
        degrees=_uniform(rotation, max_degrees),
        scale=1 + _uniform(scale, max_scale),
        shear=_uniform(shear, max_shear),
        shift=_uniform(motion, max_shift, (2,)),
    )
    return _sample(image, rows, columns, fill)


def rotate(key: jax.Array, image: jax.Array, max_degrees: float, *, fill: float = 0.0) -> jax.Array:
    """Rotates the image about its centre by a random angle: `affine` with nothing else.

    Args:
      key: typed random key, consumed.
      image: shape (height, width, channels), floating point.
      max_degrees: greatest angle either way, in [0, 180].
      fill: value of the pixels beyond the border.

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image, or `max_degrees` is out of range.
      TypeError: `image` is not floating point.
    """
    check_image("rotate", image)
    _check("rotate", "max_degrees", max_degrees, 0 <= max_degrees <= 180, "in [0, 180]")
    return affine(key, image, max_degrees=max_degrees, fill=fill)


def brightness(key: jax.Array, image: jax.Array, max_delta: float) -> jax.Array:
    """Adds one random number to all pixels, and clips to [0, 1].

    Args:
      key: typed random key, consumed.
      image: shape (height, width, channels), floating point in [0, 1].
      max_delta: the number is uniform in [-max_delta, max_delta]; in [0, 1].

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image, or `max_delta` is out of range.
      TypeError: `image` is not floating point.
    """
    check_image("brightness", image)
    _check("brightness", "max_delta", max_delta, 0 <= max_delta <= 1, "in [0, 1]")
    return jnp.clip(image + _uniform(key, max_delta).astype(image.dtype), 0, 1)


def contrast(key: jax.Array, image: jax.Array, max_factor: float) -> jax.Array:
    """Stretches the pixels by one random factor about their mean, and clips to [0, 1].

    Args:
      key: typed random key, consumed.
      image: shape (height, width, channels), floating point in [0, 1].
      max_factor: the factor is uniform in [1 - max_factor, 1 + max_factor]; in [0, 1]. At factor 0 every
        value is the mean over all pixels and channels.

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image, or `max_factor` is out of range.
      TypeError: `image` is not floating point.
    """
    check_image("contrast", image)
    _check("contrast", "max_factor", max_factor, 0 <= max_factor <= 1, "in [0, 1]")
    # As a difference from the image, since mean + (image - mean) is not exactly the image.
    stretch = _uniform(key, max_factor).astype(image.dtype) * (image - jnp.mean(image))
    return jnp.clip(image + stretch, 0, 1)


def noise(key: jax.Array, image: jax.Array, std: float) -> jax.Array:
    """Adds independent Gaussian noise to every value, and clips to [0, 1].

    Args:
      key: typed random key, consumed.
      image: shape (height, width, channels), floating point in [0, 1].
      std: standard deviation before clipping, at least 0.

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image, or `std` is out of range.
      TypeError: `image` is not floating point.
    """
    check_image("noise", image)
    _check("noise", "std", std, 0 <= std < math.inf, "finite and at least 0")
    # Drawn in one row: XLA for the CPU takes seconds to compile random numbers of several axes.
    added = std * jax.random.normal(key, (image.size,), jnp.float32).reshape(image.shape)
    return jnp.clip(image + added.astype(image.dtype), 0, 1)


def cutout(key: jax.Array, image: jax.Array, size: int, *, fill: float = 0.0) -> jax.Array:
    """Blanks a square whose centre is any pixel of the image, all equally likely.

    The part of the square beyond the border is lost, so that as little as a quarter of it may be left
    (DeVries and Taylor 2017, "Improved Regularization of Convolutional Neural Networks with Cutout",
    section 3). The pixel (size // 2, size // 2) of the square is its centre.

    Args:
      key: typed random key, consumed.
      image: shape (height, width, channels), floating point.
      size: side of the square in pixels, from 0 to the shorter side of the image.
      fill: value inside the square, in all channels.

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image, or `size` is out of range.
      TypeError: `image` is not floating point.
    """
    check_image("cutout", image)
    _check_pixels("cutout", "size", size, min(image.shape[:2]))
    height, width, _ = image.shape
    top, left = jax.random.randint(key, (2,), 0, jnp.array([height, width])) - size // 2
    rows, columns = jnp.arange(height)[:, None, None], jnp.arange(width)[None, :, None]
    inside = (rows >= top) & (rows < top + size) & (columns >= left) & (columns < left + size)
    return jnp.where(inside, jnp.asarray(fill, image.dtype), image)


def elastic(key: jax.Array, image: jax.Array, *, alpha: float, sigma: float, fill: float = 0.0) -> jax.Array:
    """Moves every pixel along a smooth random field, by bilinear resampling.

    The field is uniform in [-1, 1] at each pixel and in each direction, smoothed by a Gaussian, times
    alpha (Simard, Steinkraus and Platt 2003, "Best Practices for Convolutional Neural Networks Applied
    to Visual Document Analysis", section 2). Away from the border, and with sigma above 1, the distance
    in one direction has standard deviation 0.163 alpha / sigma pixels.

    Args:
      key: typed random key, consumed.
      image: shape (height, width, channels), floating point.
      alpha: factor on the smoothed field, in pixels, at least 0.
      sigma: standard deviation of the Gaussian in pixels, above 0 and at most the longer side of the
        image; it is cut off at 4 sigma, and beyond the border the field is zero.
      fill: value of the pixels beyond the border of the image.

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image, or `alpha` or `sigma` is out of range.
      TypeError: `image` is not floating point.
    """
    check_image("elastic", image)
    height, width, _ = image.shape
    side = max(height, width)
    _check("elastic", "alpha", alpha, 0 <= alpha < math.inf, "finite and at least 0")
    _check("elastic", "sigma", sigma, 0 < sigma <= side, f"above 0 and at most {side}, the longer side of the image")
    # Drawn in one row, as in `noise`.
    field = jax.random.uniform(key, (2 * height * width,), jnp.float32, -1, 1).reshape(2, height, width)
    down, right = alpha * _smooth(field, sigma)
    rows, columns = jnp.arange(height, dtype=jnp.float32), jnp.arange(width, dtype=jnp.float32)
    return _sample(image, rows[:, None] + down, columns[None, :] + right, fill)


class Step(Partial):
    """One augmentation with its options: a hashable value that is called as `step(key, image)`.

        Step(random_crop, padding=4, border="reflect")

    Args:
      function: called as function(key, image, **options); defined at the top of a module, since a
        lambda or a nested function differs from its own twin and would be compiled anew each time.
      **options: keyword arguments of the function, hashable.

    Raises:
      ValueError: `function` is not defined at the top of a module.
      TypeError: the function does not take these options, or one cannot be hashed.
    """

    def __init__(self, function: Callable[..., jax.Array], /, **options: Any):
        if "<" in getattr(function, "__qualname__", "<"):
            raise ValueError(f"Step expects a function defined at the top of a module, got {function!r}")
        signature = inspect.signature(function)
        try:
            signature.bind("key", "image", **options)
        except TypeError as error:
            known, given = list(signature.parameters)[2:], list(options)
            raise TypeError(f"{function.__name__} takes the options {known}, got {given}: {error}") from None
        super().__init__(function, **options)


@dataclasses.dataclass(frozen=True, repr=False)
class Composition:
    """Augmentations one after the other, as `compose` builds them: a hashable value, called as a `Step` is."""

    steps: tuple["Step | Composition", ...]

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """Applies the steps to one image, each with its own key."""
        for index, step in enumerate(self.steps):
            try:
                image = step(jax.random.fold_in(key, index), image)
            except Exception as error:
                error.add_note(f"in augmentation step {index}: {step!r}")
                raise
        return image

    def __repr__(self) -> str:
        return f"compose({', '.join(map(repr, self.steps))})"


def compose(*steps: Step | Composition) -> Composition:
    """Chains augmentations into one, to be called as `augment(key, image)`.

    The step at place i draws from `fold_in(key, i)`: steps added at the end leave the draws of the
    earlier ones as they are. No steps at all is the identity.

    Args:
      steps: applied from left to right; a composition may stand among them.

    Returns:
      A hashable value; equal steps make equal compositions.

    Raises:
      TypeError: a step is neither a `Step` nor a `Composition`.
    """
    for step in steps:
        if not isinstance(step, Step | Composition):
            raise TypeError(f"compose expects steps, as Step(shift, max_shift=2), got {step!r}")
    return Composition(steps)


def _crop(key: jax.Array, padded: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Cuts a window of the given shape out of the image, every place being equally likely."""
    rows, columns = padded.shape[0] - shape[0], padded.shape[1] - shape[1]
    top, left = jax.random.randint(key, (2,), 0, jnp.array([rows + 1, columns + 1]))
    return jax.lax.dynamic_slice(padded, (top, left, 0), shape)


def _uniform(key: jax.Array, greatest: float, shape: tuple[int, ...] = ()) -> jax.Array:
    return jax.random.uniform(key, shape, jnp.float32, -greatest, greatest)


def _affine_coordinates(
    height: int, width: int, *, degrees: jax.Array, scale: jax.Array, shear: jax.Array, shift: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns where in the image each pixel of the result comes from: rows and columns, each (height, width).

    The image is sheared, scaled, rotated counter-clockwise and shifted by (down, right); the way back is
    written out term by term, since a matrix product is rounded coarsely on some accelerators.
    """
    centre_row, centre_column = (height - 1) / 2, (width - 1) / 2
    down = jnp.arange(height, dtype=jnp.float32)[:, None] - centre_row - shift[0]
    right = jnp.arange(width, dtype=jnp.float32)[None, :] - centre_column - shift[1]
    cos, sin = jnp.cos(jnp.deg2rad(degrees)), jnp.sin(jnp.deg2rad(degrees))
    down, right = cos * down + sin * right, cos * right - sin * down
    right = right - jnp.tan(jnp.deg2rad(shear)) * down
    return down / scale + centre_row, right / scale + centre_column


def _sample(image: jax.Array, rows: jax.Array, columns: jax.Array, fill: float) -> jax.Array:
    """Interpolates the image bilinearly at the given places; beyond the border every pixel holds `fill`."""
    # Half precision cannot even number the pixels of a large image: weights and sums are in float32.
    dtype = jnp.float64 if image.dtype == jnp.float64 else jnp.float32
    coordinates = [rows.astype(dtype), columns.astype(dtype)]

    def sample_channel(channel: jax.Array) -> jax.Array:
        return jax.scipy.ndimage.map_coordinates(channel, coordinates, order=1, mode="constant", cval=fill)

    return jax.vmap(sample_channel, in_axes=2, out_axes=2)(image.astype(dtype)).astype(image.dtype)


def _smooth(field: jax.Array, sigma: float) -> jax.Array:
    """Convolves the last two axes with a Gaussian of integral one, cut off at 4 sigma, over zeros beyond the border."""
    rows, columns = (jnp.asarray(_gaussian_matrix(size, sigma), field.dtype) for size in field.shape[-2:])
    return jnp.einsum("ih,jw,...hw->...ij", rows, columns, field, precision="highest")


def _gaussian_matrix(size: int, sigma: float) -> np.ndarray:
    radius = int(4 * sigma + 0.5)
    total = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2).sum()
    distance = np.subtract.outer(np.arange(size), np.arange(size))
    return np.where(np.abs(distance) <= radius, np.exp(-0.5 * (distance / sigma) ** 2) / total, 0.0)


def _check_pixels(function: str, name: str, value: int, high: int) -> None:
    valid = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= high
    _check(function, name, value, valid, f"a whole number of pixels from 0 to {high} for this image")


def _check(function: str, name: str, value: float, valid: bool, expected: str) -> None:
    if not valid:
        raise ValueError(f"{function} expects {name} {expected}, got {value!r}")
