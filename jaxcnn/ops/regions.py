"""Regions of interest: the features inside of boxes, as small maps of one size."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops import lowering
from jaxcnn.ops.boxes import as_boxes, box_area
from jaxcnn.ops.check import Size, as_pair, at_least_float32, check_image, is_int, is_number

_TOGETHER = 16
"""Regions whose samples adapt to their size and that are computed together."""


def roi_align(
    features: jax.Array,
    boxes: jax.Array,
    output_shape: Size,
    *,
    spatial_scale: float = 1.0,
    sampling_ratio: int | None = None,
    aligned: bool = False,
) -> jax.Array:
    """Averages bilinear samples in the bins of each box (He et al. 2017, "Mask R-CNN", section 3).

    The rules are those of torchvision. A sample at p, in pixels of the map with 0 at the centre of the first pixel, is
    0 if p < -1 or p > size, in x or in y; else p is clipped to the map. Unless `aligned`, a box at 0 starts at the
    centre of the first pixel, half a pixel too far, and is at least one pixel wide and high.

    Boxes have no gradient. On accelerators the gradient of the features needs no scattered additions.

    Args:
      features: one map, shape (height, width, channels), floating point.
      boxes: shape (boxes, 4), two corners, in pixels of the image.
      output_shape: (height, width) of the result, in bins.
      spatial_scale: size of the map over that of the image, such as 1/16.
      sampling_ratio: samples in a bin, along each axis. None: as many as the bin is wide in pixels of the map, rounded
        up, but at most twice the size of the map.
      aligned: whether pixels of the image are squares with the first corner at 0, as in `jaxcnn.ops.boxes`. False is
        the convention that torchvision's published weights were trained with.

    Returns:
      Shape (boxes, *output_shape, channels), in the dtype of the features; computed in at least float32.

    Raises:
      ValueError: a shape does not fit, or a number is out of range.
      TypeError: an argument is not floating point.
    """
    check_image("roi_align", features)
    boxes, bins = _checked("roi_align", boxes, output_shape, sampling_ratio)
    if not is_number(spatial_scale) or not 0 < spatial_scale < math.inf:
        raise ValueError(f"roi_align expects a finite spatial_scale above 0, got {spatial_scale!r}")
    height, width, _ = features.shape
    dtype = at_least_float32(features.dtype)
    scale = jnp.full(len(boxes), spatial_scale, boxes.dtype)
    if sampling_ratio is None:
        matrices = [
            _adaptive(*_bins(boxes, scale, axis, bins[axis], aligned), bins[axis], (height, width)[axis]).astype(dtype)
            for axis in (0, 1)
        ]
        wide = features.astype(dtype)

        def one(region: list[jax.Array]) -> jax.Array:
            return jnp.einsum("ih,hwc,jw->ijc", region[0], wide, region[1], precision="highest")

        return lax.map(one, matrices, batch_size=_TOGETHER).astype(features.dtype)
    levels = jnp.zeros(len(boxes), jnp.int32)
    return _sampled((features,), boxes, levels, scale, bins, sampling_ratio, aligned)


def pyramid_roi_align(
    features: Sequence[jax.Array],
    boxes: jax.Array,
    output_shape: Size,
    *,
    spatial_scales: Sequence[float],
    sampling_ratio: int = 2,
    aligned: bool = False,
    canonical_size: float = 224.0,
    canonical_level: int = 4,
) -> jax.Array:
    """Computes `roi_align` of each box on the level of a pyramid that fits its size (Lin et al. 2017, equation 1).

    The level is floor(canonical_level + log2(sqrt(area) / canonical_size) + 1e-6), with level k of scale 2^-k, clipped
    to the levels of the pyramid.

    Args:
      features: the maps, finest first, each (height, width, channels), with the same channels and dtype.
      boxes: shape (boxes, 4), two corners, in pixels of the image.
      output_shape: (height, width) of the result, in bins.
      spatial_scales: size of each map over that of the image, such as 1/4, 1/8, 1/16, 1/32; each half of the one
        before.
      sampling_ratio: samples in a bin, along each axis.
      aligned: see `roi_align`.
      canonical_size: root of the area of a box of the canonical level, in pixels of the image.
      canonical_level: its level.

    Returns:
      Shape (boxes, *output_shape, channels), in the dtype of the features.

    Raises:
      ValueError: a shape does not fit, or a number is out of range.
      TypeError: an argument is not floating point.
    """
    for one in features:
        check_image("pyramid_roi_align", one)
    if len({(one.shape[-1], one.dtype) for one in features}) != 1:
        given = ", ".join(f"{one.dtype} {one.shape}" for one in features)
        raise ValueError(f"pyramid_roi_align expects maps of the same channels and dtype, at least one, got {given}")
    boxes, bins = _checked("pyramid_roi_align", boxes, output_shape, sampling_ratio)
    exponents = [-math.log2(scale) if is_number(scale) and scale > 0 else math.nan for scale in spatial_scales]
    finest = exponents[0] if exponents else math.nan
    if exponents != [finest + level for level in range(len(features))] or finest != round(finest):
        raise ValueError(
            f"pyramid_roi_align expects a spatial_scale for each of {len(features)} maps, powers of 2 and each half "
            f"of the one before, got {tuple(spatial_scales)}"
        )
    level = canonical_level + jnp.log2(jnp.sqrt(box_area(boxes)) / canonical_size) + 1e-6
    levels = jnp.clip(jnp.floor(level) - finest, 0, len(features) - 1).astype(jnp.int32)
    scale = jnp.asarray(spatial_scales, boxes.dtype)[levels]
    return _sampled(features, boxes, levels, scale, bins, sampling_ratio, aligned)


def _sampled(
    features: Sequence[jax.Array],
    boxes: jax.Array,
    levels: jax.Array,
    scale: jax.Array,
    bins: tuple[int, int],
    samples: int,
    aligned: bool,
) -> jax.Array:
    """Samples each box on its level; arguments as in `pyramid_roi_align`, `levels` and `scale` of shape (boxes,)."""
    sizes = tuple((one.shape[0], one.shape[1]) for one in features)
    dtype = at_least_float32(features[0].dtype)
    taps = []
    for axis in (0, 1):
        size = jnp.asarray([one[axis] for one in sizes], jnp.int32)[levels][:, None, None]
        start, step = (each[:, None, None] for each in _bins(boxes, scale, axis, bins[axis], aligned))
        bin_, sample = (jnp.arange(number, dtype=boxes.dtype) for number in (bins[axis], samples))
        position = start + bin_[None, :, None] * step + (sample + 0.5)[None, None] * step / samples
        low, beyond, inside = _interpolating(position, size)
        weights = jnp.stack([1 - beyond, beyond], axis=-1) * (inside / samples)[..., None]
        places = jnp.stack([low, jnp.minimum(low + 1, size - 1)], axis=-1)
        shape = (len(boxes), bins[axis], 2 * samples)
        taps.append(lowering.Taps(places.reshape(shape), weights.reshape(shape).astype(dtype)))
    table = jnp.concatenate([one.reshape(-1, one.shape[-1]) for one in features])
    return lowering.sum_regions(sizes, table, levels, *taps).astype(table.dtype)


def _bins(boxes: jax.Array, scale: jax.Array, axis: int, bins: int, aligned: bool) -> tuple[jax.Array, jax.Array]:
    """Returns start and size of the bins of each box along an axis, in pixels of the map, both (boxes,)."""
    first, last = boxes[:, 1 - axis] * scale, boxes[:, 3 - axis] * scale
    extent = last - first
    if aligned:
        return first - 0.5, extent / bins
    return first, jnp.maximum(extent, 1) / bins


def _interpolating(position: jax.Array, size: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the pixel before each position, the way beyond it in [0, 1), and 1 or, off the map, 0."""
    end = jnp.asarray(size, position.dtype)
    inside = ((position >= -1) & (position <= end)).astype(position.dtype)
    clipped = jnp.clip(position, 0, end - 1)
    low = jnp.floor(clipped)
    return low.astype(jnp.int32), clipped - low, inside


