"""U-Net with a classifier as its way down, and U-Net++.

Source: Ronneberger, Fischer & Brox, "U-Net: convolutional networks for biomedical image segmentation", 2015; Roy, Navab
& Wachinger, "Concurrent spatial and channel 'squeeze & excitation' in fully convolutional networks", 2018; Zhou,
Siddiquee, Tajbakhsh & Liang, "UNet++: a nested U-Net architecture for medical image segmentation", 2018. The sizes are
those of segmentation_models_pytorch (Iakubovskii 2019).
"""

from dataclasses import dataclass

import jax

from jaxcnn.layers import Backbone, BatchNorm, Composite, Conv, Function, Gate, Residual, Run, Sequential, identity
from jaxcnn.layers.containers import NamedLayers
from jaxcnn.models.blocks import Norm, relu, sigmoid, squeeze_excite
from jaxcnn.models.segmentation.decoding import conv_relu, doubled, encoder_and_channels, encoder_decoder, joined
from jaxcnn.ops.resizing import Method
from jaxcnn.types import Layer


def encoder_unet(
    num_classes: int = 2,
    encoder: str | Backbone = "resnet34",
    *,
    in_channels: int = 3,
    norm: Norm | None = BatchNorm,
    activation: Function = relu,
    decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16),
    attention: bool = False,
    center: bool | None = None,
    method: Method = "nearest",
) -> Sequential:
    """Builds a U-Net whose way down is a classifier: `Unet` of segmentation_models_pytorch.

    Each block of the way up doubles the map, joins that of the encoder, and applies two 3x3 convolutions.

    Args:
      num_classes: number of logits of each pixel.
      encoder: name of a classifier of the catalog, such as "resnet34"; or the encoder itself, whose last stride is
        2 to the number of blocks.
      in_channels: channels of the image.
      norm: makes the normalisations of the decoder; None for none, with biases instead.
      activation: the nonlinearity of the decoder.
      decoder_channels: channels of each block of the way up, the coarsest first: from three to five blocks.
      attention: whether squeeze-and-excitations weigh the joined maps and the results of the blocks, over channels and
        over pixels (Roy et al. 2018, figure 1d).
      center: whether two convolutions stand between encoder and decoder; None for True with VGG, False otherwise.
      method: how the maps are doubled; see `jaxcnn.ops.resize`.

    Returns:
      The model: check, encoder, decoder, head. Parameters are named like `encoder/stage1/block0/conv1/kernel` and
      `decoder/block0/conv1/conv/kernel`. An image (height, width, in_channels), both multiples of 2 to the number of
      blocks, gives a map of logits, shape (height, width, num_classes).

    Raises:
      ValueError: there is no such encoder.
    """
    depth = len(decoder_channels)
    center = str(encoder).startswith("vgg") if center is None else center
    encoder, channels = encoder_and_channels(encoder, depth, in_channels)
    blocks: dict[str, Layer] = {}
    *skips, below = channels
    if center:
        blocks["center"] = Sequential(
            conv1=conv_relu(below, below, norm=norm, activation=activation),
            conv2=conv_relu(below, below, norm=norm, activation=activation),
        )
    for i, out_channels in enumerate(decoder_channels):
        skip = skips.pop() if skips else 0
        # The last block joins nothing, so nothing is weighed before its convolutions.
        weighed = attention and i < depth - 1
        blocks[f"block{i}"] = _up_block(below + skip, out_channels, norm, activation, weighed, attention, method)
        below = out_channels
    return encoder_decoder("encoder_unet", encoder, UNetDecoder(**blocks), below, num_classes, depth=depth)


def unet_plus_plus(
    num_classes: int = 2,
    encoder: str | Backbone = "resnet34",
    *,
    in_channels: int = 3,
    norm: Norm | None = BatchNorm,
    activation: Function = relu,
    decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16),
    attention: bool = False,
    method: Method = "nearest",
) -> Sequential:
    """Builds a U-Net++: `UnetPlusPlus` of segmentation_models_pytorch (Zhou et al. 2018, figure 1a).

    Between the maps of the encoder and those of the way up lie further blocks, each of which takes the map below it and
    all maps before it of its own size.

    Args:
      num_classes: number of logits of each pixel.
      encoder: as in `encoder_unet`; it has a map of every stride from 2 on.
      in_channels: channels of the image.
      norm: as in `encoder_unet`.
      activation: as in `encoder_unet`.
      decoder_channels: as in `encoder_unet`.
      attention: as in `encoder_unet`.
      method: as in `encoder_unet`.

    Returns:
      The model, as that of `encoder_unet`. The block `x_i_j` of the decoder has the map of level j, counted from the
      coarsest, and starts from the map of the encoder at level i.

    Raises:
      ValueError: there is no such encoder, or it has not a map of every stride.
    """
    depth = len(decoder_channels)
    encoder, channels = encoder_and_channels(encoder, depth, in_channels)
    if len(channels) != depth:
        raise ValueError(
            f"unet_plus_plus expects an encoder with {depth} maps, of the strides 2 to {2**depth}, got {len(channels)}"
        )
    skips = channels[-2::-1]
    blocks: dict[str, Layer] = {}
    for level, skip in enumerate(skips):
        for start in range(level + 1):
            below = skips[level - 1] if start else (decoder_channels[level - 1] if level else channels[-1])
            out_channels = skip if start else decoder_channels[level]
            joined_channels = below + skip * (level + 1 - start)
            blocks[f"x_{start}_{level}"] = _up_block(
                joined_channels, out_channels, norm, activation, attention, attention, method
            )
    blocks[f"x_0_{depth - 1}"] = _up_block(
        decoder_channels[-2], decoder_channels[-1], norm, activation, False, attention, method
    )
    decoder = UNetPlusPlusDecoder(**blocks)
    return encoder_decoder("unet_plus_plus", encoder, decoder, decoder_channels[-1], num_classes, depth=depth)


