"""Boxes: areas, overlaps, formats, limits.

A box is (x1, y1, x2, y2): its left, top, right and bottom edge, in pixels. Edges are continuous numbers: the first
pixel of a row covers [0, 1], so a box is x2 - x1 wide, and nothing is added to it. A box with x2 <= x1 or y2 <= y1 is
empty.

Boxes are computed in float32, or in float64 if an argument is: bfloat16 has a grain of 2 pixels beyond pixel 256.
Padding, such as the slots of the objects that an image does not have, holds finite numbers, and no function makes
infinite numbers or gradients of it.
"""

import math
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.ops.check import at_least_float32, check_array, check_epsilon

BoxFormat: TypeAlias = Literal["xyxy", "xywh", "cxcywh"]
"""Two corners; the upper left corner, width and height; or the centre, width and height."""

Overlap: TypeAlias = Literal["iou", "giou", "diou", "ciou"]
"""Intersection over union, and its generalized, distance and complete forms."""


def box_area(boxes: jax.Array) -> jax.Array:
    """Computes width * height.

    Args:
      boxes: shape (..., 4), in pixels.

    Returns:
      Shape (...), in square pixels; 0 for an empty box.

    Raises:
      ValueError: the last axis is not 4.
      TypeError: the boxes are not floating point.
    """
    (boxes,) = as_boxes("box_area", boxes=boxes)
    width, height = _sizes(boxes)
    return width * height


def pairwise_iou(boxes: jax.Array, others: jax.Array, *, kind: Overlap = "iou") -> jax.Array:
    """Computes the overlap of every box with every other one; see `aligned_iou`.

    Args:
      boxes: shape (n, 4), in pixels.
      others: shape (m, 4).
      kind: form of the overlap.

    Returns:
      Shape (n, m).

    Raises:
      ValueError: the shapes are not (n, 4) and (m, 4), or the kind is unknown.
      TypeError: the boxes are not floating point.
    """
    (boxes,), (others,) = as_boxes("pairwise_iou", boxes=boxes), as_boxes("pairwise_iou", others=others)
    if boxes.ndim != 2 or others.ndim != 2:
        raise ValueError(
            f"pairwise_iou expects boxes (n, 4) and others (m, 4) of one image, got {boxes.shape} and {others.shape}; "
            "map it over a batch with jax.vmap"
        )
    return aligned_iou(boxes[:, None], others[None, :], kind=kind)


def aligned_iou(boxes: jax.Array, others: jax.Array, *, kind: Overlap = "iou", epsilon: float = 0.0) -> jax.Array:
    """Computes the overlap of each box with the other one at its place.

    With I the area of the intersection, U that of the union, and C the smallest box around both:

        iou    I / U
        giou   iou - (area of C - U) / area of C         (Rezatofighi et al. 2019, algorithm 1)
        diou   iou - (distance of the centres / diagonal of C)^2           (Zheng et al. 2020, equation 7)
        ciou   diou - a v, v = 4 / pi^2 (difference of arctan(width / height))^2, a = v / (1 - iou + v), a constant in
               differentiation                           (same paper, equations 9 to 12)

    A quotient with the denominator 0 is 0, and so is its gradient: the overlap of two empty boxes, for example.

    Args:
      boxes: shape (..., 4), in pixels.
      others: shape (..., 4); the shapes are broadcast.
      kind: form of the overlap.
      epsilon: is added to every denominator, at least 0; torchvision's losses have 1e-7.

    Returns:
      Shape (...): "iou" in [0, 1], the other forms in (-1, 1], but for "ciou", which is greater than -2.

    Raises:
      ValueError: the last axes are not 4, the shapes cannot be broadcast, or the kind is unknown.
      TypeError: the boxes are not floating point.
    """
    boxes, others = as_boxes("aligned_iou", boxes=boxes, others=others)
    if kind not in get_args(Overlap):
        raise ValueError(f"aligned_iou expects a kind among {', '.join(get_args(Overlap))}, got {kind!r}")
    check_epsilon("aligned_iou", epsilon)
    x1, y1, x2, y2 = _split(boxes)
    left, top, right, bottom = _split(others)
    width, height = jnp.minimum(x2, right) - jnp.maximum(x1, left), jnp.minimum(y2, bottom) - jnp.maximum(y1, top)
    shared = jnp.where((width > 0) & (height > 0), width * height, 0)
    union = box_area(boxes) + box_area(others) - shared
    iou = _quotient(shared, union, epsilon)
    if kind == "iou":
        return iou
    outer_width = jnp.maximum(x2, right) - jnp.minimum(x1, left)
    outer_height = jnp.maximum(y2, bottom) - jnp.minimum(y1, top)
    if kind == "giou":
        outer = outer_width * outer_height
        return iou - _quotient(outer - union, outer, epsilon)
    distance = ((x1 + x2 - left - right) / 2) ** 2 + ((y1 + y2 - top - bottom) / 2) ** 2
    diou = iou - _quotient(distance, outer_width**2 + outer_height**2, epsilon)
    if kind == "diou":
        return diou
    v = (4 / math.pi**2) * (_aspect_angle(boxes) - _aspect_angle(others)) ** 2
    return diou - jax.lax.stop_gradient(_quotient(v, 1 - iou + v, epsilon)) * v


