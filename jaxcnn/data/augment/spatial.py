"""Augmentations that move pixels: shifts, crops, flips, affine, perspective and elastic maps."""

import math
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.data.augment.checks import check, check_interval, check_pixels, check_probability, uniform
from jaxcnn.data.augment.steps import geometric
from jaxcnn.data.geometry import Border, Mirror, Resampling, ResizedWindow, Window, projective
from jaxcnn.ops.check import as_pair, check_image, is_int

Axis: TypeAlias = Literal["horizontal", "vertical"]


def _draw_shift(key: jax.Array, height: int, width: int, *, max_shift: int) -> Window:
    check_pixels("shift", "max_shift", max_shift, min(height, width) - 1)
    return Window(max_shift, _corner(key, max_shift))


def _draw_crop(key: jax.Array, height: int, width: int, *, padding: int, border: Border = "zeros") -> Window:
    check_pixels("random_crop", "padding", padding, min(height, width) - 1)
    if border not in ("zeros", "edge", "reflect"):
        raise ValueError(f"random_crop expects border 'zeros', 'edge' or 'reflect', got {border!r}")
    return Window(padding, _corner(key, padding), border)


def _corner(key: jax.Array, padding: int) -> jax.Array:
    """Draws the place of a window; every place is equally likely."""
    return jax.random.randint(key, (2,), 0, 2 * padding + 1)


def _draw_flip(
    key: jax.Array,
    height: int,
    width: int,
    *,
    axis: Axis = "horizontal",
    probability: float = 0.5,
) -> Mirror:
    check_probability("flip", probability)
    return Mirror(jax.random.bernoulli(key, float(probability)), _axis("flip", axis))


def _axis(function: str, axis: Axis) -> int:
    axes = {"horizontal": 1, "vertical": 0}
    if axis not in axes:
        raise ValueError(f"{function} expects axis 'horizontal' or 'vertical', got {axis!r}")
    return axes[axis]


def _draw_alternating_flip(
    key: jax.Array,
    height: int,
    width: int,
    *,
    index: jax.Array,
    epoch: jax.Array,
    axis: Axis = "horizontal",
    seed: int = 0,
) -> Mirror:
    check("alternating_flip", "seed", seed, is_int(seed) and 0 <= seed < 2**32, "a whole number from 0 to 2**32 - 1")
    first = jax.random.bernoulli(jax.random.fold_in(jax.random.key(seed), index))
    return Mirror(first ^ (epoch % 2 == 1), _axis("alternating_flip", axis))


