"""Fully convolutional networks: a classifier whose last stages keep their size, and a logit for each class and pixel.

Source: Long, Shelhamer & Darrell, "Fully convolutional networks for semantic segmentation", 2015, in the form of
torchvision: a dilated ResNet (Chen et al. 2017, section 3.2) takes the place of VGG with skips, and training has an
auxiliary head on the stage before the last (Zhao et al. 2017, section 3.3).
"""

from collections.abc import Callable
from typing import Any, TypedDict, Unpack

from jaxcnn.layers import Backbone, BatchNorm, Conv, Function, Sequential
from jaxcnn.models.blocks import Norm, relu
from jaxcnn.models.resnet import resnet50, resnet101
from jaxcnn.models.segmentation.segmenter import Segmenter, auxiliary_head, fcn_decoder


class FCNOptions(TypedDict, total=False):
    """Options of `fcn_resnet50` and `fcn_resnet101`: those of `fcn` and of `resnet`."""

    in_channels: int
    norm: Norm
    activation: Function
    drop_path: float
    output_stride: int
    aux_heads: bool
    dropout_rate: float


def fcn_resnet50(num_classes: int = 21, **options: Unpack[FCNOptions]) -> Segmenter:
    """Builds an FCN of ResNet-50 at output stride 8; 35,322,218 parameters, 32,957,013 of them in use. See `fcn`."""
    return fcn_resnet(resnet50, num_classes, **options)


def fcn_resnet101(num_classes: int = 21, **options: Unpack[FCNOptions]) -> Segmenter:
    """Builds an FCN of ResNet-101 at output stride 8; 54,314,346 parameters, 51,949,141 of them in use. See `fcn`."""
    return fcn_resnet(resnet101, num_classes, **options)


def fcn(
    backbone: Backbone,
    num_classes: int = 21,
    *,
    norm: Norm = BatchNorm,
    activation: Function = relu,
    aux_heads: bool = True,
    dropout_rate: float = 0.1,
) -> Segmenter:
    """Builds an FCN of any classifier: `fcn(Backbone(densenet121(), at=["stage3", "relu"]), 2)`.

    Train it with `make_train_step(..., auxiliary_weight=0.5)`, as torchvision does.

    Args:
      backbone: the classifier and its maps: the last one for the decoder, the first one for the auxiliary head.
      num_classes: number of logits of each pixel.
      norm: makes the normalisation of decoder and auxiliary head.
      activation: their nonlinearity.
      aux_heads: whether there is an auxiliary head.
      dropout_rate: probability of dropping a value before the logits, in [0, 1).

    Returns:
      The model: the layers of the classifier, decoder, head and aux. An image may have any size that the classifier
      takes; its map of logits has the same.

    Raises:
      ValueError: the results of the backbone are not maps, or the rate is outside [0, 1).
    """
    levels = backbone.levels()
    options: Any = {"norm": norm, "activation": activation, "dropout_rate": dropout_rate}
    return Segmenter(
        backbone,
        fcn_decoder(levels[-1].channels, **options),
        Conv(levels[-1].channels // 4, num_classes, 1),
        auxiliary_head(levels[0].channels, num_classes, **options) if aux_heads else None,
    )


def fcn_resnet(
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
    """Builds an FCN of a ResNet, whose auxiliary head is on stage 3.

    Args:
      classifier: the function of the ResNet, such as `resnet50`.
      num_classes: number of logits of each pixel.
      in_channels: channels of the image.
      norm: makes the normalisation for a number of channels.
      activation: the nonlinearity.
      drop_path: see `resnet`.
      output_stride: see `resnet`.
      **options: those of `fcn`.

    Returns:
      The model: stem, stage1 to stage4, decoder, head and aux; parameters are named as those of `resnet`.

    Raises:
      ValueError: the output stride is unknown, or a rate is outside [0, 1).
    """
    model = classifier(
        in_channels=in_channels, norm=norm, activation=activation, drop_path=drop_path, output_stride=output_stride
    )
    backbone = Backbone(model, ["stage3", "stage4"])
    return fcn(backbone, num_classes, norm=norm, activation=activation, **options)
