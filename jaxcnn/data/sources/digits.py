"""The handwritten digits that come with scikit-learn: real data without a download."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.data.sources.arrays import Arrays, arrays
from jaxcnn.ops import resize


def digits(image_size: int = 32) -> Arrays:
    """Reads the 1797 handwritten digits of scikit-learn, in file order.

    They are the test part of the UCI "Optical Recognition of Handwritten Digits" set: 8 x 8 images
    with values 0 to 16, by 13 writers, of whom none wrote for the training part (E. Alpaydin and
    C. Kaynak, "Cascading Classifiers", Kybernetika 34(4), 1998). They are resized here, once,
    bilinearly as `ops.resize` does.

    Args:
      image_size: height and width in pixels, at least 1; 8 gives the images as they are stored.

    Returns:
      1797 examples: "image", float32 in [0, 1], shape (image_size, image_size, 1); "label" 0 to 9. The class names are
      '0' to '9'.

    Raises:
      ImportError: scikit-learn is not installed.
      ValueError: the image size is below 1.
    """
    if image_size < 1:
        raise ValueError(f"image_size must be at least 1, got {image_size}")
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the digits are part of scikit-learn; pip install 'jaxcnn[cli]'") from error
    pixels, labels = load_digits(return_X_y=True)
    images = jnp.asarray(pixels.reshape(-1, 8, 8, 1) / 16, jnp.float32)
    resized = jax.vmap(functools.partial(resize, output_shape=image_size))(images)
    return arrays(image=np.asarray(resized).clip(0, 1), label=labels, num_classes=10)
