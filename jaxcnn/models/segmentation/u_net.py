"""U-Net: one logit for each class at each pixel, in its padded form and in its form of 2015.

Source: Ronneberger, Fischer & Brox, "U-Net: convolutional networks for biomedical image segmentation", 2015.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxcnn.layers import (
    BatchNorm,
    Composite,
    Concat,
    Conv,
    ConvTranspose,
    Dropout,
    Function,
    Initializer,
    MaxPool,
    Run,
    Sequential,
    identity,
)
from jaxcnn.layers.parameters import check_positive
from jaxcnn.models.blocks import Norm, conv, relu
from jaxcnn.ops.check import check_image
from jaxcnn.types import Layer

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
    """Builds a padded U-Net with batch norm (after Ronneberger et al. 2015, figure 1); 31,037,698 parameters.

    Each level below the first has half the height and width of the one above, and twice its channels. Unlike those of
    the paper, see `unet_2015`, the convolutions are padded, so that the map of logits is as large as the image.

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

    level0 = _levels(
        in_channels,
        width,
        depth,
        lambda in_channels, out_channels, _: convolutions(in_channels, out_channels),
        lambda deeper: Concat(skip=identity, deeper=deeper),
        convolutions,
    )
    return Sequential(check=Function(check_size, depth=depth), level0=level0, head=Conv(width, num_classes, 1))


def unet_2015(
    num_classes: int = 2,
    *,
    in_channels: int = 1,
    activation: Function = relu,
    dropout_rate: float = 0.5,
    width: int = 64,
    depth: int = 4,
) -> Sequential:
    """Builds the U-Net of the paper (Ronneberger et al. 2015, figure 1); 31,030,658 parameters.

    The 3x3 convolutions are not padded: each takes a pixel from every side of the map, and the skips are cropped to
    the map from below. So the logits are those of the centre of the image: 388x388 of 572x572.

    Args:
      num_classes: number of logits of each pixel.
      in_channels: channels of the image.
      activation: the nonlinearity.
      dropout_rate: probability of dropping a value in training, in [0, 1), after the convolutions of the two lowest
        levels on the way down: "at the end of the contracting path" (section 3.1).
      width: channels of the first level.
      depth: number of levels below the first.

    Returns:
      The model, named as that of `unet`, without norms. At a depth of 4, height and width of the image are 188 or a
      multiple of 16 more; the map of logits has 184 pixels less each way.

    Raises:
      ValueError: the width or the depth is not a positive int, or the rate is outside [0, 1).
    """
    check_positive("unet_2015", "width", width)
    check_positive("unet_2015", "depth", depth)

    def convolutions(in_channels: int, out_channels: int) -> dict[str, Layer]:
        return {
            "conv1": Conv(in_channels, out_channels, 3, padding="VALID", kernel_init=_he_normal),
            "relu1": activation,
            "conv2": Conv(out_channels, out_channels, 3, padding="VALID", kernel_init=_he_normal),
            "relu2": activation,
        }

    def encode(in_channels: int, out_channels: int, level: int) -> Sequential:
        dropout = {"dropout": Dropout(dropout_rate)} if level >= depth - 1 else {}
        return Sequential(**convolutions(in_channels, out_channels), **dropout)

    level0 = _levels(
        in_channels, width, depth, encode, CroppedConcat, lambda *channels: Sequential(**convolutions(*channels))
    )
    return Sequential(check=Function(check_valid_size, depth=depth), level0=level0, head=Conv(width, num_classes, 1))


def _levels(
    in_channels: int,
    width: int,
    depth: int,
    encode: Callable[[int, int, int], Sequential],
    join: Callable[[Layer], Layer],
    decode: Callable[[int, int], Sequential],
) -> Sequential:
    """Builds the levels of a U-Net, each inside of the one above."""
    level = encode(width * 2 ** (depth - 1), width * 2**depth, depth)
    for i in reversed(range(depth)):
        channels = width * 2**i
        up = ConvTranspose(2 * channels, channels, 2, 2)
        level = Sequential(
            encode=encode(width * 2 ** (i - 1) if i > 0 else in_channels, channels, i),
            join=join(Sequential(pool=MaxPool(2), **{f"level{i + 1}": level}, up=up)),
            decode=decode(2 * channels, channels),
        )
    return level


@dataclass(frozen=True, repr=False)
class CroppedConcat(Composite):
    """Concatenates the centre of the input with a smaller result computed from all of it.

    Attributes:
      deeper: computes the result; its height and width differ from those of the input by even numbers.
    """

    deeper: Layer

    def forward(self, run: Run, x: jax.Array) -> jax.Array:
        """Returns the channels of the input's centre, then those of the result."""
        y = run.deeper(x)
        if y.ndim != 3 or any(
            size < smaller or (size - smaller) % 2 for size, smaller in zip(x.shape[:2], y.shape, strict=False)
        ):
            raise ValueError(
                "CroppedConcat expects a result whose height and width are smaller than those of the input by even "
                f"numbers, got {y.shape} of {x.shape}"
            )
        top, left = (x.shape[0] - y.shape[0]) // 2, (x.shape[1] - y.shape[1]) // 2
        return jnp.concatenate([x[top : top + y.shape[0], left : left + y.shape[1]], y], axis=-1)


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


def check_size(x: jax.Array, *, depth: int, model: str = "unet") -> jax.Array:
    """Refuses an image that cannot be halved as often as a model does.

    Args:
      x: one image, shape (height, width, channels).
      depth: how often the model halves it.
      model: name of the model, for the message.

    Returns:
      The image.

    Raises:
      ValueError: `x` is not one image, or its height or width is not a multiple of 2**depth.
    """
    check_image(model, x)
    height, width, _ = x.shape
    if height % 2**depth or width % 2**depth:
        larger = [-(-size // 2**depth) * 2**depth for size in (height, width)]
        raise ValueError(
            f"{model} expects a height and a width that are multiples of {2**depth}, since it halves the image "
            f"{depth} times, got {height}x{width}; pad the image to {larger[0]}x{larger[1]}, or crop or resize it"
        )
    return x


def check_valid_size(x: jax.Array, *, depth: int) -> jax.Array:
    """Refuses an image that a U-Net without padding cannot halve as often as it does.

    Args:
      x: one image, shape (height, width, channels).
      depth: how often the U-Net halves it.

    Returns:
      The image.

    Raises:
      ValueError: `x` is not one image, or `unet_2015` does not take its size.
    """
    check_image("unet_2015", x)
    step = 2**depth
    # The way up takes 4 pixels from twice the map below at each level, so the lowest map has at least 4 - 3 / step.
    smallest = step * (8 + -(-(4 * step - 3) // step)) - 4
    fitting = [max(smallest, smallest + -(-(size - smallest) // step) * step) for size in x.shape[:2]]
    if fitting != list(x.shape[:2]):
        raise ValueError(
            f"unet_2015 expects a height and a width of {smallest} or a multiple of {step} more, since its "
            f"convolutions are not padded, got {x.shape[0]}x{x.shape[1]}; pad it to {fitting[0]}x{fitting[1]}, as by "
            "mirroring"
        )
    return x
