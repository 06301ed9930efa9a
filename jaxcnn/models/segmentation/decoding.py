"""What the decoders of segmentation models share: convolutions with ReLU, joined maps, and the model around them.

The decoders are those of segmentation_models_pytorch (Iakubovskii 2019), so that its weights fit.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxcnn.layers import Backbone, Conv, Function, Initializer, Resize, Sequential
from jaxcnn.models.blocks import Norm, conv, conv_norm, relu
from jaxcnn.models.segmentation.encoders import encoder as build_encoder
from jaxcnn.models.segmentation.u_net import check_size
from jaxcnn.ops.resizing import Method, resize
from jaxcnn.types import Layer

he_uniform = Initializer(jax.nn.initializers.he_uniform)
_glorot_uniform = Initializer(jax.nn.initializers.glorot_uniform)


def conv_relu(
    in_channels: int, out_channels: int, kernel_size: int = 3, *, norm: Norm | None, activation: Function = relu
) -> Sequential:
    """Builds a convolution, its normalisation and an activation.

    Args:
      in_channels: channels of the map.
      out_channels: channels of the result.
      kernel_size: height and width of the kernel, in taps; odd.
      norm: makes the normalisation; with None the convolution has a bias instead.
      activation: the nonlinearity.

    Returns:
      The layers conv, norm and relu.
    """
    if norm is None:
        first = conv(in_channels, out_channels, kernel_size, use_bias=True, kernel_init=he_uniform)
        return Sequential(conv=first, relu=activation)
    return conv_norm(in_channels, out_channels, kernel_size, norm=norm, kernel_init=he_uniform, relu=activation)


def doubled(x: jax.Array, method: Method = "nearest", *, align_corners: bool = False) -> jax.Array:
    """Resizes a map to twice its height and width; see `jaxcnn.ops.resize`."""
    return resize(x, (2 * x.shape[0], 2 * x.shape[1]), method=method, align_corners=align_corners)


def joined(maps: Sequence[jax.Array]) -> jax.Array:
    """Concatenates the channels of maps of one size.

    Args:
      maps: shapes (height, width, any).

    Returns:
      Shape (height, width, all channels).

    Raises:
      ValueError: the sizes differ.
    """
    if len({x.shape[:2] for x in maps}) > 1:
        raise ValueError(
            f"a decoder expects maps of an encoder that are each twice as large as the next, got {maps[0].shape} "
            f"beside {maps[1].shape}; take an encoder whose convolutions are padded"
        )
    return jnp.concatenate(maps, axis=-1)


def encoder_decoder(
    model: str,
    encoder: Backbone,
    decoder: Layer,
    channels: int,
    num_classes: int,
    *,
    depth: int,
    head_size: int = 3,
    upsampling: int = 1,
) -> Sequential:
    """Puts a segmentation model together.

    Args:
      model: name of the model, for messages.
      encoder: gives the maps of an image, the finest first.
      decoder: turns them into one map.
      channels: channels of that map.
      num_classes: number of logits of each pixel.
      depth: how often the encoder halves the image.
      head_size: height and width of the kernel of the head, in taps.
      upsampling: ratio of the size of the image to that of the map.

    Returns:
      The model: check, encoder, decoder, head and upsample.
    """
    head = Conv(channels, num_classes, head_size, padding=head_size // 2, kernel_init=_glorot_uniform)
    upsample = {"upsample": Resize(scale_factor=upsampling, align_corners=True)} if upsampling > 1 else {}
    check = Function(check_size, depth=depth, model=model)
    return Sequential(check=check, encoder=encoder, decoder=decoder, head=head, **upsample)


def encoder_and_channels(
    encoder: str | Backbone, depth: int, in_channels: int, output_stride: int = 32
) -> tuple[Backbone, list[int]]:
    """Returns an encoder and the channels of its maps.

    Args:
      encoder: name of a classifier of the catalog, or the encoder itself.
      depth: as in `jaxcnn.models.segmentation.encoders.encoder`.
      in_channels: channels of the image.
      output_stride: as there.

    Returns:
      The encoder, and the channels of its maps, the finest first.
    """
    if isinstance(encoder, str):
        encoder = build_encoder(encoder, depth=depth, in_channels=in_channels, output_stride=output_stride)
    return encoder, [level.channels for level in encoder.levels(in_channels)]
