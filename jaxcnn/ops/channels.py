"""Channels of one image: a part of them, and another order."""

import jax
import jax.numpy as jnp

from jaxcnn.ops.check import is_int


def channel_slice(x: jax.Array, start: int, stop: int) -> jax.Array:
    """Takes the channels from one number to another.

    Args:
      x: shape (..., channels).
      start: the first channel taken, counted from 0.
      stop: the first one behind them, at most `channels`.

    Returns:
      Shape (..., stop - start), dtype of `x`.

    Raises:
      ValueError: there are no such channels, or none is taken.
    """
    channels = _channels("channel_slice", x)
    if not (is_int(start) and is_int(stop) and 0 <= start < stop <= channels):
        raise ValueError(
            f"channel_slice expects ints with 0 <= start < stop <= {channels}, the number of channels, "
            f"got start={start!r} and stop={stop!r}"
        )
    return x[..., start:stop]


def channel_shuffle(x: jax.Array, groups: int) -> jax.Array:
    """Deals the channels of each group out over the whole (Zhang et al. 2018, "ShuffleNet", section 3.1).

    With 2 groups of 3 channels, the order is 0, 3, 1, 4, 2, 5: behind it, each group holds channels of all.

    Args:
      x: shape (..., channels).
      groups: number of groups, which divides the channels.

    Returns:
      Same shape and dtype as `x`: output channel i * groups + g is input channel g * (channels / groups) + i.

    Raises:
      ValueError: the groups do not divide the channels.
    """
    channels = _channels("channel_shuffle", x)
    if not is_int(groups) or groups < 1 or channels % groups:
        raise ValueError(f"channel_shuffle expects a number of groups that divides {channels} channels, got {groups!r}")
    grouped = x.reshape(*x.shape[:-1], groups, channels // groups)
    return jnp.swapaxes(grouped, -1, -2).reshape(x.shape)


def _channels(op: str, x: jax.Array) -> int:
    if x.ndim < 1 or not x.shape[-1]:
        raise ValueError(f"{op} expects channels on the last axis, got shape {x.shape}")
    return x.shape[-1]
