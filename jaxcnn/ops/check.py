"""Checks the arguments of the ops: images, sizes, paddings. The errors say what to write instead."""

from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.export import is_symbolic_dim

Size: TypeAlias = int | tuple[int, int]
"""(height, width), or one int for both."""

Sides: TypeAlias = tuple[tuple[int, int], tuple[int, int]]
"""((top, bottom), (left, right)), in pixels."""

Padding: TypeAlias = Literal["VALID", "SAME", "SAME_LOWER"] | int | Sides
"""No border ("VALID"); ceil(size / strides) outputs, with the odd pixel at the bottom and right ("SAME") or at the top
and left ("SAME_LOWER"); an int for all sides; or each side by itself."""


def at_least_float32(dtype: Any) -> Any:
    """Returns the dtype for sums.

    Args:
      dtype: a floating-point dtype.

    Returns:
      float64 for float64, float32 for all others.
    """
    return jnp.float64 if dtype == jnp.float64 else jnp.float32


def check_array(op: str, x: Any) -> None:
    """Refuses a tree of arrays, a list or a number where one array is expected.

    Args:
      op: name of the calling function, for the message.
      x: expected to be an array.

    Raises:
      TypeError: `x` is not an array.
    """
    if not isinstance(x, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct):
        names = f" of {', '.join(map(repr, x))}" if isinstance(x, dict) else ""
        advice = "; choose one of its arrays" if isinstance(x, dict | tuple | list) else ""
        raise TypeError(f"{op} expects an array, got a {type(x).__name__}{names}{advice}")


def check_floating(op: str, x: jax.Array) -> None:
    """Refuses anything but arrays of floating point.

    Args:
      op: name of the calling function, for the message.
      x: any array.

    Raises:
      TypeError: `x` is not an array, or not floating point.
    """
    check_array(op, x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"{op} expects floating point values, got {x.dtype}; convert first, "
            "for example image.astype(jnp.float32) / 255"
        )


def check_image(op: str, x: jax.Array) -> None:
    """Refuses anything but one floating-point image.

    Args:
      op: name of the calling function, for the message.
      x: expected shape (height, width, channels).

    Raises:
      ValueError: `x` does not have three axes, or one of them is empty.
      TypeError: `x` is not an array, or not floating point.
    """
    check_array(op, x)
    if x.ndim != 3:
        advice = "; map it over a batch with jaxcnn.batched or jax.vmap" if x.ndim == 4 else ""
        raise ValueError(f"{op} expects one image of shape (height, width, channels), got {x.shape}{advice}")
    if 0 in x.shape:
        raise ValueError(f"{op} expects an image with pixels and channels, got the empty shape {x.shape}")
    check_floating(op, x)


def as_pair(name: str, value: Any, *, minimum: int = 1) -> tuple[int, int]:
    """Turns an int or a pair of ints into a pair.

    Args:
      name: name of the argument, for the message.
      value: one int for both axes, or (height, width).
      minimum: smallest allowed value.

    Returns:
      (height, width).

    Raises:
      ValueError: anything else.
    """
    pair = (value, value) if is_int(value) else value
    if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(is_int(v) and v >= minimum for v in pair)):
        raise ValueError(f"{name} expects an int or a pair of ints, each at least {minimum}, got {value!r}")
    return int(pair[0]), int(pair[1])


def as_image_size(name: str, value: Any) -> tuple[int, int]:
    """Turns an int or a pair into the size of an image, which may be symbolic while a program is exported.

    Args:
      name: name of the argument, for the message.
      value: one size for both axes, or (height, width); ints of at least 1 or symbolic dimensions (`jax.export`).

    Returns:
      (height, width).

    Raises:
      ValueError: anything else.
    """
    pair = (value, value) if is_symbolic_dim(value) else value
    if isinstance(pair, tuple | list) and len(pair) == 2 and any(map(is_symbolic_dim, pair)):
        sizes: list[Any] = [n if is_symbolic_dim(n) else as_pair(name, n)[0] for n in pair]
        return sizes[0], sizes[1]
    return as_pair(name, value)


