"""LinkNet: the way up adds the maps of the encoder instead of joining them.

Source: Chaurasia & Culurciello, "LinkNet: exploiting encoder representations for efficient semantic segmentation",
2017. The sizes are those of segmentation_models_pytorch (Iakubovskii 2019).
"""

import jax

from jaxcnn.layers import Backbone, BatchNorm, ConvTranspose, Function, Run, Sequential
from jaxcnn.layers.containers import NamedLayers
from jaxcnn.models.blocks import Norm, relu
from jaxcnn.models.segmentation.decoding import conv_relu, encoder_and_channels, encoder_decoder, he_uniform
from jaxcnn.types import Layer

_LAST = 32
"""Channels of the last block's result (figure 1)."""


def linknet(
    num_classes: int = 2,
    encoder: str | Backbone = "resnet34",
    *,
    in_channels: int = 3,
    norm: Norm | None = BatchNorm,
    activation: Function = relu,
    depth: int = 5,
) -> Sequential:
    """Builds a LinkNet: `Linknet` of segmentation_models_pytorch (Chaurasia & Culurciello 2017, figures 1 and 3).

    Args:
      num_classes: number of logits of each pixel.
      encoder: name of a classifier of the catalog, such as "resnet34"; or the encoder itself, with a map of every
        stride from 2 to 2**depth.
      in_channels: channels of the image.
      norm: makes the normalisations of the decoder; None for none, with biases instead.
      activation: the nonlinearity of the decoder.
      depth: how often the encoder halves the image: from 3 to 5.

    Returns:
      The model: check, encoder, decoder, head. An image (height, width, in_channels), both multiples of 2**depth, gives
      a map of logits, shape (height, width, num_classes).

    Raises:
      ValueError: there is no such encoder, or it has not a map of every stride.
    """
    encoder, channels = encoder_and_channels(encoder, depth, in_channels)
    if len(channels) != depth:
        raise ValueError(
            f"linknet expects an encoder with {depth} maps, of the strides 2 to {2**depth}, got {len(channels)}"
        )
    widths = [*channels[::-1], _LAST]
    blocks = {f"block{i}": _block(widths[i], widths[i + 1], norm, activation) for i in range(depth)}
    return encoder_decoder("linknet", encoder, LinkNetDecoder(**blocks), _LAST, num_classes, depth=depth, head_size=1)


def _block(in_channels: int, out_channels: int, norm: Norm | None, activation: Function) -> Sequential:
    middle = in_channels // 4
    up = ConvTranspose(middle, middle, 4, 2, 1, kernel_init=he_uniform)
    layers: dict[str, Layer] = {"conv": up} if norm is None else {"conv": up, "norm": norm(middle)}
    return Sequential(
        conv1=conv_relu(in_channels, middle, 1, norm=norm, activation=activation),
        up=Sequential(**layers, relu=activation),
        conv2=conv_relu(middle, out_channels, 1, norm=norm, activation=activation),
    )


class LinkNetDecoder(NamedLayers):
    """The way up: blocks that double the map, each followed by the sum with a map of the encoder.

    It takes the maps of an encoder, the finest first.

    Args:
      **blocks: the blocks by name, the coarsest first.
    """

    def forward(self, run: Run, x: tuple[jax.Array, ...]) -> jax.Array:
        """Turns the maps of an encoder into one."""
        *skips, y = x
        for name in self.children():
            y = run[name](y)
            if skips:
                y = y + skips.pop()
        return y