def convert_boxes(boxes: jax.Array, source: BoxFormat, target: BoxFormat) -> jax.Array:
    """Converts boxes from one format to another.

    Args:
      boxes: shape (..., 4), in the format `source`; in pixels or normalized.
      source: "xyxy": two corners; "xywh": upper left corner, width, height; "cxcywh": centre, width, height.
      target: the format to convert to.

    Returns:
      The same shape.

    Raises:
      ValueError: the last axis is not 4, or a format is unknown.
      TypeError: the boxes are not floating point.
    """
    (boxes,) = as_boxes("convert_boxes", boxes=boxes)
    for box_format in (source, target):
        if box_format not in get_args(BoxFormat):
            raise ValueError(
                f"convert_boxes expects formats among {', '.join(get_args(BoxFormat))}, got {box_format!r}"
            )
    if source == target:
        return boxes
    first, last = boxes[..., :2], boxes[..., 2:]
    if source == "xywh":
        first, last = first, first + last
    elif source == "cxcywh":
        first, last = first - last / 2, first + last / 2
    if target == "xywh":
        first, last = first, last - first
    elif target == "cxcywh":
        first, last = (first + last) / 2, last - first
    return jnp.concatenate([first, last], axis=-1)


def normalize_boxes(boxes: jax.Array, image_size: Any) -> jax.Array:
    """Divides boxes in pixels by the size of their image.

    Args:
      boxes: shape (..., 4), in pixels, in any `BoxFormat`.
      image_size: (height, width) in pixels: two numbers, or an array of shape (2,).

    Returns:
      The same shape, in [0, 1] for boxes inside the image.

    Raises:
      ValueError: the last axis is not 4, or `image_size` is not a pair.
      TypeError: the boxes are not floating point.
    """
    (boxes,) = as_boxes("normalize_boxes", boxes=boxes)
    return boxes / _extent("normalize_boxes", image_size, boxes.dtype)


def denormalize_boxes(boxes: jax.Array, image_size: Any) -> jax.Array:
    """Multiplies boxes by the size of their image: the inverse of `normalize_boxes`.

    Args:
      boxes: shape (..., 4), normalized, in any `BoxFormat`.
      image_size: (height, width) in pixels: two numbers, or an array of shape (2,).

    Returns:
      The same shape, in pixels.

    Raises:
      ValueError: the last axis is not 4, or `image_size` is not a pair.
      TypeError: the boxes are not floating point.
    """
    (boxes,) = as_boxes("denormalize_boxes", boxes=boxes)
    return boxes * _extent("denormalize_boxes", image_size, boxes.dtype)