def as_scale(name: str, value: Any) -> tuple[float, float]:
    """Turns a number or a pair of numbers into a pair of factors.

    Args:
      name: name of the argument, for the message.
      value: one factor for both axes, or (vertical, horizontal); finite and more than 0.

    Returns:
      (vertical, horizontal).

    Raises:
      ValueError: anything else.
    """
    pair = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(pair) != 2 or not all(is_number(v) and 0 < v < np.inf for v in pair):
        raise ValueError(f"{name} expects a number or a pair of numbers, each finite and more than 0, got {value!r}")
    return float(pair[0]), float(pair[1])


def as_adaptive_size(value: Any, size: tuple[int, int]) -> tuple[int, int]:
    """Turns the `output_shape` of an adaptive pooling into (height, width).

    Args:
      value: an int or (height, width), ints of at least 1 or symbolic dimensions; None keeps the size of an axis.
      size: (height, width) of the image.

    Returns:
      (height, width).

    Raises:
      ValueError: anything else.
    """
    pair = value if isinstance(value, tuple | list) and len(value) == 2 else (value, value)
    if pair is value or value is None:
        return as_image_size("output_shape", tuple(n if v is None else v for v, n in zip(pair, size, strict=True)))
    return as_image_size("output_shape", value)


def as_padding(value: Any) -> Literal["VALID", "SAME", "SAME_LOWER"] | Sides:
    """Turns a padding into its name or a number for each side.

    Args:
      value: "VALID", "SAME", "SAME_LOWER", an int for all sides, or ((top, bottom), (left, right)).

    Returns:
      "VALID", "SAME", "SAME_LOWER" or ((top, bottom), (left, right)).

    Raises:
      ValueError: anything else, negative numbers included.
    """
    for name in ("VALID", "SAME", "SAME_LOWER"):
        if isinstance(value, str) and value == name:
            return name
    if is_int(value) and int(value) >= 0:
        side = (int(value), int(value))
        return side, side
    if (
        isinstance(value, tuple | list)
        and len(value) == 2
        and all(isinstance(side, tuple | list) and len(side) == 2 for side in value)
        and all(is_symbolic_dim(v) or (is_int(v) and v >= 0) for side in value for v in side)
    ):
        pixels: list[Any] = [v if is_symbolic_dim(v) else int(v) for side in value for v in side]
        return (pixels[0], pixels[1]), (pixels[2], pixels[3])
    raise ValueError(
        "padding expects 'VALID', 'SAME', 'SAME_LOWER', an int of at least 0 or ((top, bottom), (left, right)) of such "
        f"ints, got {value!r}"
    )


def check_rate(op: str, rate: float) -> None:
    """Refuses rates outside [0, 1).

    Args:
      op: name of the calling function, for the message.
      rate: probability of dropping.

    Raises:
      ValueError: `rate` is outside [0, 1).
    """
    if not isinstance(rate, int | float | np.floating) or isinstance(rate, bool) or not 0 <= rate < 1:
        raise ValueError(f"{op} expects a rate (the probability of dropping) in [0, 1), got {rate!r}")


def check_epsilon(op: str, epsilon: float) -> None:
    """Refuses a negative or non-finite epsilon.

    Args:
      op: name of the calling function, for the message.
      epsilon: the number added to a variance.

    Raises:
      ValueError: `epsilon` is negative or not finite.
    """
    if not isinstance(epsilon, int | float | np.floating) or not 0 <= epsilon < float("inf"):
        raise ValueError(f"{op} expects a finite epsilon of at least 0, got {epsilon!r}")


def check_vector(op: str, name: str, vector: jax.Array | None, channels: int) -> None:
    """Refuses a per-channel vector of the wrong length or dtype.

    Args:
      op: name of the calling function, for the message.
      name: name of the argument, for the message.
      vector: expected shape (channels,), or None.
      channels: number of channels of the image.

    Raises:
      ValueError: the shape does not match.
      TypeError: the vector is not floating point.
    """
    if vector is None:
        return
    check_floating(f"{op}, {name}", vector)
    if vector.shape != (channels,):
        raise ValueError(f"{op} expects a {name} of shape ({channels},), one for each channel, got {vector.shape}")


def is_int(value: Any) -> bool:
    """Returns whether a value is a Python or NumPy int, and not a bool.

    Args:
      value: anything.

    Returns:
      Whether `value` is an int.
    """
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Returns whether a value is a Python or NumPy number, and neither a bool nor NaN.

    Args:
      value: anything.

    Returns:
      Whether `value` is a real number or an infinity.
    """
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool) and value == value
