"""DeepLabV3: convolutions of several dilations side by side see objects of several sizes.

Source: Chen, Papandreou, Schroff & Adam, "Rethinking atrous convolution for semantic image segmentation", 2017, in the
form of torchvision: one more 3x3 convolution before the logits, and in training an auxiliary head.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

import jax
import jax.numpy as jnp

from jaxcnn.layers import (
    Backbone,
    BatchNorm,
    Composite,
    Concat,
    Conv,
    Dense,
    Dropout,
    Function,
    GlobalAvgPool,
    Run,
    Sequential,
)
from jaxcnn.layers.initializers import he_normal_fan_out
from jaxcnn.models.blocks import Norm, conv_norm, relu
from jaxcnn.models.mobilenet import mobilenet_v3_large, v3_norm
from jaxcnn.models.resnet import resnet50, resnet101
from jaxcnn.models.segmentation.fcn import FCNOptions
from jaxcnn.models.segmentation.segmenter import Segmenter, auxiliary_head
from jaxcnn.types import Layer

_RATES = (12, 24, 36)
"""Dilations at output stride 8 (section 4.1)."""


def deeplabv3_resnet50(num_classes: int = 21, **options: Unpack[FCNOptions]) -> Segmenter:
    """Builds DeepLabV3 of ResNet-50; 42,004,074 parameters, 39,638,869 of them in use. See `deeplabv3_resnet`."""
    return deeplabv3_resnet(resnet50, num_classes, **options)


def deeplabv3_resnet101(num_classes: int = 21, **options: Unpack[FCNOptions]) -> Segmenter:
    """Builds DeepLabV3 of ResNet-101; 60,996,202 parameters, 58,630,997 of them in use. See `deeplabv3_resnet`."""
    return deeplabv3_resnet(resnet101, num_classes, **options)


def deeplabv3_mobilenet_v3_large(
    num_classes: int = 21,
    *,
    in_channels: int = 3,
    norm: Norm | None = None,
    output_stride: int = 16,
    aux_heads: bool = True,
    dropout_rate: float = 0.5,
) -> Segmenter:
    """Builds DeepLabV3 of MobileNetV3-Large; 11,029,328 parameters, 11,025,477 of them in use. See `deeplabv3`.

    Args:
      num_classes: number of logits of each pixel.
      in_channels: channels of the image.
      norm: makes the normalisation for a number of channels; None for that of MobileNetV3 in its layers, with an
        epsilon of 0.001, and `BatchNorm` after them, as in torchvision.
      output_stride: see `jaxcnn.models.mobilenet.mobilenet_v3`.
      aux_heads: whether there is an auxiliary head; it is on stage 3.
      dropout_rate: probability of dropping a value after the pyramid, in [0, 1).

    Returns:
      The model: stem, stage1 to stage6, last, decoder, head and aux; parameters are named as those of `mobilenet_v3`.

    Raises:
      ValueError: the output stride is unknown, or the rate is outside [0, 1).
    """
    model = mobilenet_v3_large(in_channels=in_channels, norm=norm or v3_norm, output_stride=output_stride)
    backbone = Backbone(model, ["stage3/block0", "last"])
    return deeplabv3(backbone, num_classes, norm=norm or BatchNorm, aux_heads=aux_heads, dropout_rate=dropout_rate)


def deeplabv3(
    backbone: Backbone,
    num_classes: int = 21,
    *,
    norm: Norm = BatchNorm,
    activation: Function = relu,
    rates: tuple[int, ...] = _RATES,
    aux_heads: bool = True,
    dropout_rate: float = 0.5,
) -> Segmenter:
    """Builds DeepLabV3 of any classifier: `deeplabv3(Backbone(regnet_y_400mf(), at=["stage3", "stage4"]), 2)`.

    Train it with `make_train_step(..., auxiliary_weight=0.5)`, as torchvision does.

    Args:
      backbone: the classifier and its maps: the last one for the decoder, the first one for the auxiliary head.
      num_classes: number of logits of each pixel.
      norm: makes the normalisation of decoder and auxiliary head.
      activation: their nonlinearity.
      rates: dilations of the 3x3 convolutions of the pyramid, in pixels of the map: 12, 24 and 36 at output stride 8;
        the paper halves them at 16, torchvision does not.
      aux_heads: whether there is an auxiliary head.
      dropout_rate: probability of dropping a value after the pyramid, in [0, 1); it is 0.1 in the auxiliary head.

    Returns:
      The model: the layers of the classifier, decoder, head and aux. An image may have any size that the classifier
      takes; its map of logits has the same.

    Raises:
      ValueError: the results of the backbone are not maps, or the rate is outside [0, 1).
    """
    levels = backbone.levels()
    aux = auxiliary_head(levels[0].channels, num_classes, norm=norm, activation=activation) if aux_heads else None
    pyramid = atrous_pyramid(levels[-1].channels, rates, norm=norm, activation=activation)
    decoder = Sequential(
        pyramid=pyramid,
        project=conv_norm(256 * (len(rates) + 2), 256, norm=norm, relu=activation, dropout=Dropout(dropout_rate)),
        last=conv_norm(256, 256, 3, norm=norm, relu=activation),
    )
    return Segmenter(backbone, decoder, Conv(256, num_classes, 1), aux)


def deeplabv3_resnet(
    classifier: Callable[..., Sequential],
    num_classes: int = 21,
    *,
    in_channels: int = 3,
    norm: Norm = BatchNorm,
    activation: Function = relu,
    drop_path: float = 0.0,
    output_stride: int = 8,
    **options: Any,
) -> Segmenter:
    """Builds DeepLabV3 of a ResNet, whose auxiliary head is on stage 3.

    Args:
      classifier: the function of the ResNet, such as `resnet50`.
      num_classes: number of logits of each pixel.
      in_channels: channels of the image.
      norm: makes the normalisation for a number of channels.
      activation: the nonlinearity.
      drop_path: see `resnet`.
      output_stride: see `resnet`.
      **options: those of `deeplabv3`.

    Returns:
      The model: stem, stage1 to stage4, decoder, head and aux; parameters are named as those of `resnet`.

    Raises:
      ValueError: the output stride is unknown, or a rate is outside [0, 1).
    """
    model = classifier(
        in_channels=in_channels, norm=norm, activation=activation, drop_path=drop_path, output_stride=output_stride
    )
    backbone = Backbone(model, ["stage3", "stage4"])
    return deeplabv3(backbone, num_classes, norm=norm, activation=activation, **options)


def atrous_pyramid(
    channels: int, rates: tuple[int, ...], *, norm: Norm = BatchNorm, activation: Function = relu
) -> Concat:
    """Builds an atrous spatial pyramid pooling (Chen et al. 2017, section 3.3): 256 channels of each branch.

    Args:
      channels: channels of the map.
      rates: dilations of the 3x3 convolutions, in pixels.
      norm: makes the normalisation.
      activation: the nonlinearity.

    Returns:
      The layer, with branches conv1x1, rate1 and so on, and image.
    """
    image = Sequential(
        pool=GlobalAvgPool(),
        conv=Dense(channels, 256, use_bias=False, kernel_init=he_normal_fan_out),
        norm=norm(256),
        relu=activation,
    )
    return Concat(
        conv1x1=conv_norm(channels, 256, norm=norm, relu=activation),
        **{
            f"rate{i}": conv_norm(channels, 256, 3, dilation=rate, norm=norm, relu=activation)
            for i, rate in enumerate(rates, start=1)
        },
        image=EveryPixel(image),
    )


@dataclass(frozen=True, repr=False)
class EveryPixel(Composite):
    """Gives every pixel the features that a layer computes of the whole image.

    Parameters and state are those of the layer.

    Attributes:
      body: gives features, shape (channels,).
    """

    inlined: ClassVar[str | None] = "body"

    body: Layer

    def forward(self, run: Run, x: jax.Array) -> jax.Array:
        """Computes the features of one image, and repeats them: shape (height, width, channels)."""
        features = run.body(x)
        if features.ndim != 1:
            raise ValueError(f"EveryPixel expects a body that gives features (channels,), got {features.shape}")
        return jnp.broadcast_to(features[None, None, :], (*x.shape[:2], features.shape[0]))
