"""Geometries: they say from which place in the image each pixel of a changed image or mask comes.

A geometry is drawn once, from a key, and has two methods: `image` interpolates, `mask` takes the nearest pixel, since
class indices cannot be interpolated.
"""

from typing import Literal, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp

Border: TypeAlias = Literal["zeros", "edge", "reflect"]

_PAD_MODES = {"zeros": "constant", "edge": "edge", "reflect": "reflect"}


class Geometry(Protocol):
    """A map of coordinates, from the pixels of the result to those of the image."""

    def image(self, image: jax.Array, fill: float) -> jax.Array:
        """Moves an image.

        Args:
          image: shape (height, width, channels), floating point.
          fill: value of the pixels that come into view.

        Returns:
          Same shape and dtype.
        """
        ...

    def mask(self, mask: jax.Array, fill: int) -> jax.Array:
        """Moves a mask in the same way as the image.

        Args:
          mask: shape (height, width), integers.
          fill: value of the pixels that come into view.

        Returns:
          Same shape and dtype.
        """
        ...


class Window(NamedTuple):
    """A window as large as the image, in the image with a border.

    Attributes:
      padding: width of the border in pixels.
      top_left: row and column of the window in the padded image, int32, shape (2,).
      border: values of the border: "zeros", the value to fill; "edge", the nearest pixel; or "reflect", the mirror
        image without the edge itself.
    """

    padding: int
    top_left: jax.Array
    border: Border = "zeros"

    def image(self, image: jax.Array, fill: float) -> jax.Array:
        """Moves an image; see `Geometry`."""
        return self._cut(image, fill)

    def mask(self, mask: jax.Array, fill: int) -> jax.Array:
        """Moves a mask; see `Geometry`."""
        return self._cut(mask[..., None], fill)[..., 0]

    def _cut(self, pixels: jax.Array, fill: float) -> jax.Array:
        sides = ((self.padding, self.padding), (self.padding, self.padding), (0, 0))
        options = {"constant_values": fill} if self.border == "zeros" else {}
        padded = jnp.pad(pixels, sides, mode=_PAD_MODES[self.border], **options)
        return jax.lax.dynamic_slice(padded, (*self.top_left, 0), pixels.shape)


class Mirror(NamedTuple):
    """A mirror image, or the image itself.

    Attributes:
      mirrored: whether it is mirrored, bool, shape ().
      axis: 0 swaps top and bottom, 1 left and right.
    """

    mirrored: jax.Array
    axis: int

    def image(self, image: jax.Array, fill: float) -> jax.Array:
        """Moves an image; see `Geometry`. No pixel comes into view."""
        return jnp.where(self.mirrored, jnp.flip(image, self.axis), image)

    def mask(self, mask: jax.Array, fill: int) -> jax.Array:
        """Moves a mask; see `Geometry`. No pixel comes into view."""
        return jnp.where(self.mirrored, jnp.flip(mask, self.axis), mask)


class Resampling(NamedTuple):
    """A place in the image for each pixel of the result.

    Attributes:
      rows: in pixels, 0 at the centre of the first row, floating point, shape (height, width).
      columns: in pixels, 0 at the centre of the first column, floating point, shape (height, width).
    """

    rows: jax.Array
    columns: jax.Array

    def image(self, image: jax.Array, fill: float) -> jax.Array:
        """Interpolates bilinearly; beyond the border every pixel holds `fill`."""
        # Half precision cannot represent the positions in a large image: weights and sums are in float32.
        dtype = jnp.float64 if image.dtype == jnp.float64 else jnp.float32
        coordinates = [self.rows.astype(dtype), self.columns.astype(dtype)]

        def sample_channel(channel: jax.Array) -> jax.Array:
            return jax.scipy.ndimage.map_coordinates(channel, coordinates, order=1, mode="constant", cval=fill)

        return jax.vmap(sample_channel, in_axes=2, out_axes=2)(image.astype(dtype)).astype(image.dtype)

    def mask(self, mask: jax.Array, fill: int) -> jax.Array:
        """Takes the nearest pixel; `fill` where that lies beyond the border."""
        height, width = mask.shape
        row = jnp.floor(self.rows + 0.5).astype(jnp.int32)
        column = jnp.floor(self.columns + 0.5).astype(jnp.int32)
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        nearest = mask[jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)]
        return jnp.where(inside, nearest, jnp.asarray(fill, mask.dtype))
