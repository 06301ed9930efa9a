"""U-Net: one logit for each class at each pixel.

Source: Ronneberger, Fischer & Brox, "U-Net: convolutional networks for biomedical image segmentation", 2015. Unlike
the paper's, convolutions are padded, so that the map of logits is as large as the image, and followed by batch norm.
"""

import jax

from jaxcnn.layers import BatchNorm, Concat, Conv, ConvTranspose, Function, Initializer, MaxPool, Sequential, identity
from jaxcnn.layers.parameters import check_positive
from jaxcnn.models.blocks import Norm, conv, relu
from jaxcnn.ops.check import check_image

_he_normal = Initializer(jax.nn.initializers.he_normal)


def unet(
    num_classes: int = 2,
    *,
    in_channels: int = 3,
    norm: Norm = BatchNorm,
    activation: Function = relu,
    width: int = 64,
    depth: int = 4,
) -> Sequential:
    """Builds a U-Net (Ronneberger et al. 2015, figure 1); 31,037,698 parameters.

    Each level below the first has half the height and width of the one above, and twice its channels.

    Args:
      num_classes: number of logits of each pixel.
      in_channels: channels of the image.
      norm: makes the normalisation for a number of channels.
      activation: the nonlinearity.
      width: channels of the first level.
      depth: number of levels below the first. The image's height and width are multiples of 2**depth.

    Returns:
      The model: check, level0, head. Each level has encode, join and decode; the level below is inside of join, so that
      parameters are named like `level0/join/deeper/level1/encode/conv1/kernel`. An image (height, width, in_channels)
      gives a map of logits, shape (height, width, num_classes).

    Raises:
      ValueError: the width or the depth is not a positive int.
    """
    check_positive("unet", "width", width)
    check_positive("unet", "depth", depth)

    def convolutions(in_channels: int, out_channels: int) -> Sequential:
        return Sequential(
            conv1=conv(in_channels, out_channels, 3, kernel_init=_he_normal),
            norm1=norm(out_channels),
            relu1=activation,
            conv2=conv(out_channels, out_channels, 3, kernel_init=_he_normal),
            norm2=norm(out_channels),
            relu2=activation,
        )

    level = convolutions(width * 2 ** (depth - 1), width * 2**depth)
    for i in reversed(range(depth)):
        channels = width * 2**i
        up = ConvTranspose(2 * channels, channels, 2, 2)
        deeper = Sequential(pool=MaxPool(2), **{f"level{i + 1}": level}, up=up)
        level = Sequential(
            encode=convolutions(width * 2 ** (i - 1) if i > 0 else in_channels, channels),
            join=Concat(skip=identity, deeper=deeper),
            decode=convolutions(2 * channels, channels),
        )
    return Sequential(check=Function(check_size, depth=depth), level0=level, head=Conv(width, num_classes, 1))


def small_unet(
    num_classes: int = 2, *, in_channels: int = 3, norm: Norm = BatchNorm, activation: Function = relu
) -> Sequential:
    """Builds a U-Net with a quarter of the channels and three levels below the first; 482,754 parameters.

    Args:
      num_classes: number of logits of each pixel.
      in_channels: channels of the image.
      norm: makes the normalisation for a number of channels.
      activation: the nonlinearity.

    Returns:
      The model, named as that of `unet`. Height and width of the image are multiples of 8.
    """
    return unet(num_classes, in_channels=in_channels, norm=norm, activation=activation, width=16, depth=3)


def check_size(x: jax.Array, *, depth: int) -> jax.Array:
    """Refuses an image that cannot be halved as often as a U-Net does.

    Args:
      x: one image, shape (height, width, channels).
      depth: how often the U-Net halves it.

    Returns:
      The image.

    Raises:
      ValueError: `x` is not one image, or its height or width is not a multiple of 2**depth.
    """
    check_image("unet", x)
    height, width, _ = x.shape
    if height % 2**depth or width % 2**depth:
        raise ValueError(
            f"unet expects a height and a width that are multiples of {2**depth}, since it halves the image "
            f"{depth} times, got {height}x{width}; pad, crop or resize the image, or build it with a smaller depth"
        )
    return x
