"""The models by name, each with the image it was made for: what the command line offers and the tests go through."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from jaxcnn.layers import AuxiliaryHeads, Sequential
from jaxcnn.models import (
    convnext,
    densenet,
    efficientnet,
    inception,
    lenet,
    mobilenet,
    perceptron,
    regnet,
    resnet,
    resnet_v2,
    shufflenet,
    small,
    squeezenet,
    u_net,
    vgg,
)
from jaxcnn.models.alex_net import alexnet
from jaxcnn.models.extreme_inception import xception
from jaxcnn.models.google_net import googlenet
from jaxcnn.types import Shape
from jaxcnn.values import Partial

Model: TypeAlias = Sequential | AuxiliaryHeads
"""What a model function returns."""


class Entry(NamedTuple):
    """A model of the catalog.

    Attributes:
      build: the model function, called with the number of classes.
      image_shape: (height, width, channels) of the image that the model was made for.
      num_classes: number of classes that it was made for.
      takes: which of the options "in_channels" and "image_size" the function has; without them the model takes no other
        image than its own.
      min_size: smallest height and width of an image that the model takes, in pixels.
    """

    build: Callable[..., Model]
    image_shape: Shape
    num_classes: int
    takes: tuple[str, ...]
    min_size: int = 1


_FLAT = ("in_channels", "image_size")
_ANY_SIZE = ("in_channels",)
_IMAGENET, _CIFAR, _DIGITS = (224, 224, 3), (32, 32, 3), (32, 32, 1)

CATALOG: dict[str, Entry] = {
    "mlp": Entry(perceptron.mlp, _DIGITS, 10, _FLAT),
    "lenet5": Entry(lenet.lenet5, _DIGITS, 10, _FLAT, 16),
    "lenet5_1998": Entry(lenet.lenet5_1998, _DIGITS, 10, (), 32),
    "small_cnn": Entry(small.small_cnn, _CIFAR, 10, _FLAT, 4),
    "alexnet": Entry(alexnet, _IMAGENET, 1000, _ANY_SIZE, 63),
    "vgg11": Entry(vgg.vgg11, _IMAGENET, 1000, _ANY_SIZE, 32),
    "vgg13": Entry(vgg.vgg13, _IMAGENET, 1000, _ANY_SIZE, 32),
    "vgg16": Entry(vgg.vgg16, _IMAGENET, 1000, _ANY_SIZE, 32),
    "vgg19": Entry(vgg.vgg19, _IMAGENET, 1000, _ANY_SIZE, 32),
    "vgg11_bn": Entry(vgg.vgg11_bn, _IMAGENET, 1000, _ANY_SIZE, 32),
    "vgg13_bn": Entry(vgg.vgg13_bn, _IMAGENET, 1000, _ANY_SIZE, 32),
    "vgg16_bn": Entry(vgg.vgg16_bn, _IMAGENET, 1000, _ANY_SIZE, 32),
    "vgg19_bn": Entry(vgg.vgg19_bn, _IMAGENET, 1000, _ANY_SIZE, 32),
    "squeezenet1_0": Entry(squeezenet.squeezenet1_0, _IMAGENET, 1000, _ANY_SIZE, 21),
    "squeezenet1_1": Entry(squeezenet.squeezenet1_1, _IMAGENET, 1000, _ANY_SIZE, 17),
    "googlenet": Entry(googlenet, _IMAGENET, 1000, _ANY_SIZE, 15),
    "inception_v3": Entry(inception.inception_v3, (299, 299, 3), 1000, _ANY_SIZE, 75),
    "resnet18": Entry(resnet.resnet18, _IMAGENET, 1000, _ANY_SIZE),
    "resnet34": Entry(resnet.resnet34, _IMAGENET, 1000, _ANY_SIZE),
    "resnet50": Entry(resnet.resnet50, _IMAGENET, 1000, _ANY_SIZE),
    "resnet101": Entry(resnet.resnet101, _IMAGENET, 1000, _ANY_SIZE),
    "resnet152": Entry(resnet.resnet152, _IMAGENET, 1000, _ANY_SIZE),
    "resnet50_v1": Entry(resnet.resnet50_v1, _IMAGENET, 1000, _ANY_SIZE),
    "resnet101_v1": Entry(resnet.resnet101_v1, _IMAGENET, 1000, _ANY_SIZE),
    "resnet152_v1": Entry(resnet.resnet152_v1, _IMAGENET, 1000, _ANY_SIZE),
    "resnet50_v2": Entry(resnet_v2.resnet50_v2, _IMAGENET, 1000, _ANY_SIZE),
    "resnet101_v2": Entry(resnet_v2.resnet101_v2, _IMAGENET, 1000, _ANY_SIZE),
    "resnet152_v2": Entry(resnet_v2.resnet152_v2, _IMAGENET, 1000, _ANY_SIZE),
    "resnext50_32x4d": Entry(resnet.resnext50_32x4d, _IMAGENET, 1000, _ANY_SIZE),
    "resnext101_32x8d": Entry(resnet.resnext101_32x8d, _IMAGENET, 1000, _ANY_SIZE),
    "resnext101_64x4d": Entry(resnet.resnext101_64x4d, _IMAGENET, 1000, _ANY_SIZE),
    "wide_resnet50_2": Entry(resnet.wide_resnet50_2, _IMAGENET, 1000, _ANY_SIZE),
    "wide_resnet101_2": Entry(resnet.wide_resnet101_2, _IMAGENET, 1000, _ANY_SIZE),
    "mobilenet_v1": Entry(mobilenet.mobilenet_v1, _IMAGENET, 1000, _ANY_SIZE, 31),
    "mobilenet_v2": Entry(mobilenet.mobilenet_v2, _IMAGENET, 1000, _ANY_SIZE),
    "mobilenet_v3_large": Entry(mobilenet.mobilenet_v3_large, _IMAGENET, 1000, _ANY_SIZE),
    "mobilenet_v3_small": Entry(mobilenet.mobilenet_v3_small, _IMAGENET, 1000, _ANY_SIZE),
    "efficientnet_b0": Entry(efficientnet.efficientnet_b0, _IMAGENET, 1000, _ANY_SIZE),
    "efficientnet_b1": Entry(efficientnet.efficientnet_b1, (240, 240, 3), 1000, _ANY_SIZE),
    "efficientnet_b2": Entry(efficientnet.efficientnet_b2, (260, 260, 3), 1000, _ANY_SIZE),
    "efficientnet_b3": Entry(efficientnet.efficientnet_b3, (300, 300, 3), 1000, _ANY_SIZE),
    "efficientnet_b4": Entry(efficientnet.efficientnet_b4, (380, 380, 3), 1000, _ANY_SIZE),
    "efficientnet_b5": Entry(efficientnet.efficientnet_b5, (456, 456, 3), 1000, _ANY_SIZE),
    "efficientnet_b6": Entry(efficientnet.efficientnet_b6, (528, 528, 3), 1000, _ANY_SIZE),
    "efficientnet_b7": Entry(efficientnet.efficientnet_b7, (600, 600, 3), 1000, _ANY_SIZE),
    "efficientnet_v2_s": Entry(efficientnet.efficientnet_v2_s, (384, 384, 3), 1000, _ANY_SIZE),
    "efficientnet_v2_m": Entry(efficientnet.efficientnet_v2_m, (480, 480, 3), 1000, _ANY_SIZE),
    "efficientnet_v2_l": Entry(efficientnet.efficientnet_v2_l, (480, 480, 3), 1000, _ANY_SIZE),
    "xception": Entry(xception, (299, 299, 3), 1000, _ANY_SIZE, 7),
    "convnext_tiny": Entry(convnext.convnext_tiny, _IMAGENET, 1000, _ANY_SIZE, 32),
    "convnext_small": Entry(convnext.convnext_small, _IMAGENET, 1000, _ANY_SIZE, 32),
    "convnext_base": Entry(convnext.convnext_base, _IMAGENET, 1000, _ANY_SIZE, 32),
    "convnext_large": Entry(convnext.convnext_large, _IMAGENET, 1000, _ANY_SIZE, 32),
    "densenet121": Entry(densenet.densenet121, _IMAGENET, 1000, _ANY_SIZE, 29),
    "densenet161": Entry(densenet.densenet161, _IMAGENET, 1000, _ANY_SIZE, 29),
    "densenet169": Entry(densenet.densenet169, _IMAGENET, 1000, _ANY_SIZE, 29),
    "densenet201": Entry(densenet.densenet201, _IMAGENET, 1000, _ANY_SIZE, 29),
    "shufflenet_v2_x0_5": Entry(shufflenet.shufflenet_v2_x0_5, _IMAGENET, 1000, _ANY_SIZE),
    "shufflenet_v2_x1_0": Entry(shufflenet.shufflenet_v2_x1_0, _IMAGENET, 1000, _ANY_SIZE),
    "shufflenet_v2_x1_5": Entry(shufflenet.shufflenet_v2_x1_5, _IMAGENET, 1000, _ANY_SIZE),
    "shufflenet_v2_x2_0": Entry(shufflenet.shufflenet_v2_x2_0, _IMAGENET, 1000, _ANY_SIZE),
    "regnet_x_400mf": Entry(regnet.regnet_x_400mf, _IMAGENET, 1000, _ANY_SIZE),
    "regnet_x_800mf": Entry(regnet.regnet_x_800mf, _IMAGENET, 1000, _ANY_SIZE),
    "regnet_x_1_6gf": Entry(regnet.regnet_x_1_6gf, _IMAGENET, 1000, _ANY_SIZE),
    "regnet_x_3_2gf": Entry(regnet.regnet_x_3_2gf, _IMAGENET, 1000, _ANY_SIZE),
    "regnet_x_8gf": Entry(regnet.regnet_x_8gf, _IMAGENET, 1000, _ANY_SIZE),
    "regnet_x_16gf": Entry(regnet.regnet_x_16gf, _IMAGENET, 1000, _ANY_SIZE),
    "regnet_x_32gf": Entry(regnet.regnet_x_32gf, _IMAGENET, 1000, _ANY_SIZE),
    "regnet_y_400mf": Entry(regnet.regnet_y_400mf, _IMAGENET, 1000, _ANY_SIZE),
    "regnet_y_800mf": Entry(regnet.regnet_y_800mf, _IMAGENET, 1000, _ANY_SIZE),
    "regnet_y_1_6gf": Entry(regnet.regnet_y_1_6gf, _IMAGENET, 1000, _ANY_SIZE),
    "regnet_y_3_2gf": Entry(regnet.regnet_y_3_2gf, _IMAGENET, 1000, _ANY_SIZE),
    "regnet_y_8gf": Entry(regnet.regnet_y_8gf, _IMAGENET, 1000, _ANY_SIZE),
    "regnet_y_16gf": Entry(regnet.regnet_y_16gf, _IMAGENET, 1000, _ANY_SIZE),
    "regnet_y_32gf": Entry(regnet.regnet_y_32gf, _IMAGENET, 1000, _ANY_SIZE),
    "resnet18_cifar": Entry(Partial(resnet.resnet18, stem="cifar"), _CIFAR, 10, _ANY_SIZE),
    "resnet34_cifar": Entry(Partial(resnet.resnet34, stem="cifar"), _CIFAR, 10, _ANY_SIZE),
    "resnet50_cifar": Entry(Partial(resnet.resnet50, stem="cifar"), _CIFAR, 10, _ANY_SIZE),
    "resnet101_cifar": Entry(Partial(resnet.resnet101, stem="cifar"), _CIFAR, 10, _ANY_SIZE),
    "resnet152_cifar": Entry(Partial(resnet.resnet152, stem="cifar"), _CIFAR, 10, _ANY_SIZE),
    "resnet20": Entry(resnet.resnet20, _CIFAR, 10, _ANY_SIZE),
    "resnet32": Entry(resnet.resnet32, _CIFAR, 10, _ANY_SIZE),
    "resnet44": Entry(resnet.resnet44, _CIFAR, 10, _ANY_SIZE),
    "resnet56": Entry(resnet.resnet56, _CIFAR, 10, _ANY_SIZE),
    "resnet110": Entry(resnet.resnet110, _CIFAR, 10, _ANY_SIZE),
    "wrn_28_10": Entry(resnet_v2.wrn_28_10, _CIFAR, 10, _ANY_SIZE),
    "small_unet": Entry(u_net.small_unet, (64, 64, 3), 2, _ANY_SIZE, 8),
    "unet": Entry(u_net.unet, (128, 128, 3), 2, _ANY_SIZE, 16),
}


def build(name: str, num_classes: int, image_shape: Shape) -> Model:
    """Builds a model of the catalog for given images.

    Args:
      name: its name.
      num_classes: number of logits.
      image_shape: (height, width, channels) of the images.

    Returns:
      The model.

    Raises:
      KeyError: there is no model of that name.
      ValueError: the model cannot take such images.
    """
    entry = CATALOG[name]
    options = {"in_channels": image_shape[2], "image_size": image_shape[:2]}
    if not entry.takes and image_shape != entry.image_shape:
        raise ValueError(f"{name} expects images of shape {entry.image_shape}, got {image_shape}")
    if min(image_shape[:2]) < entry.min_size:
        raise ValueError(
            f"{name} expects images of at least {entry.min_size}x{entry.min_size} pixels, "
            f"got {image_shape[0]}x{image_shape[1]}; enlarge them or take another model"
        )
    return entry.build(num_classes, **{option: options[option] for option in entry.takes})
