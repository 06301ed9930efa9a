"""Codecs: boxes as the numbers that a detector predicts, relative to an anchor, a point or a cell.

Predictions of bfloat16 give boxes of float32; see `jaxcnn.ops.boxes`. Encoding gives finite numbers for empty boxes, so
that the padding of objects and anchors without an object need no care before a loss masks them.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.ops.boxes import as_boxes, broadcast_shape, common_dtype, convert_boxes

MAX_LOG_SCALE = math.log(1000 / 16)
"""The largest logarithm of a size that `decode_deltas` takes: a box of 16 pixels becomes one of 1,000."""


def encode_deltas(
    boxes: jax.Array, anchors: Any, *, weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
) -> jax.Array:
    """Encodes boxes relative to anchors (Girshick et al. 2014, appendix C, equations 6 to 9).

    Args:
      boxes: shape (..., 4), two corners, in pixels.
      anchors: shape (..., 4), likewise; the shapes are broadcast.
      weights: factors of dx, dy, dw, dh; R-CNN's head has (10, 10, 5, 5), SSD too.

    Returns:
      (dx, dy, dw, dh), shape (..., 4): the distance of the centres over the anchor's size, and the logarithm of the
      quotient of the sizes. A quotient with an empty box or anchor counts as 1 in the logarithm, and the distance from
      an empty anchor as 0.

    Raises:
      ValueError: a last axis is not 4, or there are not four weights.
      TypeError: an argument is not floating point.
    """
    boxes, anchors = as_boxes("encode_deltas", boxes=boxes, anchors=anchors)
    boxes, anchors = convert_boxes(boxes, "xyxy", "cxcywh"), convert_boxes(anchors, "xyxy", "cxcywh")
    boxes, anchors = jnp.broadcast_arrays(boxes, anchors)
    size, anchor_size = boxes[..., 2:], anchors[..., 2:]
    divisible = anchor_size > 0
    distances = boxes[..., :2] - anchors[..., :2]
    shift = jnp.where(divisible, distances / jnp.where(divisible, anchor_size, 1), 0)
    measurable = divisible & (size > 0)
    scale = jnp.log(jnp.where(measurable, size, 1) / jnp.where(measurable, anchor_size, 1))
    return jnp.concatenate([shift, scale], axis=-1) * _as_weights("encode_deltas", weights, boxes)


def decode_deltas(
    deltas: jax.Array,
    anchors: Any,
    *,
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
    max_log_scale: float = MAX_LOG_SCALE,
) -> jax.Array:
    """Decodes what `encode_deltas` encodes.

    Args:
      deltas: (dx, dy, dw, dh), shape (..., 4).
      anchors: shape (..., 4), two corners, in pixels; the shapes are broadcast: deltas (boxes, classes, 4) belong to
        anchors (boxes, 1, 4).
      weights: as in `encode_deltas`.
      max_log_scale: limit of dw and dh after the division by their weights, so that exp stays finite.

    Returns:
      Boxes, two corners, in pixels, shape (..., 4). They may leave the image; see `clip_boxes`.

    Raises:
      ValueError: a last axis is not 4, or there are not four weights.
      TypeError: an argument is not floating point.
    """
    deltas, anchors = as_boxes("decode_deltas", deltas=deltas, anchors=anchors)
    anchors = convert_boxes(anchors, "xyxy", "cxcywh")
    deltas = deltas / _as_weights("decode_deltas", weights, deltas)
    centre = deltas[..., :2] * anchors[..., 2:] + anchors[..., :2]
    size = jnp.exp(jnp.minimum(deltas[..., 2:], max_log_scale)) * anchors[..., 2:]
    return convert_boxes(jnp.concatenate([centre, size], axis=-1), "cxcywh", "xyxy")


def encode_distances(boxes: jax.Array, points: Any, strides: Any = 1.0) -> jax.Array:
    """Encodes boxes as the distances of their edges from points (Tian et al. 2019, "FCOS", equation 1).

    Args:
      boxes: shape (..., 4), two corners, in pixels.
      points: (x, y), shape (..., 2), in pixels; the shapes are broadcast.
      strides: unit of the distances in pixels, a number or shape (...); torchvision's FCOS divides by the stride.

    Returns:
      (left, top, right, bottom), shape (..., 4): positive for a point inside of the box.

    Raises:
      ValueError: the last axis of boxes is not 4, or that of points is not 2.
      TypeError: an argument is not floating point.
    """
    boxes, points, unit = _around_points("encode_distances", "boxes", boxes, points, strides)
    return jnp.concatenate([points - boxes[..., :2], boxes[..., 2:] - points], axis=-1) / unit


def decode_distances(distances: jax.Array, points: Any, strides: Any = 1.0) -> jax.Array:
    """Decodes what `encode_distances` encodes.

    Args:
      distances: (left, top, right, bottom), shape (..., 4).
      points: (x, y), shape (..., 2), in pixels; the shapes are broadcast.
      strides: unit of the distances in pixels, a number or shape (...).

    Returns:
      Boxes, two corners, in pixels, shape (..., 4).

    Raises:
      ValueError: the last axis of distances is not 4, or that of points is not 2.
      TypeError: an argument is not floating point.
    """
    distances, points, unit = _around_points("decode_distances", "distances", distances, points, strides)
    distances = distances * unit
    return jnp.concatenate([points - distances[..., :2], points + distances[..., 2:]], axis=-1)


def encode_yolox(boxes: jax.Array, corners: Any, strides: Any) -> jax.Array:
    """Encodes boxes relative to cells of a grid (Ge et al. 2021, "YOLOX"; the target of its L1 loss).

    Args:
      boxes: shape (..., 4), two corners, in pixels.
      corners: upper left corners (x, y) of the cells, shape (..., 2), in pixels; the shapes are broadcast.
      strides: size of the cells in pixels, a number or shape (...).

    Returns:
      Shape (..., 4): the centre of the box from the corner of the cell, and the logarithms of width and height, in
      strides. 1e-8 is added before the logarithm.

    Raises:
      ValueError: the last axis of boxes is not 4, or that of corners is not 2.
      TypeError: an argument is not floating point.
    """
    boxes, corners, unit = _around_points("encode_yolox", "boxes", boxes, corners, strides, "corners")
    boxes = convert_boxes(boxes, "xyxy", "cxcywh")
    size = jnp.maximum(boxes[..., 2:], 0) / unit
    return jnp.concatenate([(boxes[..., :2] - corners) / unit, jnp.log(size + 1e-8)], axis=-1)


def decode_yolox(outputs: jax.Array, corners: Any, strides: Any) -> jax.Array:
    """Decodes what `encode_yolox` encodes.

    Args:
      outputs: shape (..., 4).
      corners: upper left corners (x, y) of the cells, shape (..., 2), in pixels; the shapes are broadcast.
      strides: size of the cells in pixels, a number or shape (...).

    Returns:
      Boxes, two corners, in pixels, shape (..., 4).

    Raises:
      ValueError: the last axis of outputs is not 4, or that of corners is not 2.
      TypeError: an argument is not floating point.
    """
    outputs, corners, unit = _around_points("decode_yolox", "outputs", outputs, corners, strides, "corners")
    centre, size = outputs[..., :2] * unit + corners, jnp.exp(outputs[..., 2:]) * unit
    return convert_boxes(jnp.concatenate([centre, size], axis=-1), "cxcywh", "xyxy")


def _as_weights(op: str, weights: tuple[float, ...], like: jax.Array) -> jax.Array:
    if len(weights) != 4:
        raise ValueError(f"{op} expects four weights, for dx, dy, dw and dh, got {weights!r}")
    return jnp.broadcast_to(jnp.asarray(weights, like.dtype), like.shape)


def _around_points(
    op: str, name: str, boxes: Any, points: Any, strides: Any, points_name: str = "points"
) -> tuple[jax.Array, ...]:
    """Returns boxes, points and strides of shapes (..., 4), (..., 2) and (..., 1) with the same axes, in one dtype."""
    (boxes,), (points,) = as_boxes(op, **{name: boxes}), as_boxes(op, 2, **{points_name: points})
    dtype = common_dtype(boxes, points)
    unit = jnp.asarray(strides, dtype)[..., None]
    shape = broadcast_shape(op, **{name: boxes.shape[:-1], points_name: points.shape[:-1], "strides": unit.shape[:-1]})
    return (
        jnp.broadcast_to(boxes.astype(dtype), (*shape, 4)),
        jnp.broadcast_to(points.astype(dtype), (*shape, 2)),
        jnp.broadcast_to(unit, (*shape, 1)),
    )
