"""Augmentations of images with objects: crops and changes of scale of SSD and of later detectors."""

import math

import jax
import jax.numpy as jnp

from jaxcnn.data.augment.checks import check, check_interval, check_probability
from jaxcnn.data.augment.steps import geometric
from jaxcnn.data.geometry import ResizedWindow, Viewport
from jaxcnn.ops.boxes import pairwise_iou
from jaxcnn.ops.check import as_pair, check_image, is_number

_TRIALS = 50
"""Windows that are drawn for a crop, as in SSD."""


def _draw_iou_crop(
    key: jax.Array,
    height: int,
    width: int,
    *,
    boxes: jax.Array,
    valid: jax.Array,
    size: int | tuple[int, int] | None = None,
    least_overlaps: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0),
    scale: tuple[float, float] = (0.3, 1.0),
    ratio: tuple[float, float] = (0.5, 2.0),
) -> ResizedWindow:
    valid_overlaps = isinstance(least_overlaps, tuple) and least_overlaps
    numbers = valid_overlaps and all(is_number(one) and 0 <= one <= 1 for one in least_overlaps)
    check("random_iou_crop", "least_overlaps", least_overlaps, bool(numbers), "a tuple of numbers in [0, 1]")
    check_interval("random_iou_crop", "scale", scale, 0, 1, above=True)
    check_interval("random_iou_crop", "ratio", ratio, 0, math.inf, above=True)
    shape = (height, width) if size is None else as_pair("random_iou_crop: size", size)
    overlap_key, side_key, place_key = jax.random.split(key, 3)
    least = jax.random.choice(overlap_key, jnp.asarray(least_overlaps, jnp.float32))
    image = jnp.array([height, width], jnp.float32)
    sides = jnp.floor(image * jax.random.uniform(side_key, (_TRIALS, 2), jnp.float32, *scale)).clip(1)
    corners = jnp.floor((image - sides) * jax.random.uniform(place_key, (_TRIALS, 2), jnp.float32))
    shapes = sides[:, 1] / sides[:, 0]
    windows = jnp.concatenate([corners, corners + sides], axis=1)[:, jnp.array([1, 0, 3, 2])]
    boxes = boxes.astype(jnp.float32)
    overlaps = jnp.where(valid, pairwise_iou(windows, boxes), 0).max(1, initial=0)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((centres >= windows[:, None, :2]) & (centres < windows[:, None, 2:])).all(2) & valid
    good = ((overlaps >= least) & inside.any(1)) | ~valid.any()
    good &= (shapes >= ratio[0]) & (shapes <= ratio[1])
    cropped = good.any() & (least < 1)
    chosen = jnp.argmax(good)
    top_left = jnp.where(cropped, corners[chosen], 0).astype(jnp.int32)
    return ResizedWindow(top_left, jnp.where(cropped, sides[chosen], image).astype(jnp.int32), shape)


def _draw_zoom_out(
    key: jax.Array, height: int, width: int, *, max_scale: float = 4.0, probability: float = 0.5
) -> Viewport:
    check("zoom_out", "max_scale", max_scale, is_number(max_scale) and 1 <= max_scale < math.inf, "of at least 1")
    check_probability("zoom_out", probability)
    chance_key, scale_key, place_key = jax.random.split(key, 3)
    scale = jax.random.uniform(scale_key, (), jnp.float32, 1.0, max_scale)
    scale = jnp.where(jax.random.bernoulli(chance_key, float(probability)), scale, 1.0)
    image = jnp.array([height, width], jnp.float32)
    top_left = -image * (scale - 1) * jax.random.uniform(place_key, (2,), jnp.float32)
    return Viewport(top_left, image * scale, (height, width))


def _draw_scale_jitter(
    key: jax.Array,
    height: int,
    width: int,
    *,
    size: int | tuple[int, int] | None = None,
    scale: tuple[float, float] = (0.1, 2.0),
) -> Viewport:
    check_interval("scale_jitter", "scale", scale, 0, math.inf, above=True)
    shape = (height, width) if size is None else as_pair("scale_jitter: size", size)
    scale_key, place_key = jax.random.split(key)
    factor = jax.random.uniform(scale_key, (), jnp.float32, *scale) * min(shape[0] / height, shape[1] / width)
    extent = jnp.array(shape, jnp.float32) / factor
    spare = jnp.maximum(jnp.array([height, width], jnp.float32) - extent, 0)
    return Viewport(spare * jax.random.uniform(place_key, (2,), jnp.float32), extent, shape)


