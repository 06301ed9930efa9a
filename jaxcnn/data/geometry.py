"""Geometries: they say from which place in the image each pixel of a changed image, mask or box comes.

A geometry is drawn once, from a key, and has three methods: `image` interpolates; `mask` takes the nearest pixel, since
class indices cannot be interpolated; `boxes` gives the boxes around the moved corners.

Places are numbered in two ways. Centres: 0 is the centre of the first pixel. Edges: 0 is the outer edge of the first
pixel, so that its centre is at 1/2, and boxes have no rounding.
"""

from typing import Literal, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp

from jaxcnn.ops.check import at_least_float32
from jaxcnn.ops.resizing import interpolation_weights

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
          The new image, in the same dtype.
        """
        ...

    def mask(self, mask: jax.Array, fill: int) -> jax.Array:
        """Moves a mask in the same way as the image.

        Args:
          mask: shape (height, width), integers or bool.
          fill: value of the pixels that come into view.

        Returns:
          The mask of the new image, in the same dtype.
        """
        ...

    def boxes(self, boxes: jax.Array, height: int, width: int) -> jax.Array:
        """Moves boxes as the image.

        Args:
          boxes: edges (left, top, right, bottom) in pixels, floating point, shape (boxes, 4).
          height: of the image before.
          width: of the image before.

        Returns:
          Same shape and dtype. They may reach over the border of the new image, or lie beyond it.
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

    def boxes(self, boxes: jax.Array, height: int, width: int) -> jax.Array:
        """Moves boxes; see `Geometry`."""
        down, right = self.padding - self.top_left.astype(boxes.dtype)
        return boxes + jnp.stack([right, down, right, down])

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

    def boxes(self, boxes: jax.Array, height: int, width: int) -> jax.Array:
        """Moves boxes; see `Geometry`."""
        left, top, right, bottom = boxes.T
        mirrored = (
            (left, height - bottom, right, height - top)
            if self.axis == 0
            else (width - right, top, width - left, bottom)
        )
        return jnp.where(self.mirrored, jnp.stack(mirrored, axis=1), boxes)


class Resampling(NamedTuple):
    """A place in the image for each pixel of the result, which is of the same size.

    Attributes:
      rows: in pixels, as centres, floating point, shape (height, width).
      columns: likewise.
      matrix: the projective map from (row, column, 1) in the result to the image, as edges, shape (3, 3); None if
        there is none.
      interpolation: of images: "bilinear", or "nearest" for the nearest pixel.
    """

    rows: jax.Array
    columns: jax.Array
    matrix: jax.Array | None = None
    interpolation: Literal["bilinear", "nearest"] = "bilinear"

    def image(self, image: jax.Array, fill: float) -> jax.Array:
        """Interpolates; beyond the border every pixel holds `fill`."""
        if self.interpolation == "nearest":
            return self._nearest(image, fill)
        # Half precision cannot represent the positions in a large image: weights and sums are in float32.
        dtype = jnp.float64 if image.dtype == jnp.float64 else jnp.float32
        coordinates = [self.rows.astype(dtype), self.columns.astype(dtype)]

        def sample_channel(channel: jax.Array) -> jax.Array:
            return jax.scipy.ndimage.map_coordinates(channel, coordinates, order=1, mode="constant", cval=fill)

        return jax.vmap(sample_channel, in_axes=2, out_axes=2)(image.astype(dtype)).astype(image.dtype)

    def mask(self, mask: jax.Array, fill: int) -> jax.Array:
        """Takes the nearest pixel; `fill` where that lies beyond the border."""
        return self._nearest(mask[..., None], fill)[..., 0]

    def boxes(self, boxes: jax.Array, height: int, width: int) -> jax.Array:
        """Moves boxes; see `Geometry`. Without a matrix, gives the box around the pixels that come from each box."""
        if self.matrix is None:
            return self._boxes_of_pixels(boxes)
        # The adjugate is the inverse but for a factor, which projective maps ignore.
        a, b, c = self.matrix.astype(jnp.float32)
        forward = jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)], axis=1)
        left, top, right, bottom = boxes.astype(jnp.float32).T
        row, column = jnp.stack([top, top, bottom, bottom]), jnp.stack([left, right, left, right])
        row, column, scale = (one * row + other * column + last for one, other, last in forward)
        row, column = row / scale, column / scale
        around = [column.min(0), row.min(0), column.max(0), row.max(0)]
        return jnp.stack(around, axis=1).astype(boxes.dtype)

    def _boxes_of_pixels(self, boxes: jax.Array) -> jax.Array:
        height, width = self.rows.shape
        left, top, right, bottom = boxes.astype(jnp.float32).T[..., None, None]
        rows, columns = self.rows + 0.5, self.columns + 0.5
        inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
        first_column, end_column = _extent(inside.any(1), width)
        first_row, end_row = _extent(inside.any(2), height)
        return jnp.stack([first_column, first_row, end_column, end_row], axis=1).astype(boxes.dtype)

    def _nearest(self, pixels: jax.Array, fill: float) -> jax.Array:
        height, width, _ = pixels.shape
        row = jnp.floor(self.rows + 0.5).astype(jnp.int32)
        column = jnp.floor(self.columns + 0.5).astype(jnp.int32)
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        nearest = pixels[jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)]
        return jnp.where(inside[..., None], nearest, jnp.asarray(fill, pixels.dtype))


