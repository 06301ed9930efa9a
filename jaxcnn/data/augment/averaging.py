"""Test-time augmentation: the mean prediction over views of an image."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.ops.views import Views, all_views, mean_of_views


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

    def predict_mean(images: jax.Array) -> Any:
        several = jax.vmap(lambda image: all_views(image, views))(jnp.asarray(images))
        batch, count, *shape = several.shape
        outputs = predict(several.reshape(batch * count, *shape))
        return mean_of_views(jax.tree.map(lambda y: y.reshape(batch, count, *y.shape[1:]), outputs), axis=1)

    return predict_mean
