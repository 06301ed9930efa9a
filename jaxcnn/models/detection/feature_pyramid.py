"""Feature pyramids: maps of one number of channels, each with the meaning of the coarsest one.

Source: Lin, Dollár, Girshick, He, Hariharan & Belongie, "Feature pyramid networks for object detection", 2017; Lin,
Goyal, Girshick, He & Dollár, "Focal loss for dense object detection", 2017, for the levels P6 and P7.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from jaxcnn.layers import Composite, Conv, Function, Initializer, Run, Zip
from jaxcnn.models.blocks import Norm, conv, conv_norm
from jaxcnn.ops.resizing import resize
from jaxcnn.types import Layer

ExtraInput = Literal["backbone", "pyramid"]
"""What the levels after the last map are computed from: the last map of the backbone, or that of the pyramid."""

_lecun_uniform = Initializer(jax.nn.initializers.lecun_uniform)


@dataclass(frozen=True, repr=False)
class FeaturePyramid(Composite):
    """A path from the coarsest map down to the finest, joined with the maps of a backbone (Lin et al. 2017, figure 3).

    Attributes:
      laterals: 1x1 convolutions of the maps of the backbone.
      outputs: 3x3 convolutions of the sums.
      extra: computes coarser levels: a layer that returns a tuple of maps. None for no such levels.
      extra_input: what `extra` gets.
    """

    laterals: Zip
    outputs: Zip
    extra: Layer | None = None
    extra_input: ExtraInput = "pyramid"

    def __post_init__(self) -> None:
        if self.extra_input not in get_args(ExtraInput):
            raise ValueError(
                f"FeaturePyramid expects an extra_input among {get_args(ExtraInput)}, got {self.extra_input!r}"
            )

    def forward(self, run: Run, x: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        """Computes the levels of one image from maps (height, width, channels), the finest first."""
        *finer, top = run.laterals(x)
        merged = [top]
        for lateral in reversed(finer):
            top = lateral + resize(top, lateral.shape[:2], method="nearest")
            merged.insert(0, top)
        levels = run.outputs(tuple(merged))
        if self.extra is None:
            return levels
        return *levels, *run.extra((x if self.extra_input == "backbone" else levels)[-1])


@dataclass(frozen=True, repr=False)
class CoarserLevels(Composite):
    """The levels P6 and P7 of RetinaNet: strided convolutions, with a ReLU between them (Lin et al. 2017, footnote 2).

    Attributes:
      p6: convolution of the last map.
      p7: convolution of the result.
    """

    p6: Layer
    p7: Layer

    def forward(self, run: Run, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Computes two maps of one image, each half as large as the one before."""
        p6 = run.p6(x)
        return p6, run.p7(jax.nn.relu(p6))


def feature_pyramid(
    in_channels: Sequence[int],
    channels: int = 256,
    *,
    first: int = 3,
    extra_input: ExtraInput | Literal["pooled"] | None = None,
    norm: Norm | None = None,
) -> FeaturePyramid:
    """Builds a feature pyramid.

    Args:
      in_channels: channels of the maps of the backbone, the finest first.
      channels: channels of each level.
      first: number of the finest level: 3 for "p3", of stride 8.
      extra_input: what P6 and P7, or two other levels after the last map, are computed from; None for none. "pooled"
        is one level, every second pixel of the last one.
      norm: makes the normalisation after each convolution of the maps, which then has no bias; None for none.

    Returns:
      The pyramid: laterals, outputs, extra, with levels such as p3, p4, p5 and p6, p7.
    """

    def build(in_channels: int, kernel_size: int) -> Any:
        if norm is not None:
            return conv_norm(in_channels, channels, kernel_size, norm=norm, kernel_init=_lecun_uniform)
        return conv(in_channels, channels, kernel_size, use_bias=True, kernel_init=_lecun_uniform)

    names = [f"p{first + i}" for i in range(len(in_channels))]
    laterals = Zip(**{name: build(size, 1) for name, size in zip(names, in_channels, strict=True)})
    outputs = Zip(**{name: build(channels, 3) for name in names})
    if extra_input is None:
        return FeaturePyramid(laterals, outputs)
    if extra_input == "pooled":
        return FeaturePyramid(laterals, outputs, Function(every_second))
    before = in_channels[-1] if extra_input == "backbone" else channels
    extra = CoarserLevels(strided(before, channels), strided(channels, channels))
    return FeaturePyramid(laterals, outputs, extra, extra_input)


def every_second(x: jax.Array) -> tuple[jax.Array]:
    """Returns every second pixel of a map, as the only one of a tuple (Lin et al. 2017, section 4.1, footnote).

    Args:
      x: shape (height, width, channels).
    """
    return (x[::2, ::2],)


def join_finer(x: jax.Array, finer: Any) -> jax.Array:
    """Enlarges a map to the size of a finer one, to the nearest place, and concatenates both.

    Args:
      x: shape (height, width, channels).
      finer: shape of more places, (height, width, channels).

    Returns:
      The channels of `x`, and then those of the finer map.
    """
    return jnp.concatenate([resize(x, finer.shape[:2], method="nearest"), finer], axis=-1)


def strided(in_channels: int, out_channels: int) -> Conv:
    """Builds a 3x3 convolution that halves a map, odd sizes rounded up.

    Args:
      in_channels: channels of the map.
      out_channels: channels of the result.

    Returns:
      The layer.
    """
    return conv(in_channels, out_channels, 3, 2, use_bias=True, kernel_init=_lecun_uniform)
