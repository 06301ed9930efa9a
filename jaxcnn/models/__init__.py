"""Models: functions that return a layer value. Each ends in a `head` that can be replaced."""

from jaxcnn.models.lenet import lenet5, lenet5_1998
from jaxcnn.models.perceptron import mlp
from jaxcnn.models.resnet import (
    cifar_resnet,
    resnet18,
    resnet20,
    resnet32,
    resnet34,
    resnet44,
    resnet50,
    resnet56,
    resnet101,
    resnet110,
    resnet152,
)
from jaxcnn.models.small import small_cnn

__all__ = [
    "cifar_resnet",
    "lenet5",
    "lenet5_1998",
    "mlp",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet34",
    "resnet44",
    "resnet50",
    "resnet56",
    "resnet101",
    "resnet110",
    "resnet152",
    "small_cnn",
]
