"""Augmentations that erase a part of the image."""

import math
from typing import Literal

import jax
import jax.numpy as jnp

from jaxcnn.data.augment.checks import check, check_interval, check_pixels, check_probability
from jaxcnn.data.augment.spatial import random_extents
from jaxcnn.data.augment.steps import photometric
from jaxcnn.ops.check import check_image, is_number


@photometric
def cutout(key: jax.Array, image: jax.Array, size: int, *, fill: float = 0.0) -> jax.Array:
    """Fills a square whose centre is any pixel of the image, all equally likely.

    The part of the square beyond the border is lost, so that as little as a quarter of it may remain
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
    check_pixels("cutout", "size", size, min(image.shape[:2]))
    height, width, _ = image.shape
    top, left = jax.random.randint(key, (2,), 0, jnp.array([height, width])) - size // 2
    rows, columns = jnp.arange(height)[:, None, None], jnp.arange(width)[None, :, None]
    inside = (rows >= top) & (rows < top + size) & (columns >= left) & (columns < left + size)
    return jnp.where(inside, jnp.asarray(fill, image.dtype), image)


@photometric
def random_erasing(
    key: jax.Array,
    image: jax.Array,
    *,
    probability: float = 0.5,
    scale: tuple[float, float] = (0.02, 0.33),
    ratio: tuple[float, float] = (0.3, 3.3),
    fill: float | Literal["noise"] = 0.0,
) -> jax.Array:
    """Blanks a rectangle of random area and shape inside the image, with the given probability (Zhong et al. 2020).

    Area, shape and place are distributed as in torchvision's `RandomErasing`: the first of ten rectangles that is
    smaller than the image in both directions is erased; if none is, nothing.

    Args:
      key: typed random key, consumed.
      image: shape (height, width, channels), floating point.
      probability: in [0, 1].
      scale: least and greatest area, as a share of the image; from 0 to 1.
      ratio: least and greatest height / width, above 0.
      fill: value inside the rectangle; or "noise", for independent values uniform in [0, 1] (section 3.2 of the paper;
        torchvision's are normal, since it erases after normalization).

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image, or an option is out of range.
      TypeError: `image` is not floating point.
    """
    check_image("random_erasing", image)
    check_probability("random_erasing", probability)
    check_interval("random_erasing", "scale", scale, 0, 1)
    check_interval("random_erasing", "ratio", ratio, 0, math.inf, above=True)
    check("random_erasing", "fill", fill, fill == "noise" or is_number(fill), "a number or 'noise'")
    area_key, ratio_key, place_key, chance_key, noise_key = jax.random.split(key, 5)
    height, width, _ = image.shape
    # Here the ratio is height / width, there width / height.
    extents = random_extents(area_key, ratio_key, width, height, scale, ratio)[:, ::-1]
    sides = jnp.array([height, width], jnp.int32)
    fits = (extents < sides).all(1)
    extent = extents[jnp.argmax(fits)]
    erases = fits.any() & jax.random.bernoulli(chance_key, float(probability))
    top_left = jax.random.randint(place_key, (2,), 0, jnp.maximum(sides - extent + 1, 1), jnp.int32)
    rows = jnp.arange(height, dtype=jnp.int32) - top_left[0]
    columns = jnp.arange(width, dtype=jnp.int32) - top_left[1]
    inside = ((rows >= 0) & (rows < extent[0]))[:, None] & ((columns >= 0) & (columns < extent[1]))[None, :]
    value = jnp.asarray(0.0 if fill == "noise" else fill, image.dtype)
    if fill == "noise":
        # Drawn in one row, as in `noise`.
        value = jax.random.uniform(noise_key, (image.size,), jnp.float32).reshape(image.shape).astype(image.dtype)
    return jnp.where((inside & erases)[..., None], value, image)
