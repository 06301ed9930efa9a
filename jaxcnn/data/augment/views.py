"""Test-time augmentation: views of one image, and the mean prediction over them."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.data.augment.checks import check_pixels
from jaxcnn.ops.check import as_pair, at_least_float32, check_image

Views: TypeAlias = Callable[[jax.Array], jax.Array]
"""From one image, shape (height, width, channels), to several of one shape, (views, height, width, channels)."""


def mirror_views(image: jax.Array) -> jax.Array:
    """Returns the image and its mirror image.

    Args:
      image: shape (height, width, channels), floating point.

    Returns:
      Shape (2, height, width, channels).

    Raises:
      ValueError: `image` is not one image.
      TypeError: `image` is not floating point.
    """
    check_image("mirror_views", image)
    return jnp.stack([image, image[:, ::-1]])


def shift_views(image: jax.Array, distance: int = 1) -> jax.Array:
    """Returns the image, twice, and the image shifted to the upper left and to the lower right.

    The mean over these views counts the image itself half (Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single
    GPU", section 3.5). What comes into view is the mirror image, without the edge itself.

    Args:
      image: shape (height, width, channels), floating point.
      distance: in pixels, in both directions.

    Returns:
      Shape (4, height, width, channels).

    Raises:
      ValueError: `image` is not one image, or `distance` is out of range.
      TypeError: `image` is not floating point.
    """
    check_image("shift_views", image)
    height, width, _ = image.shape
    check_pixels("shift_views", "distance", distance, min(height, width) - 1)
    padded = jnp.pad(image, ((distance, distance), (distance, distance), (0, 0)), mode="reflect")
    end = 2 * distance
    return jnp.stack([image, image, padded[end:, end:], padded[:height, :width]])


def crop_views(image: jax.Array, size: int | tuple[int, int]) -> jax.Array:
    """Cuts out the four corners and the centre, in torchvision's order: top left, top right, bottom left, and so on.

    Args:
      image: shape (height, width, channels), floating point.
      size: (height, width) of the crops in pixels, or one number for both; at most that of the image.

    Returns:
      Shape (5, *size, channels).

    Raises:
      ValueError: `image` is not one image, or smaller than the crops.
      TypeError: `image` is not floating point.
    """
    check_image("crop_views", image)
    height, width = as_pair("crop_views: size", size)
    down, right = image.shape[0] - height, image.shape[1] - width
    if down < 0 or right < 0:
        raise ValueError(
            f"crop_views expects a size of at most that of the image, {image.shape[:2]}, got {height, width}"
        )
    # Round half to even, as Python and torchvision do.
    places = [(0, 0), (0, right), (down, 0), (down, right), (int(np.round(down / 2)), int(np.round(right / 2)))]
    return jnp.stack([image[top : top + height, left : left + width] for top, left in places])


def mean_over_views(predict: Callable[[jax.Array], Any], *views: Views) -> Callable[[jax.Array], Any]:
    """Makes a prediction the mean over views of each image, for outputs that do not move with the pixels.

        predict = mean_over_views(net, mirror_views, shift_views)  # 8 views of each image
        logits = predict(images)

    All views of a batch are predicted at once.

    Args:
      predict: from a batch of images to a tree of floating-point arrays with the batch as their first axis, such as a
        `Network`.
      *views: each is applied to every view of those before it.

    Returns:
      A function from a batch of images, shape (batch, height, width, channels), to the mean outputs, in their dtype.
    """

    def all_views(image: jax.Array) -> jax.Array:
        images = image[None]
        for one in views:
            several = jax.vmap(one)(images)
            images = several.reshape(-1, *several.shape[2:])
        return images

    def predict_mean(images: jax.Array) -> Any:
        several = jax.vmap(all_views)(jnp.asarray(images))
        batch, count, *shape = several.shape
        outputs = predict(several.reshape(batch * count, *shape))

        def mean(leaf: jax.Array) -> jax.Array:
            apart = leaf.reshape(batch, count, *leaf.shape[1:])
            return apart.mean(1, dtype=at_least_float32(leaf.dtype)).astype(leaf.dtype)

        return jax.tree.map(mean, outputs)

    return predict_mean
