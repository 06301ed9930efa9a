"""Weighted sums of a few pixels around many regions of one image: bilinear samples of boxes, and their transpose.

A sample is a product of two sums of two pixels, one along the rows and one along the columns. On CPU the regions are
computed one after the other, which keeps their pixels in the cache; the transpose adds them up in place. Elsewhere all
regions are gathered at once, and the transpose is a product with matrices that are zero outside of each region:
accelerators add up scattered pixels one by one. experiments/detection_ops.py compares both on CPU.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Sizes = tuple[tuple[int, int], ...]


class Taps(NamedTuple):
    """The pixels of one axis that the bins of each region sum.

    Attributes:
      places: rows or columns of the region's map, int32, shape (regions, bins, taps).
      weights: at least float32, same shape.
    """

    places: jax.Array
    weights: jax.Array


def _sum_regions(sizes: Sizes, table: jax.Array, levels: jax.Array, rows: Taps, columns: Taps) -> jax.Array:
    """Sums pixels of maps. Weights are constants in differentiation.

    Args:
      sizes: (height, width) of each map.
      table: the pixels of all maps, row by row, shape (pixels, channels), floating point.
      levels: map of each region, int32, shape (regions,).
      rows: what is summed along the rows.
      columns: what is summed along the columns.

    Returns:
      Shape (regions, rows of bins, columns of bins, channels), in the dtype of the weights.
    """

    def one(region: tuple[jax.Array, Taps, Taps]) -> jax.Array:
        _, rows, columns = region
        pixels = table.at[_places(sizes, *region)].get(mode="clip").astype(rows.weights.dtype)
        across = jnp.sum(pixels * columns.weights[None, None, :, :, None], axis=3)
        return jnp.sum(across * rows.weights[:, :, None, None], axis=1)

    regions = levels, rows, columns
    return lax.platform_dependent(regions, cpu=partial(lax.map, one), default=jax.vmap(one))


def _forward(sizes: Sizes, table: jax.Array, *regions: Any) -> tuple[jax.Array, Any]:
    return _sum_regions(sizes, table, *regions), (jnp.zeros(0, table.dtype), *regions)


def _backward(sizes: Sizes, saved: Any, dy: jax.Array) -> tuple[jax.Array, None, None, None]:
    like, levels, rows, columns = saved
    table = lax.platform_dependent(
        dy, levels, rows, columns, cpu=partial(_add_regions, sizes), default=partial(_add_products, sizes)
    )
    return table.astype(like.dtype), None, None, None


# Not a decorator, since type checkers then lose the type of the result.
sum_regions = jax.custom_vjp(_sum_regions, nondiff_argnums=(0,))
sum_regions.defvjp(_forward, _backward)


def _add_regions(sizes: Sizes, dy: jax.Array, levels: jax.Array, rows: Taps, columns: Taps) -> jax.Array:
    """Computes the transpose region by region."""

    def add(table: jax.Array, region: tuple[jax.Array, jax.Array, Taps, Taps]) -> tuple[jax.Array, None]:
        dy, level, rows, columns = region
        weights = rows.weights[:, :, None, None, None] * columns.weights[None, None, :, :, None]
        return table.at[_places(sizes, level, rows, columns)].add(weights * dy[:, None, :, None], mode="drop"), None

    pixels = sum(height * width for height, width in sizes)
    table, _ = lax.scan(add, jnp.zeros((pixels, dy.shape[-1]), dy.dtype), (dy, levels, rows, columns))
    return table


def _add_products(sizes: Sizes, dy: jax.Array, levels: jax.Array, rows: Taps, columns: Taps) -> jax.Array:
    """Computes the transpose as products of matrices, map by map."""

    def matrix(taps: Taps, size: int, level: int) -> jax.Array:
        pixel = jnp.arange(size, dtype=jnp.int32)[None, None, None]
        at = (taps.places[..., None] == pixel) & (levels == level)[:, None, None, None]
        return jnp.sum(jnp.where(at, taps.weights[..., None], 0), axis=2)

    def one_map(level: int, height: int, width: int) -> jax.Array:
        across = jnp.einsum("rijc,rjw->riwc", dy, matrix(columns, width, level), precision="highest")
        down = jnp.einsum("riwc,rih->hwc", across, matrix(rows, height, level), precision="highest")
        return down.reshape(height * width, -1)

    return jnp.concatenate([one_map(level, *size) for level, size in enumerate(sizes)])


def _places(sizes: Sizes, level: jax.Array, rows: Taps, columns: Taps) -> jax.Array:
    """Returns the places in the table of one region's pixels, (bins, taps, bins, taps)."""
    starts, start = [], 0
    for height, width in sizes:
        starts.append(start)
        start += height * width
    first = jnp.asarray(starts, jnp.int32)[level]
    width = jnp.asarray([width for _, width in sizes], jnp.int32)[level]
    return first + rows.places[:, :, None, None] * width + columns.places[None, None]
