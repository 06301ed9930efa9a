"""Maps layers over batches of images."""

from dataclasses import dataclass

import jax
from jax.sharding import PartitionSpec

from jaxcnn.meshes import spec_of, with_automatic_axes
from jaxcnn.types import Layer, Params, State
from jaxcnn.values import Value


@dataclass(frozen=True, repr=False)
class Batched(Value):
    """A layer mapped over a batch of images, as `batched` returns it.

    A value, so that `jax.jit(batched(layer), static_argnames="train")` does not trace equal layers twice.

    Attributes:
      layer: any layer, written for one image.
      axis_name: name of the batch axis, over which batch norm computes its moments.
    """

    layer: Layer
    axis_name: str = "batch"

    def __call__(
        self, params: Params, state: State, images: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, State]:
        """Applies the layer to each image.

        Args:
          params: parameters, shared by all images.
          state: state, shared by all images.
          images: shape (batch, height, width, channels); the batch may be split over the devices of a mesh.
          train: see `jaxcnn.types.Layer.apply`.
          key: typed random key, split into one for each image; needed if a layer draws random numbers.

        Returns:
          The outputs, with the batch as their first axis, and the new state.

        Raises:
          ValueError: the batch is empty, or `images` is not a batch.
        """
        if images.ndim < 2 or images.shape[0] == 0:
            raise ValueError(
                f"batched expects a batch of images of shape (batch, height, width, channels), got {images.shape}"
            )

        def apply(params: Params, state: State, images: jax.Array, key: jax.Array | None) -> tuple[jax.Array, State]:
            keys = None if key is None or not train else jax.random.split(key, images.shape[0])

            def one(image: jax.Array, image_key: jax.Array | None) -> tuple[jax.Array, State]:
                return self.layer.apply(params, state, image, train=train, key=image_key)

            in_axes = (0, None if keys is None else 0)
            return jax.vmap(one, in_axes=in_axes, out_axes=(0, None), axis_name=self.axis_name)(images, keys)

        return with_automatic_axes(
            apply, params, state, images, key, out_specs=lambda: (PartitionSpec(spec_of(images)[0]), PartitionSpec())
        )


def batched(layer: Layer, axis_name: str = "batch") -> Batched:
    """Maps a layer over a batch of images: `jax.vmap` with a named axis, and one key for each image.

    `outputs, state = batched(layer)(params, state, images, train=True, key=key)`.

    Args:
      layer: any layer, written for one image.
      axis_name: name of the batch axis, over which batch norm computes its moments.

    Returns:
      A function of params, state and images, shape (batch, height, width, channels); see `Batched.__call__`.
    """
    return Batched(layer, axis_name)
