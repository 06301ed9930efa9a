"""Normalisation layers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn import ops
from jaxcnn.layers.drawing import draw, fill, split_key
from jaxcnn.layers.parameters import check_last_sizes, check_positive, check_shapes
from jaxcnn.ops.check import at_least_float32, check_epsilon
from jaxcnn.types import Params, Shape, State
from jaxcnn.values import Value


@dataclass(frozen=True, repr=False)
class BatchNorm(Value):
    """Batch normalisation over the pixels and images of a batch (Ioffe & Szegedy 2015).

    In training, the moments are those of the whole batch, computed over the named axis of `jax.vmap`. The running
    moments follow them: running = decay * running + (1 - decay) * batch. In evaluation, the running moments are used,
    so that an image's output does not depend on the others. Moments are float32.

    Attributes:
      channels: channels of the image (its last axis).
      decay: weight of the old running moments, in [0, 1]; 1 keeps them unchanged. torch's momentum is 1 - decay.
      epsilon: added to the variance; at least 0.
      use_scale: whether to train a scale.
      use_bias: whether to train a bias.
      unbiased: whether the running variance is divided by n - 1, as in torch, or by n, as in flax and Keras. The
        normalisation itself always divides by n.
      scale_init: draws the scale; zeros make a residual branch start at zero.
      bias_init: draws the bias.
      axis_name: name of the batch axis of `jax.vmap`.
    """

    channels: int
    decay: float = 0.9
    epsilon: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True
    unbiased: bool = True
    scale_init: Callable[..., jax.Array] = jax.nn.initializers.ones
    bias_init: Callable[..., jax.Array] = jax.nn.initializers.zeros
    axis_name: str = "batch"

    def __post_init__(self) -> None:
        check_positive("BatchNorm", "channels", self.channels)
        check_epsilon("BatchNorm", self.epsilon)
        if not 0 <= self.decay <= 1:
            raise ValueError(f"BatchNorm expects a decay in [0, 1], got {self.decay!r}")

    def init(self, key: jax.Array) -> tuple[Params, State]:
        """Draws scale and bias; the running mean is 0 and the running variance 1."""
        shape = (self.channels,)
        return _init_scale_and_bias(self, key), {"mean": fill(0, key, shape), "var": fill(1, key, shape)}

    def apply(
        self,
        params: Params,
        state: State,
        x: jax.Array,
        *,
        train: bool,
        key: jax.Array | None = None,
        mask: jax.Array | None = None,
    ) -> tuple[jax.Array, State]:
        """Normalises one image (height, width, channels) of a batch, or its features (channels,).

        `mask` selects the values that count for the moments in training, as in `jaxcnn.ops.batch_moments`: it is False
        for an image that only pads the batch.
        """
        del key
        check_shapes("BatchNorm parameters", params, _affine_shapes(self))
        check_shapes("BatchNorm state", state, {"mean": (self.channels,), "var": (self.channels,)})
        check_last_sizes("BatchNorm", (self.channels,), x)
        mean, var = state["mean"], state["var"]
        # Cast once: the gradients of moments and normalisation nearly cancel, and must not be rounded before their sum.
        wide = x.astype(at_least_float32(x.dtype))
        if train:
            mean, var = ops.batch_moments(wide, self.axis_name, mask=mask)
            state = self._update(state, mean, var, ops.batch_count(wide, self.axis_name, mask=mask))
        y = ops.normalize(wide, mean, var, params.get("scale"), params.get("bias"), epsilon=self.epsilon)
        return y.astype(x.dtype), state

    def _update(self, state: State, mean: jax.Array, var: jax.Array, count: int | jax.Array) -> State:
        if isinstance(count, int) and count < 2:
            raise ValueError(
                "BatchNorm expects at least two values of each channel in training, got a batch of one value, "
                "which has no variance; use a larger batch or train=False"
            )
        decay: Any = self.decay
        if not isinstance(count, int):
            # The running variance is not updated if fewer than two values count.
            decay, count = jnp.where(count < 2, 1.0, decay), jnp.maximum(count, 2).astype(var.dtype)
        if self.unbiased:
            var = var * (count / (count - 1))
        new = {"mean": mean, "var": var}
        return {
            name: (decay * old + (1 - decay) * jax.lax.stop_gradient(new[name])).astype(old.dtype)
            for name, old in state.items()
        }


@dataclass(frozen=True, repr=False)
class GroupNorm(Value):
    """Group normalisation of one image (Wu & He 2018): `jaxcnn.ops.group_norm` with trained scale and bias.

    Attributes:
      channels: channels of the image.
      num_groups: number of groups of neighbouring channels; it divides the channels.
      epsilon: added to the variance; at least 0.
      use_scale: whether to train a scale.
      use_bias: whether to train a bias.
      scale_init: draws the scale.
      bias_init: draws the bias.
    """

    channels: int
    num_groups: int = 32
    epsilon: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True
    scale_init: Callable[..., jax.Array] = jax.nn.initializers.ones
    bias_init: Callable[..., jax.Array] = jax.nn.initializers.zeros

    def __post_init__(self) -> None:
        check_positive("GroupNorm", "channels", self.channels)
        check_positive("GroupNorm", "num_groups", self.num_groups)
        check_epsilon("GroupNorm", self.epsilon)
        if self.channels % self.num_groups:
            raise ValueError(
                f"GroupNorm expects num_groups to divide the {self.channels} channels, got {self.num_groups}"
            )

    def init(self, key: jax.Array) -> tuple[Params, State]:
        """Draws scale and bias."""
        return _init_scale_and_bias(self, key), {}

    def apply(
        self, params: Params, state: State, x: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, State]:
        """Normalises one image (height, width, channels)."""
        del train, key
        check_shapes("GroupNorm parameters", params, _affine_shapes(self))
        y = ops.group_norm(x, self.num_groups, params.get("scale"), params.get("bias"), epsilon=self.epsilon)
        return y, state


@dataclass(frozen=True, repr=False)
class LayerNorm(Value):
    """Layer normalisation (Ba et al. 2016): `jaxcnn.ops.layer_norm` with trained scale and bias.

    Attributes:
      channels: size of the last axis, to normalise each pixel over its channels; or the sizes of several last axes, to
        normalise over all of them: (height, width, channels) for a whole image. torch's normalized_shape.
      epsilon: added to the variance; at least 0.
      use_scale: whether to train a scale.
      use_bias: whether to train a bias.
      scale_init: draws the scale.
      bias_init: draws the bias.
    """

    channels: int | tuple[int, ...]
    epsilon: float = 1e-6
    use_scale: bool = True
    use_bias: bool = True
    scale_init: Callable[..., jax.Array] = jax.nn.initializers.ones
    bias_init: Callable[..., jax.Array] = jax.nn.initializers.zeros

    def __post_init__(self) -> None:
        if isinstance(self.channels, list | tuple):
            # `(n,)` becomes `n`, so that equal layers compare equal.
            sizes = tuple(self.channels)
            if not sizes:
                raise ValueError("LayerNorm expects the sizes of one or more axes, got ()")
            object.__setattr__(self, "channels", sizes[0] if len(sizes) == 1 else sizes)
        for size in self.sizes:
            check_positive("LayerNorm", "channels", size)
        check_epsilon("LayerNorm", self.epsilon)

    @property
    def sizes(self) -> Shape:
        """Sizes of the last axes, over which the layer normalises."""
        return self.channels if isinstance(self.channels, tuple) else (self.channels,)

    def init(self, key: jax.Array) -> tuple[Params, State]:
        """Draws scale and bias."""
        return _init_scale_and_bias(self, key), {}

    def apply(
        self, params: Params, state: State, x: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, State]:
        """Normalises the last axes of `x`, shape (..., *sizes)."""
        del train, key
        check_shapes("LayerNorm parameters", params, _affine_shapes(self))
        check_last_sizes("LayerNorm", self.sizes, x)
        y = ops.layer_norm(x, params.get("scale"), params.get("bias"), num_axes=len(self.sizes), epsilon=self.epsilon)
        return y, state


def _affine_shapes(layer: BatchNorm | GroupNorm | LayerNorm) -> dict[str, Shape]:
    shape = layer.sizes if isinstance(layer, LayerNorm) else (layer.channels,)
    return {name: shape for name, is_used in (("scale", layer.use_scale), ("bias", layer.use_bias)) if is_used}


def _init_scale_and_bias(layer: BatchNorm | GroupNorm | LayerNorm, key: jax.Array) -> Params:
    initializers = {"scale": layer.scale_init, "bias": layer.bias_init}
    shapes = _affine_shapes(layer)
    keys = split_key(key, 2)
    return {name: draw(initializers[name], k, shapes[name]) for name, k in zip(shapes, keys, strict=False)}