class UNetDecoder(NamedLayers):
    """The way up of a U-Net: blocks in a row, each of which takes the result before it and a map of the encoder.

    It takes the maps of an encoder, the finest first. A layer named "center" comes before the blocks, and takes the
    coarsest map.

    Args:
      **blocks: the blocks by name, the coarsest first.
    """

    def forward(self, run: Run, x: tuple[jax.Array, ...]) -> jax.Array:
        """Turns the maps of an encoder into one."""
        *skips, y = x
        for name in self.children():
            y = run.center(y) if name == "center" else run[name]((y, skips.pop()) if skips else (y,))
        return y


class UNetPlusPlusDecoder(NamedLayers):
    """The nested blocks of a U-Net++, which take the maps of an encoder, the finest first.

    Args:
      **blocks: the blocks by name: `x_i_j` has the map of level j, counted from the coarsest, and starts at level i.
    """

    def forward(self, run: Run, x: tuple[jax.Array, ...]) -> jax.Array:
        """Turns the maps of an encoder into one."""
        *skips, coarsest = x
        skips = skips[::-1]
        found: dict[tuple[int, int], jax.Array] = {}
        for level, skip in enumerate(skips):
            for start in reversed(range(level + 1)):
                below = found[start, level - 1] if start < level else (coarsest, *skips)[level]
                same = [found[other, level] for other in range(start + 1, level + 1)]
                found[start, level] = run[f"x_{start}_{level}"]((below, *same, skip))
        last = len(skips)
        return run[f"x_0_{last}"]((found[0, last - 1],))


@dataclass(frozen=True, repr=False)
class UpBlock(Composite):
    """Doubles a map, joins others of that size, and applies two convolutions.

    It takes a tuple: the map to double, then the others.

    Attributes:
      conv1: the first convolution, with normalisation and activation.
      conv2: the second one.
      attention1: weighs the joined maps.
      attention2: weighs the result.
      method: how the map is doubled.
    """

    conv1: Layer
    conv2: Layer
    attention1: Layer = identity
    attention2: Layer = identity
    method: Method = "nearest"

    def forward(self, run: Run, x: tuple[jax.Array, ...]) -> jax.Array:
        """Computes the block."""
        below, *others = x
        y = joined([doubled(below, self.method), *others])
        return run.attention2(run.conv2(run.conv1(run.attention1(y))))


def _up_block(
    joined_channels: int,
    out_channels: int,
    norm: Norm | None,
    activation: Function,
    weighed: bool,
    attention: bool,
    method: Method,
) -> UpBlock:
    return UpBlock(
        conv_relu(joined_channels, out_channels, norm=norm, activation=activation),
        conv_relu(out_channels, out_channels, norm=norm, activation=activation),
        attention1=spatial_and_channel_attention(joined_channels) if weighed else identity,
        attention2=spatial_and_channel_attention(out_channels) if attention else identity,
        method=method,
    )


def spatial_and_channel_attention(channels: int) -> Residual:
    """Builds the sum of two squeeze-and-excitations, one over channels and one over pixels (Roy et al. 2018, scSE).

    Args:
      channels: channels of the map, at least 16.

    Returns:
      The layer: a residual one, whose body weighs the channels and whose shortcut weighs the pixels.

    Raises:
      ValueError: there are fewer channels.
    """
    if channels < 16:
        raise ValueError(
            f"attention expects maps of at least 16 channels, got {channels}; give the decoder more channels"
        )
    over_channels = squeeze_excite(channels, channels // 16, activation=relu, gate=sigmoid)
    return Residual(over_channels, shortcut=Gate(Sequential(conv=Conv(channels, 1, 1), gate=sigmoid)))
