"""Checks and draws that the augmentations share."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.ops.check import check_image, is_int, is_number


def check(function: str, name: str, value: Any, valid: bool, expected: str) -> None:
    """Refuses an option that is out of range.

    Args:
      function: name of the augmentation, for the message.
      name: name of the option.
      value: its value.
      valid: whether it is in range.
      expected: the range, such as "in [0, 1]".

    Raises:
      ValueError: it is not valid.
    """
    if not valid:
        raise ValueError(f"{function} expects {name} {expected}, got {value!r}")


def check_pixels(function: str, name: str, value: Any, high: int, low: int = 0) -> None:
    """Refuses an option that is no whole number of pixels from `low` to `high`; arguments as in `check`."""
    valid = is_int(value) and low <= value <= high
    check(function, name, value, valid, f"a whole number of pixels from {low} to {high} for this image")


def check_probability(function: str, value: Any) -> None:
    """Refuses an option `probability` outside of [0, 1]; arguments as in `check`."""
    check(function, "probability", value, is_number(value) and 0 <= value <= 1, "in [0, 1]")


def check_interval(
    function: str, name: str, value: Any, low: float, high: float, *, whole: bool = False, above: bool = False
) -> None:
    """Refuses an option that is no interval.

    Args:
      function: name of the augmentation, for the message.
      name: name of the option.
      value: expected to be a pair (least, greatest).
      low: smallest least value.
      high: largest greatest value.
      whole: whether both must be whole numbers.
      above: whether `low` itself is refused.

    Raises:
      ValueError: it is no such pair.
    """
    valid = (
        isinstance(value, tuple)
        and len(value) == 2
        and all((is_int if whole else is_number)(number) for number in value)
        and low <= value[0] <= value[1] <= high
        and not (above and value[0] == low)
        and value[1] < float("inf")
    )
    kind = "whole numbers" if whole else "numbers"
    bounds = f"{'above' if above else 'from'} {low:g}" + ("" if high == float("inf") else f" to {high:g}")
    check(function, name, value, valid, f"a pair of {kind} (least, greatest) {bounds}")


def check_colours(function: str, image: jax.Array) -> None:
    """Refuses anything but one floating-point image of 1 or 3 channels.

    Args:
      function: name of the augmentation, for the message.
      image: expected shape (height, width, 1 or 3).

    Raises:
      ValueError: `image` is not one image, or has another number of channels.
      TypeError: `image` is not floating point.
    """
    check_image(function, image)
    if image.shape[2] not in (1, 3):
        raise ValueError(f"{function} expects a grey or RGB image, of 1 or 3 channels, got shape {image.shape}")


def uniform(key: jax.Array, greatest: float, shape: tuple[int, ...] = ()) -> jax.Array:
    """Draws numbers in [-greatest, greatest], float32."""
    return jax.random.uniform(key, shape, jnp.float32, -greatest, greatest)