def clip_boxes(boxes: jax.Array, image_size: Any) -> jax.Array:
    """Clips boxes to their image.

    Args:
      boxes: shape (..., 4), two corners, in pixels.
      image_size: (height, width) in pixels: two numbers, or an array of shape (2,).

    Returns:
      The same shape. A box outside of the image becomes empty.

    Raises:
      ValueError: the last axis is not 4, or `image_size` is not a pair.
      TypeError: the boxes are not floating point.
    """
    (boxes,) = as_boxes("clip_boxes", boxes=boxes)
    return jnp.clip(boxes, 0, jnp.broadcast_to(_extent("clip_boxes", image_size, boxes.dtype), boxes.shape))


def as_boxes(op: str, size: int = 4, **arrays: Any) -> tuple[jax.Array, ...]:
    """Turns boxes, points or offsets into arrays of one dtype.

    Args:
      op: name of the calling function, for the message.
      size: expected size of the last axis: 4, or 2 for points.
      **arrays: by the name of the argument.

    Returns:
      The arrays in their `common_dtype`.

    Raises:
      ValueError: the last axis has another size, or the shapes cannot be broadcast.
      TypeError: an argument is not an array, or not floating point.
    """
    for name, array in arrays.items():
        check_array(f"{op}, {name},", array)
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f"{op} expects {name} of floating point, got {array.dtype}; cast them to float32")
        if array.ndim == 0 or array.shape[-1] != size:
            raise ValueError(f"{op} expects {name} of shape (..., {size}), got {array.shape}")
    broadcast_shape(op, **{name: array.shape[:-1] for name, array in arrays.items()})
    wide = common_dtype(*arrays.values())
    return tuple(jnp.asarray(array, wide) for array in arrays.values())


def broadcast_shape(op: str, **shapes: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape that several shapes are broadcast to.

    Args:
      op: name of the calling function, for the message.
      **shapes: by the name of the argument.

    Returns:
      The shape.

    Raises:
      ValueError: the shapes cannot be broadcast.
    """
    try:
        return jnp.broadcast_shapes(*shapes.values())
    except ValueError:
        given = " and ".join(f"{shape} of {name}" for name, shape in shapes.items())
        raise ValueError(f"{op} expects shapes that can be broadcast, but for the last axis, got {given}") from None


def common_dtype(*arrays: Any) -> Any:
    """Returns the dtype to compute boxes in.

    Args:
      *arrays: floating point.

    Returns:
      float64 if an array is float64 and jax has 64-bit types enabled, else float32.
    """
    wide = any(at_least_float32(array.dtype) == jnp.float64 for array in arrays)
    return jax.dtypes.canonicalize_dtype(jnp.float64 if wide else jnp.float32)


def _split(boxes: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(boxes[..., i] for i in range(4))


def _sizes(boxes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns width and height, 0 where they would be negative."""
    x1, y1, x2, y2 = _split(boxes)
    # With the gradient 1 at 0, unlike `jnp.maximum`: an empty prediction can grow.
    return jnp.where(x2 < x1, 0, x2 - x1), jnp.where(y2 < y1, 0, y2 - y1)


def _quotient(numerator: jax.Array, denominator: jax.Array, epsilon: float) -> jax.Array:
    denominator = denominator + epsilon
    positive = denominator > 0
    # The inner selection keeps the gradient finite where the outer one discards the quotient.
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1), 0)


def _aspect_angle(boxes: jax.Array) -> jax.Array:
    """Returns arctan(width / height), 0 for a box of no width and no height."""
    width, height = _sizes(boxes)
    # At (0, 0) the arctangent has no gradient.
    return jnp.arctan2(width, jnp.where((width == 0) & (height == 0), 1, height))


def _extent(op: str, image_size: Any, dtype: Any) -> jax.Array:
    """Returns (width, height, width, height)."""
    pair = image_size if isinstance(image_size, jax.Array | np.ndarray) else np.asarray(image_size, np.float64)
    if pair.shape != (2,):
        raise ValueError(f"{op} expects an image_size (height, width), got {image_size!r}")
    pair = jnp.asarray(pair).astype(dtype)
    return jnp.concatenate([pair[::-1], pair[::-1]])