def _adaptive(start: jax.Array, step: jax.Array, bins: int, size: int) -> jax.Array:
    """Returns the weights of the pixels in each bin, (boxes, bins, size), with ceil(step) samples in a bin."""
    number = jnp.clip(jnp.ceil(step), 0, 2 * size)
    divisor = jnp.maximum(number, 1)
    pixel = jnp.arange(size, dtype=jnp.int32)[None, None]
    bin_start = start[:, None] + jnp.arange(bins, dtype=start.dtype)[None] * step[:, None]

    def add(sample: jax.Array, weights: jax.Array) -> jax.Array:
        sample = sample.astype(start.dtype)
        way = (sample + 0.5) * step / divisor
        low, beyond, inside = _interpolating(bin_start + way[:, None], size)
        share = jnp.where((sample < number)[:, None], inside / divisor[:, None], 0)[..., None]
        low, beyond = low[..., None], beyond[..., None]
        return weights + share * (jnp.where(pixel == low, 1 - beyond, 0) + jnp.where(pixel == low + 1, beyond, 0))

    most = jnp.max(number, initial=0).astype(jnp.int32)
    return lax.fori_loop(0, most, add, jnp.zeros((len(start), bins, size), start.dtype))


def _checked(op: str, boxes: Any, output_shape: Size, sampling_ratio: int | None) -> tuple[jax.Array, tuple[int, int]]:
    (boxes,) = as_boxes(op, boxes=boxes)
    if boxes.ndim != 2:
        raise ValueError(
            f"{op} expects boxes (boxes, 4) of one image, got {boxes.shape}; map it over a batch with jax.vmap"
        )
    if sampling_ratio is not None and not (is_int(sampling_ratio) and sampling_ratio > 0):
        adaptive = " or None" if op == "roi_align" else ""
        raise ValueError(f"{op} expects a sampling_ratio of at least 1{adaptive}, got {sampling_ratio!r}")
    return lax.stop_gradient(boxes), as_pair("output_shape", output_shape)