def _draw_resized_crop(
    key: jax.Array,
    height: int,
    width: int,
    *,
    size: int | tuple[int, int] | None = None,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
) -> ResizedWindow:
    check_interval("random_resized_crop", "scale", scale, 0, 1, above=True)
    check_interval("random_resized_crop", "ratio", ratio, 0, math.inf, above=True)
    if interpolation not in ("bilinear", "bicubic"):
        raise ValueError(f"random_resized_crop expects interpolation 'bilinear' or 'bicubic', got {interpolation!r}")
    shape = (height, width) if size is None else as_pair("random_resized_crop: size", size)
    area_key, ratio_key, place_key = jax.random.split(key, 3)
    extents = random_extents(area_key, ratio_key, height, width, scale, ratio)
    # If no draw fits into the image: the largest window at its centre.
    shapes = width / height
    bounded = min(max(shapes, ratio[0]), ratio[1])
    central = np.array([max(1, min(height, round(width / bounded))), max(1, min(width, round(height * bounded)))])
    sides = jnp.array([height, width], jnp.int32)
    fits = ((extents > 0) & (extents <= sides)).all(1)
    extent = jnp.where(fits.any(), extents[jnp.argmax(fits)], jnp.asarray(central, jnp.int32))
    random_place = jax.random.randint(place_key, (2,), 0, sides - extent + 1, jnp.int32)
    return ResizedWindow(jnp.where(fits.any(), random_place, (sides - extent) // 2), extent, shape, interpolation)


def _draw_perspective(
    key: jax.Array, height: int, width: int, *, distortion: float = 0.5, probability: float = 0.5
) -> Resampling:
    check("perspective", "distortion", distortion, 0 <= distortion <= 1, "in [0, 1]")
    check_probability("perspective", probability)
    corner_key, chance_key = jax.random.split(key)
    # How far each corner moves inward, from the first one clockwise: down or up, and right or left.
    bounds = jnp.array([int(distortion * (height // 2)) + 1, int(distortion * (width // 2)) + 1], jnp.int32)
    inward = jax.random.randint(corner_key, (4, 2), 0, bounds, jnp.int32)
    inward = jnp.where(jax.random.bernoulli(chance_key, float(probability)), inward, 0)
    corners = jnp.array([[0, 0], [0, width - 1], [height - 1, width - 1], [height - 1, 0]], jnp.int32)
    directions = jnp.array([[1, 1], [1, -1], [-1, -1], [-1, 1]], jnp.int32)
    return projective(
        perspective_matrix((corners + directions * inward).astype(jnp.float32), height, width), height, width
    )


def _draw_affine(
    key: jax.Array,
    height: int,
    width: int,
    *,
    max_degrees: float = 0.0,
    max_scale: float = 0.0,
    max_shear: float = 0.0,
    max_shift: float = 0.0,
) -> Resampling:
    side = min(height, width)
    check("affine", "max_degrees", max_degrees, 0 <= max_degrees <= 180, "in [0, 180]")
    check("affine", "max_scale", max_scale, 0 <= max_scale < 1, "in [0, 1)")
    check("affine", "max_shear", max_shear, 0 <= max_shear < 90, "in [0, 90)")
    check("affine", "max_shift", max_shift, 0 <= max_shift < side, f"in [0, {side}), less than the image")
    # Always four draws: an option at zero does not change the other amounts.
    rotation, scale, shear, motion = jax.random.split(key, 4)
    return _affine_coordinates(
        height,
        width,
        degrees=uniform(rotation, max_degrees),
        scale=1 + uniform(scale, max_scale),
        shear=uniform(shear, max_shear),
        shift=uniform(motion, max_shift, (2,)),
    )


def _draw_rotation(key: jax.Array, height: int, width: int, *, max_degrees: float) -> Resampling:
    check("rotate", "max_degrees", max_degrees, 0 <= max_degrees <= 180, "in [0, 180]")
    return _draw_affine(key, height, width, max_degrees=max_degrees)


def _draw_elastic(key: jax.Array, height: int, width: int, *, alpha: float, sigma: float) -> Resampling:
    side = max(height, width)
    check("elastic", "alpha", alpha, 0 <= alpha < math.inf, "finite and at least 0")
    check("elastic", "sigma", sigma, 0 < sigma <= side, f"above 0 and at most {side}, the longer side of the image")
    # Drawn in one row, as in `noise`.
    field = jax.random.uniform(key, (2 * height * width,), jnp.float32, -1, 1).reshape(2, height, width)
    down, right = alpha * _smooth(field, sigma)
    rows, columns = jnp.arange(height, dtype=jnp.float32), jnp.arange(width, dtype=jnp.float32)
    return Resampling(rows[:, None] + down, columns[None, :] + right)


@geometric(_draw_shift)
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
    return _draw_shift(key, *image.shape[:2], max_shift=max_shift).image(image, fill)


@geometric(_draw_crop)
def random_crop(key: jax.Array, image: jax.Array, padding: int, *, border: Border = "zeros") -> jax.Array:
    """Pads the image on all sides, and cuts out a random window of the image's size.

    Args:
      key: typed random key, consumed.
      image: shape (height, width, channels), floating point.
      padding: width of the border in pixels, from 0 to less than the image; every window is equally likely.
      border: values of the padded pixels: "zeros"; "edge", the nearest pixel; or "reflect", the mirror image without
        the edge itself.

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image, `padding` is out of range, or `border` is unknown.
      TypeError: `image` is not floating point.
    """
    check_image("random_crop", image)
    return _draw_crop(key, *image.shape[:2], padding=padding, border=border).image(image, 0)


@geometric(_draw_flip)
def flip(
    key: jax.Array,
    image: jax.Array,
    *,
    axis: Axis = "horizontal",
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
    return _draw_flip(key, *image.shape[:2], axis=axis, probability=probability).image(image, 0)


@geometric(_draw_alternating_flip, reads=("index", "epoch"))
def alternating_flip(
    key: jax.Array,
    image: jax.Array,
    *,
    index: jax.Array,
    epoch: jax.Array,
    axis: Axis = "horizontal",
    seed: int = 0,
) -> jax.Array:
    """Mirrors the image in every second epoch: half of the images in the even ones, the other half in the odd ones.

    So two successive epochs hold each image and its mirror image, where independent flips repeat half of the images
    (Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", section 3.6). A `Step` takes `index` and `epoch`
    from the example.

    Args:
      key: typed random key; it is not used, since the choice depends on `seed`, `index` and `epoch` alone.
      image: shape (height, width, channels), floating point.
      index: of the example in its source, integer, shape ().
      epoch: counted from 0, integer, shape ().
      axis: "horizontal" swaps left and right, "vertical" top and bottom.
      seed: draws the half that is mirrored first.

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image, `axis` is unknown, or `seed` is out of range.
      TypeError: `image` is not floating point.
    """
    check_image("alternating_flip", image)
    geometry = _draw_alternating_flip(key, *image.shape[:2], index=index, epoch=epoch, axis=axis, seed=seed)
    return geometry.image(image, 0)


@geometric(_draw_resized_crop)
def random_resized_crop(
    key: jax.Array,
    image: jax.Array,
    size: int | tuple[int, int] | None = None,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
) -> jax.Array:
    """Cuts a window of random area and shape out, and resizes it (Szegedy et al. 2015, section 6).

    The area is uniform, the logarithm of the ratio too, and every place is equally likely. The first of ten windows
    that fits into the image is taken; if none does, the largest at the centre whose ratio is in range. The
    distributions and the interpolation, with antialias, are those of torchvision's `RandomResizedCrop`.

    Args:
      key: typed random key, consumed.
      image: shape (height, width, channels), floating point.
      size: (height, width) of the result in pixels, or one number for both. Default: that of `image`.
      scale: least and greatest area of the window, as a share of the image; above 0 and at most 1.
      ratio: least and greatest width / height of the window in pixels, above 0.
      interpolation: "bilinear" or "bicubic"; the latter overshoots, and is clipped to [0, 1].

    Returns:
      Shape (*size, channels), in the dtype of `image`.

    Raises:
      ValueError: `image` is not one image, or an option is out of range or unknown.
      TypeError: `image` is not floating point.
    """
    check_image("random_resized_crop", image)
    geometry = _draw_resized_crop(
        key, *image.shape[:2], size=size, scale=scale, ratio=ratio, interpolation=interpolation
    )
    resized = geometry.image(image, 0)
    return jnp.clip(resized, 0, 1) if interpolation == "bicubic" else resized


@geometric(_draw_perspective)
def perspective(
    key: jax.Array,
    image: jax.Array,
    *,
    distortion: float = 0.5,
    probability: float = 0.5,
    fill: float = 0.0,
) -> jax.Array:
    """Views the image from a random side, with the given probability: each corner moves inward, independently.

    The distances down and to the side are whole numbers, uniform from 0 to `distortion` / 2 of height and width, as in
    torchvision's `RandomPerspective`. The resampling is bilinear. Beyond the border all pixels hold `fill`.

    Args:
      key: typed random key, consumed.
      image: shape (height, width, channels), floating point, of at least 2 pixels in height and width.
      distortion: share of half the image by which a corner moves at most, in [0, 1].
      probability: of any change, in [0, 1].
      fill: value of the pixels beyond the border.

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image, or too small, or an option is out of range.
      TypeError: `image` is not floating point.
    """
    check_image("perspective", image)
    if min(image.shape[:2]) < 2:
        raise ValueError(f"perspective expects an image of at least 2 x 2 pixels, got shape {image.shape}")
    geometry = _draw_perspective(key, *image.shape[:2], distortion=distortion, probability=probability)
    return geometry.image(image, fill)


@geometric(_draw_affine)
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

    Each amount is uniform in its interval, and the shifts down and right are drawn separately. Beyond
    the border all pixels hold `fill`, into which the outermost pixels of a rotated image fade.

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
    geometry = _draw_affine(
        key,
        *image.shape[:2],
        max_degrees=max_degrees,
        max_scale=max_scale,
        max_shear=max_shear,
        max_shift=max_shift,
    )
    return geometry.image(image, fill)


@geometric(_draw_rotation)
def rotate(key: jax.Array, image: jax.Array, max_degrees: float, *, fill: float = 0.0) -> jax.Array:
    """Rotates the image about its centre by a random angle: `affine` with `max_degrees` alone.

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
    return _draw_rotation(key, *image.shape[:2], max_degrees=max_degrees).image(image, fill)


@geometric(_draw_elastic)
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
    return _draw_elastic(key, *image.shape[:2], alpha=alpha, sigma=sigma).image(image, fill)


def _affine_coordinates(
    height: int, width: int, *, degrees: jax.Array, scale: jax.Array, shear: jax.Array, shift: jax.Array
) -> Resampling:
    """Returns where in the image each pixel of the result comes from.

    The image is sheared, scaled, rotated counter-clockwise and shifted by (down, right). The inverse is
    written out term by term, since a matrix product is rounded coarsely on some accelerators.
    """
    centre_row, centre_column = (height - 1) / 2, (width - 1) / 2
    down = jnp.arange(height, dtype=jnp.float32)[:, None] - centre_row - shift[0]
    right = jnp.arange(width, dtype=jnp.float32)[None, :] - centre_column - shift[1]
    cos, sin = jnp.cos(jnp.deg2rad(degrees)), jnp.sin(jnp.deg2rad(degrees))
    down, right = cos * down + sin * right, cos * right - sin * down
    right = right - jnp.tan(jnp.deg2rad(shear)) * down
    return Resampling(
        down / scale + centre_row,
        right / scale + centre_column,
        _affine_matrix(height, width, cos, sin, scale, shear, shift),
    )


def _affine_matrix(
    height: int,
    width: int,
    cos: jax.Array,
    sin: jax.Array,
    scale: jax.Array,
    shear: jax.Array,
    shift: jax.Array,
) -> jax.Array:
    """Returns the map of `_affine_coordinates` as a matrix of edges, shape (3, 3)."""
    lean = jnp.tan(jnp.deg2rad(shear))
    linear = jnp.stack([jnp.stack([cos, sin]), jnp.stack([-sin - lean * cos, cos - lean * sin])]) / scale
    centre = jnp.array([height / 2, width / 2], jnp.float32)
    return about(linear, centre, shift.astype(jnp.float32))


def about(linear: jax.Array, centre: jax.Array, shift: jax.Array) -> jax.Array:
    """Writes a linear map from the result to the image about a centre as a projective one.

    Args:
      linear: of (row, column), shape (2, 2).
      centre: (row, column), shape (2,).
      shift: distances (down, right) by which the image moves before, shape (2,).

    Returns:
      Shape (3, 3), float32.
    """
    start = centre + shift
    constant = centre - linear[:, 0] * start[0] - linear[:, 1] * start[1]
    return jnp.concatenate([jnp.column_stack([linear, constant]), jnp.array([[0.0, 0.0, 1.0]], jnp.float32)])


def perspective_matrix(corners: jax.Array, height: int, width: int) -> jax.Array:
    """Returns the projective map that takes four corners to those of the image.

    The formulas are those of Heckbert 1989, "Fundamentals of Texture Mapping and Image Warping", section 2.2.3.

    Args:
      corners: (row, column) of the corners in the result, from the first one clockwise, float32, shape (4, 2).
      height: of the image; its last corner is at height - 1, as torchvision has it.
      width: of the image.

    Returns:
      From (row, column, 1) in the result to the image, shape (3, 3).
    """
    (y0, x0), (y1, x1), (y2, x2), (y3, x3) = corners
    dx1, dx2, dx3 = x1 - x2, x3 - x2, x0 - x1 + x2 - x3
    dy1, dy2, dy3 = y1 - y2, y3 - y2, y0 - y1 + y2 - y3
    determinant = dx1 * dy2 - dx2 * dy1
    g, h = (dx3 * dy2 - dx2 * dy3) / determinant, (dx1 * dy3 - dx3 * dy1) / determinant
    # From the unit square (v, u) to the corners (row, column), by columns.
    of_v = jnp.stack([y3 - y0 + h * y3, x3 - x0 + h * x3, h]) / (height - 1)
    of_u = jnp.stack([y1 - y0 + g * y1, x1 - x0 + g * x1, g]) / (width - 1)
    of_one = jnp.stack([y0, x0, jnp.ones_like(y0)])
    # The adjugate, by rows: the inverse but for a factor.
    adjugate = jnp.stack([jnp.cross(of_u, of_one), jnp.cross(of_one, of_v), jnp.cross(of_v, of_u)])
    return adjugate / adjugate[2, 2]


def random_extents(
    area_key: jax.Array,
    ratio_key: jax.Array,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> jax.Array:
    """Draws ten sizes of windows, of uniform area and uniform logarithm of width / height.

    Args:
      area_key: typed random key, consumed.
      ratio_key: typed random key, consumed.
      height: of the image.
      width: of the image.
      scale: least and greatest area, as a share of the image.
      ratio: least and greatest width / height.

    Returns:
      (height, width) in whole pixels, int32, shape (10, 2); they may exceed the image.
    """
    areas = height * width * jax.random.uniform(area_key, (10,), jnp.float32, *scale)
    logarithms = jax.random.uniform(ratio_key, (10,), jnp.float32, math.log(ratio[0]), math.log(ratio[1]))
    shapes = jnp.exp(logarithms)
    return jnp.round(jnp.sqrt(jnp.stack([areas / shapes, areas * shapes], axis=1))).astype(jnp.int32)


def _smooth(field: jax.Array, sigma: float) -> jax.Array:
    """Convolves the last two axes with a Gaussian of integral one, cut off at 4 sigma, over zeros beyond the border."""
    rows, columns = (jnp.asarray(_gaussian_matrix(size, sigma), field.dtype) for size in field.shape[-2:])
    return jnp.einsum("ih,jw,...hw->...ij", rows, columns, field, precision="highest")


def _gaussian_matrix(size: int, sigma: float) -> np.ndarray:
    radius = int(4 * sigma + 0.5)
    total = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2).sum()
    distance = np.subtract.outer(np.arange(size), np.arange(size))
    return np.where(np.abs(distance) <= radius, np.exp(-0.5 * (distance / sigma) ** 2) / total, 0.0)