@geometric(_draw_iou_crop, reads=("boxes", "valid"), centred=True)
def random_iou_crop(
    key: jax.Array,
    image: jax.Array,
    *,
    boxes: jax.Array,
    valid: jax.Array,
    size: int | tuple[int, int] | None = None,
    least_overlaps: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0),
    scale: tuple[float, float] = (0.3, 1.0),
    ratio: tuple[float, float] = (0.5, 2.0),
) -> jax.Array:
    """Cuts out a window that overlaps an object, and resizes it (Liu et al. 2016, "SSD", section 2.2).

    One of `least_overlaps` is drawn, and 50 windows. The first one counts that has the centre of an object in it, and
    with some object an intersection over union of at least that number. The whole image is kept if there is none, and
    for the number 1. Without objects, any window counts. A `Step` takes `boxes` and `valid` from the example, and keeps
    the objects whose centre is in the window.

    Args:
      key: typed random key, consumed.
      image: shape (height, width, channels), floating point.
      boxes: edges (left, top, right, bottom) in pixels, shape (objects, 4).
      valid: which of them are objects, bool, shape (objects,).
      size: of the result, (height, width) or one number for both; None for the size of the image.
      least_overlaps: the numbers, in [0, 1].
      scale: least and greatest part of each side of the image, in (0, 1]; both sides are drawn separately.
      ratio: least and greatest width / height of the window, above 0.

    Returns:
      Shape (*size, channels), in the dtype of `image`.

    Raises:
      ValueError: `image` is not one image, or an option is out of range.
      TypeError: `image` is not floating point.
    """
    check_image("random_iou_crop", image)
    options = {"size": size, "least_overlaps": least_overlaps, "scale": scale, "ratio": ratio}
    return _draw_iou_crop(key, *image.shape[:2], boxes=boxes, valid=valid, **options).image(image, 0)


@geometric(_draw_zoom_out)
def zoom_out(
    key: jax.Array, image: jax.Array, *, max_scale: float = 4.0, probability: float = 0.5, fill: float = 0.0
) -> jax.Array:
    """Puts the image on a larger canvas at random, and scales the canvas to its size (SSD, section 3.6).

    Args:
      key: typed random key, consumed.
      image: shape (height, width, channels), floating point.
      max_scale: the sides of the canvas are those of the image times a number in [1, max_scale].
      probability: of any change, in [0, 1].
      fill: value of the canvas.

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image, or an option is out of range.
      TypeError: `image` is not floating point.
    """
    check_image("zoom_out", image)
    return _draw_zoom_out(key, *image.shape[:2], max_scale=max_scale, probability=probability).image(image, fill)


@geometric(_draw_scale_jitter)
def scale_jitter(
    key: jax.Array,
    image: jax.Array,
    *,
    size: int | tuple[int, int] | None = None,
    scale: tuple[float, float] = (0.1, 2.0),
    fill: float = 0.0,
) -> jax.Array:
    """Scales the image at random, and cuts or fills it to a fixed size: large-scale jitter.

    A scale of 1 makes the image just fit into the size. A larger image is cut at a random place, a smaller one stands
    at the top left (Ghiasi et al. 2021, "Simple Copy-Paste", section 3; their standard jitter is (0.8, 1.25)).

    Args:
      key: typed random key, consumed.
      image: shape (height, width, channels), floating point.
      size: of the result, (height, width) or one number for both; None for the size of the image.
      scale: least and greatest scale, above 0.
      fill: value of the pixels beyond the image.

    Returns:
      Shape (*size, channels), in the dtype of `image`.

    Raises:
      ValueError: `image` is not one image, or an option is out of range.
      TypeError: `image` is not floating point.
    """
    check_image("scale_jitter", image)
    return _draw_scale_jitter(key, *image.shape[:2], size=size, scale=scale).image(image, fill)
