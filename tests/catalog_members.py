"""Which models of the catalog the default tests build, and which only the slow ones."""

import pytest

DEEP = {"resnet18", "resnet20", "resnet50", "resnet50_v2", "whitened_cnn"}
DEEP |= {"efficientnet_b0", "mobilenet_v1", "xception"}
DEEP |= {"convnext_tiny", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "resnext50_32x4d", "unet"}
DEEP |= {"densenet121", "regnet_y_400mf", "shufflenet_v2_x0_5", "unet_2015", "unet_resnet18"}
DEEP |= {"alexnet", "googlenet", "inception_v3", "squeezenet1_1"}
DEEP |= {"deeplabv3_mobilenet_v3_large", "fcn_resnet50", "lraspp_mobilenet_v3_large"}
DEEP |= {
    "retinanet_resnet50_fpn",
    "ssdlite320_mobilenet_v3_large",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "yolox_nano",
    "yolov1_tiny",
    "yolov3_tiny",
}
"""Models with many layers, one of each family."""

LARGER = {"convnext_base", "convnext_large", "convnext_small"}
LARGER |= {"resnet32", "resnet34", "resnet44", "resnet56", "resnet101", "resnet110", "resnet152"}
LARGER |= {"resnet50_v1", "resnet101_v1", "resnet152_v1", "resnet101_v2", "resnet152_v2", "wrn_28_10"}
LARGER |= {f"efficientnet_{size}" for size in ("b1", "b2", "b3", "b4", "b5", "b6", "b7", "v2_s", "v2_m", "v2_l")}
LARGER |= {"resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"}
LARGER |= {"densenet161", "densenet169", "densenet201"}
LARGER |= {"shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0"}
LARGER |= {f"regnet_x_{size}" for size in ("400mf", "800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf")}
LARGER |= {f"regnet_y_{size}" for size in ("800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf")}
LARGER |= {"squeezenet1_0", "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"}
LARGER |= {
    f"unet_{name}" for name in ("resnet34", "resnet50", "mobilenet_v2", "efficientnet_b0", "vgg16_bn", "densenet121")
}
LARGER |= {"unet_plus_plus_resnet34", "fpn_resnet34", "pspnet_resnet34", "deeplabv3_plus_resnet50"}
LARGER |= {"upernet_convnext_tiny", "linknet_resnet34"}
LARGER |= {"deeplabv3_resnet50", "deeplabv3_resnet101", "fcn_resnet101"}
LARGER |= {"fcos_resnet50_fpn", "retinanet_resnet50_fpn_v2", "ssd300_vgg16"}
LARGER |= {"fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2", "fasterrcnn_mobilenet_v3_large_fpn"}
LARGER |= {"small_fasterrcnn", "small_maskrcnn", "maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2"}
LARGER |= {"yolov1", "yolov3"} | {f"yolox_{size}" for size in ("tiny", "s", "m", "l", "x")}
"""Models with the blocks of one above, only more or wider (VGG: with AlexNet's layers)."""


def members(names, larger=LARGER):
    """Marks the larger models of each family as slow, for `pytest.mark.parametrize`."""
    slow = [pytest.mark.slow, pytest.mark.heavy]
    return [pytest.param(name, marks=slow if name.removesuffix("_cifar") in larger else []) for name in names]


def small_members(names):
    """Marks all but the small models as slow, for `pytest.mark.parametrize`."""
    return members(names, LARGER | DEEP)