def _extent(there: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """Returns the first place that is there, and the end after the last, of each row of bools; 0 and 0 if none is."""
    some = there.any(1)
    first, last = jnp.argmax(there, axis=1), size - jnp.argmax(there[:, ::-1], axis=1)
    return jnp.where(some, first, 0), jnp.where(some, last, 0)


def projective(
    matrix: jax.Array, height: int, width: int, interpolation: Literal["bilinear", "nearest"] = "bilinear"
) -> Resampling:
    """Makes a geometry of a projective map.

    Args:
      matrix: from (row, column, 1) in the result to the image, as edges, float32, shape (3, 3).
      height: of the image.
      width: of the image.
      interpolation: of images.

    Returns:
      The geometry.
    """
    row = jnp.arange(height, dtype=jnp.float32)[:, None] + 0.5
    column = jnp.arange(width, dtype=jnp.float32)[None, :] + 0.5
    # Written out, since a matrix product is rounded coarsely on some accelerators.
    rows, columns, scales = (one * row + other * column + last for one, other, last in matrix)
    return Resampling(rows / scales - 0.5, columns / scales - 0.5, matrix, interpolation)


class ResizedWindow(NamedTuple):
    """A window of the image, resized; inside of the image, so that nothing comes into view.

    Attributes:
      top_left: row and column of the first pixel of the window, int32, shape (2,).
      extent: height and width of the window in pixels, int32, shape (2,).
      size: height and width of the result.
      interpolation: of images: "bilinear" or "bicubic", with antialias as in `jaxcnn.ops.resize`.
    """

    top_left: jax.Array
    extent: jax.Array
    size: tuple[int, int]
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    def image(self, image: jax.Array, fill: float) -> jax.Array:
        """Resizes a window; see `Geometry`. No pixel comes into view."""
        # Two products with small matrices: what they need of memory and of time does not depend on the window.
        dtype = at_least_float32(image.dtype)
        rows, columns = (self._weights(axis, image.shape[axis]).astype(dtype) for axis in range(2))
        resized = jnp.einsum("ih,hwc->iwc", rows, image.astype(dtype), precision="highest")
        return jnp.einsum("jw,iwc->ijc", columns, resized, precision="highest").astype(image.dtype)

    def mask(self, mask: jax.Array, fill: int) -> jax.Array:
        """Takes the nearest pixel; see `Geometry`. No pixel comes into view."""
        rows, columns = (self._nearest(axis) for axis in range(2))
        return mask[rows[:, None], columns[None, :]]

    def boxes(self, boxes: jax.Array, height: int, width: int) -> jax.Array:
        """Moves boxes; see `Geometry`."""
        factors = jnp.asarray(self.size, jnp.float32) / self.extent.astype(jnp.float32)
        start, factor = jnp.tile(self.top_left[::-1], 2), jnp.tile(factors[::-1], 2)
        return (boxes - start.astype(boxes.dtype)) * factor.astype(boxes.dtype)

    def _weights(self, axis: int, size: int) -> jax.Array:
        """Returns the weight of each pixel of the image in each of the result along an axis, float32."""
        extent = self.extent[axis].astype(jnp.float32)
        # In pixels of the window.
        pixel = jnp.arange(size, dtype=jnp.float32)[None, :] - self.top_left[axis].astype(jnp.float32)
        scale = extent / self.size[axis]
        centre = (jnp.arange(self.size[axis], dtype=jnp.float32)[:, None] + 0.5) * scale
        stretch = jnp.maximum(scale, 1.0)
        weights = interpolation_weights((pixel + 0.5 - centre) / stretch, self.interpolation, coefficient=-0.5)
        weights = jnp.where((pixel >= 0) & (pixel < extent), weights, 0)
        return weights / weights.sum(1, keepdims=True)

    def _nearest(self, axis: int) -> jax.Array:
        # In integers: floor((place + 1/2) * extent / size).
        place = jnp.arange(self.size[axis], dtype=jnp.int32)
        return self.top_left[axis] + (2 * place + 1) * self.extent[axis] // (2 * self.size[axis])


class Viewport(NamedTuple):
    """A window of any place and size, resized; where it reaches beyond the image, the rest is filled.

    Unlike with `ResizedWindow`, pixels around the window count where the antialias reaches over its edge.

    Attributes:
      top_left: row and column of the first corner of the window, as edges, floating point, shape (2,).
      extent: height and width of the window in pixels of the image, floating point, shape (2,).
      size: height and width of the result.
    """

    top_left: jax.Array
    extent: jax.Array
    size: tuple[int, int]

    def image(self, image: jax.Array, fill: float) -> jax.Array:
        """Resizes bilinearly, with antialias; see `Geometry`."""
        dtype = at_least_float32(image.dtype)
        rows, columns = (self._weights(axis, image.shape[axis]).astype(dtype) for axis in range(2))
        resized = jnp.einsum("ih,hwc->iwc", rows, image.astype(dtype), precision="highest")
        resized = jnp.einsum("jw,iwc->ijc", columns, resized, precision="highest")
        # The weights of a pixel sum to the part of it that lies in the image.
        beyond = 1 - rows.sum(1)[:, None] * columns.sum(1)[None, :]
        return (resized + beyond[:, :, None] * fill).astype(image.dtype)

    def mask(self, mask: jax.Array, fill: int) -> jax.Array:
        """Takes the nearest pixel; `fill` where that lies beyond the border."""
        places, inside = [], []
        for axis in range(2):
            place = jnp.floor(self._centres(axis)).astype(jnp.int32)
            inside.append((place >= 0) & (place < mask.shape[axis]))
            places.append(jnp.clip(place, 0, mask.shape[axis] - 1))
        nearest = mask[places[0][:, None], places[1][None, :]]
        return jnp.where(inside[0][:, None] & inside[1][None, :], nearest, jnp.asarray(fill, mask.dtype))

    def boxes(self, boxes: jax.Array, height: int, width: int) -> jax.Array:
        """Moves boxes; see `Geometry`."""
        factors = jnp.asarray(self.size, jnp.float32) / self.extent
        start, factor = jnp.tile(self.top_left[::-1], 2), jnp.tile(factors[::-1], 2)
        return (boxes - start.astype(boxes.dtype)) * factor.astype(boxes.dtype)

    def _centres(self, axis: int) -> jax.Array:
        """Returns the centres of the pixels of the result in the image along an axis, as edges, float32."""
        place = jnp.arange(self.size[axis], dtype=jnp.float32)
        return self.top_left[axis] + (place + 0.5) * (self.extent[axis] / self.size[axis])

    def _weights(self, axis: int, size: int) -> jax.Array:
        """Returns the weight of each pixel of the image in each of the result along an axis, float32."""
        scale = self.extent[axis] / self.size[axis]
        centres = self._centres(axis)[:, None]
        pixels = jnp.arange(size, dtype=jnp.float32)[None, :] + 0.5
        distances = (pixels - centres) / jnp.maximum(scale, 1.0)
        weights = interpolation_weights(distances, "bilinear", coefficient=-0.5)
        whole = weights.sum(1, keepdims=True)
        # The part of each pixel of the result that lies in the image.
        covered = jnp.minimum(centres + scale / 2, size) - jnp.maximum(centres - scale / 2, 0)
        return weights / jnp.where(whole > 0, whole, 1) * jnp.clip(covered / scale, 0, 1)


class Chain(NamedTuple):
    """Geometries one after the other, each of which keeps the size."""

    geometries: tuple[Geometry, ...]

    def image(self, image: jax.Array, fill: float) -> jax.Array:
        """Moves an image; see `Geometry`."""
        for geometry in self.geometries:
            image = geometry.image(image, fill)
        return image

    def mask(self, mask: jax.Array, fill: int) -> jax.Array:
        """Moves a mask; see `Geometry`."""
        for geometry in self.geometries:
            mask = geometry.mask(mask, fill)
        return mask

    def boxes(self, boxes: jax.Array, height: int, width: int) -> jax.Array:
        """Moves boxes; see `Geometry`."""
        for geometry in self.geometries:
            boxes = geometry.boxes(boxes, height, width)
        return boxes
