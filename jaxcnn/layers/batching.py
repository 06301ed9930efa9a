"""Maps layers over batches of images."""

from dataclasses import dataclass
from typing import Any

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
        self, params: Params, state: State, images: Any, *, train: bool, key: jax.Array | None = None
    ) -> tuple[Any, State]:
        """Applies the layer to each image.

        Args:
          params: parameters, shared by all images.
          state: state, shared by all images.
          images: shape (batch, height, width, channels), or a tree of arrays whose first axis is the batch; the batch
            may be split over the devices of a mesh.
          train: see `jaxcnn.types.Layer.apply`.
          key: typed random key, split into one for each image; needed if a layer draws random numbers.

        Returns:
          The outputs, with the batch as their first axis, and the new state.

        Raises:
          ValueError: the batch is empty, or `images` is not a batch.
        """
        count = batch_size("batched", images)

        def apply(params: Params, state: State, images: Any, key: jax.Array | None) -> tuple[Any, State]:
            keys = None if key is None or not train else jax.random.split(key, count)

            def one(image: Any, image_key: jax.Array | None) -> tuple[Any, State]:
                return self.layer.apply(params, state, image, train=train, key=image_key)

            in_axes = (0, None if keys is None else 0)
            return jax.vmap(one, in_axes=in_axes, out_axes=(0, None), axis_name=self.axis_name)(images, keys)

        return with_automatic_axes(
            apply,
            params,
            state,
            images,
            key,
            out_specs=lambda: (PartitionSpec(spec_of(jax.tree.leaves(images)[0])[0]), PartitionSpec()),
        )


def batch_size(function: str, images: Any) -> int:
    """Returns the number of images in a batch.

    Args:
      function: name of the caller, for the message.
      images: shape (batch, height, width, channels), or a tree of arrays whose first axis is the batch.

    Returns:
      The size of the batch.

    Raises:
      ValueError: the batch is empty, or `images` is not a batch.
    """
    shapes = [leaf.shape for leaf in jax.tree.leaves(images)]
    sizes = {shape[0] if len(shape) > 1 else 0 for shape in shapes}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            f"{function} expects a batch of images of shape (batch, height, width, channels), "
            f"got {', '.join(map(str, shapes)) or 'no array'}"
        )
    return sizes.pop()


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
