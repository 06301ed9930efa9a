"""Receptive fields from gradients: an independent check of those from tracing."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.types import Layer, Params, Shape, State


def gradient_support(
    layer: Layer, params: Params, state: State, input_shape: Shape, position: tuple[int, int] | None = None
) -> np.ndarray:
    """Marks the input pixels that an output pixel depends on, as those whose gradient is not zero.

    Activations and max pooling let only some of the pixels through at a time, so the gradients of several random images
    are joined; kernels of only positive numbers rule out that terms cancel.

    Args:
      layer: a layer or model that gives one image, or a vector.
      params: its parameters; their absolute values are used.
      state: its state.
      input_shape: (height, width, channels) of the image.
      position: (row, column) of the output pixel; the middle if None. Ignored for a vector.

    Returns:
      Shape (height, width), bools.
    """
    positive = jax.tree.map(jnp.abs, params)

    def total(image: jax.Array) -> jax.Array:
        output, _ = layer.apply(positive, state, image, train=False)
        if output.ndim == 3:
            row, column = position or (output.shape[0] // 2, output.shape[1] // 2)
            output = output[row, column]
        return jnp.sum(output)

    images = jax.random.uniform(jax.random.key(0), (16, *input_shape))
    gradients = jax.jit(jax.vmap(jax.grad(total)))(images)
    return np.asarray(jnp.any(gradients != 0, axis=(0, 3)))
