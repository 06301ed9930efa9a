"""Models: functions that return a layer value. Each ends in a `head` that can be replaced."""

from jaxcnn.models.convnext import convnext_base, convnext_large, convnext_small, convnext_tiny
from jaxcnn.models.lenet import lenet5, lenet5_1998
from jaxcnn.models.mobilenet import mobilenet_v2, mobilenet_v3_large, mobilenet_v3_small
from jaxcnn.models.perceptron import mlp
from jaxcnn.models.resnet import (
    cifar_resnet,
    resnet18,
    resnet20,
    resnet32,
    resnet34,
    resnet44,
    resnet50,
    resnet50_v1,
    resnet56,
    resnet101,
    resnet101_v1,
    resnet110,
    resnet152,
    resnet152_v1,
    resnext50_32x4d,
    resnext101_32x8d,
    resnext101_64x4d,
    wide_resnet50_2,
    wide_resnet101_2,
)
from jaxcnn.models.resnet_v2 import resnet50_v2, resnet101_v2, resnet152_v2, wide_resnet, wrn_28_10
from jaxcnn.models.small import small_cnn
from jaxcnn.models.u_net import unet

__all__ = [
    "cifar_resnet",
    "convnext_base",
    "convnext_large",
    "convnext_small",
    "convnext_tiny",
    "lenet5",
    "lenet5_1998",
    "mlp",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet34",
    "resnet44",
    "resnet50",
    "resnet50_v1",
    "resnet50_v2",
    "resnet56",
    "resnet101",
    "resnet101_v1",
    "resnet101_v2",
    "resnet110",
    "resnet152",
    "resnet152_v1",
    "resnet152_v2",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "small_cnn",
    "unet",
    "wide_resnet",
    "wide_resnet50_2",
    "wide_resnet101_2",
    "wrn_28_10",
]
