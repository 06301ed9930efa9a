"""Models: functions that return a layer value. Each ends in a `head` that can be replaced.

Their options have the same names in all families, see `jaxcnn.models.blocks.Options`: `resnet50(10, in_channels=1,
norm=Partial(GroupNorm, num_groups=32), activation=Function(jax.nn.silu), drop_path=0.1)`.
"""

from jaxcnn.models.alex_net import alexnet
from jaxcnn.models.convnext import convnext_base, convnext_large, convnext_small, convnext_tiny
from jaxcnn.models.densenet import densenet121, densenet161, densenet169, densenet201
from jaxcnn.models.detection.faster_rcnn import (
    fasterrcnn_mobilenet_v3_large_320_fpn,
    fasterrcnn_mobilenet_v3_large_fpn,
    fasterrcnn_resnet50_fpn,
    fasterrcnn_resnet50_fpn_v2,
    small_fasterrcnn,
)
from jaxcnn.models.detection.fcos import fcos_resnet50_fpn
from jaxcnn.models.detection.mask_rcnn import maskrcnn_resnet50_fpn, maskrcnn_resnet50_fpn_v2, small_maskrcnn
from jaxcnn.models.detection.rcnn import rcnn, small_rcnn
from jaxcnn.models.detection.retinanet import retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2, small_retinanet
from jaxcnn.models.detection.ssd import ssd300_vgg16, ssdlite320_mobilenet_v3_large
from jaxcnn.models.detection.yolov1 import yolov1, yolov1_tiny
from jaxcnn.models.detection.yolov3 import yolov3, yolov3_tiny
from jaxcnn.models.detection.yolox import yolox_l, yolox_m, yolox_nano, yolox_s, yolox_tiny, yolox_x
from jaxcnn.models.efficientnet import (
    efficientnet_b0,
    efficientnet_b1,
    efficientnet_b2,
    efficientnet_b3,
    efficientnet_b4,
    efficientnet_b5,
    efficientnet_b6,
    efficientnet_b7,
    efficientnet_v2_l,
    efficientnet_v2_m,
    efficientnet_v2_s,
)
from jaxcnn.models.extreme_inception import xception
from jaxcnn.models.google_net import googlenet
from jaxcnn.models.inception import inception_v3
from jaxcnn.models.lenet import lenet5, lenet5_1998
from jaxcnn.models.mobilenet import mobilenet_v1, mobilenet_v2, mobilenet_v3_large, mobilenet_v3_small
from jaxcnn.models.perceptron import mlp
from jaxcnn.models.regnet import (
    regnet_x_1_6gf,
    regnet_x_3_2gf,
    regnet_x_8gf,
    regnet_x_16gf,
    regnet_x_32gf,
    regnet_x_400mf,
    regnet_x_800mf,
    regnet_y_1_6gf,
    regnet_y_3_2gf,
    regnet_y_8gf,
    regnet_y_16gf,
    regnet_y_32gf,
    regnet_y_400mf,
    regnet_y_800mf,
)
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
from jaxcnn.models.segmentation.deeplab import deeplabv3_mobilenet_v3_large, deeplabv3_resnet50, deeplabv3_resnet101
from jaxcnn.models.segmentation.deeplabv3_plus import deeplabv3_plus
from jaxcnn.models.segmentation.encoder_unet import encoder_unet, unet_plus_plus
from jaxcnn.models.segmentation.fcn import fcn_resnet50, fcn_resnet101
from jaxcnn.models.segmentation.fpn import fpn
from jaxcnn.models.segmentation.linknet import linknet
from jaxcnn.models.segmentation.lraspp import lraspp_mobilenet_v3_large
from jaxcnn.models.segmentation.pspnet import pspnet
from jaxcnn.models.segmentation.u_net import small_unet, unet, unet_2015
from jaxcnn.models.segmentation.upernet import upernet
from jaxcnn.models.shufflenet import (
    shufflenet_v2_x0_5,
    shufflenet_v2_x1_0,
    shufflenet_v2_x1_5,
    shufflenet_v2_x2_0,
)
from jaxcnn.models.small import small_cnn, whitened_cnn
from jaxcnn.models.squeezenet import squeezenet1_0, squeezenet1_1
from jaxcnn.models.vgg import vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn

__all__ = [
    "alexnet",
    "cifar_resnet",
    "convnext_base",
    "convnext_large",
    "convnext_small",
    "convnext_tiny",
    "deeplabv3_mobilenet_v3_large",
    "deeplabv3_plus",
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "efficientnet_b5",
    "efficientnet_b6",
    "efficientnet_b7",
    "efficientnet_v2_l",
    "efficientnet_v2_m",
    "efficientnet_v2_s",
    "encoder_unet",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "fcn_resnet50",
    "fcn_resnet101",
    "fcos_resnet50_fpn",
    "fpn",
    "googlenet",
    "inception_v3",
    "lenet5",
    "lenet5_1998",
    "linknet",
    "lraspp_mobilenet_v3_large",
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
    "mlp",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "pspnet",
    "rcnn",
    "regnet_x_1_6gf",
    "regnet_x_3_2gf",
    "regnet_x_8gf",
    "regnet_x_16gf",
    "regnet_x_32gf",
    "regnet_x_400mf",
    "regnet_x_800mf",
    "regnet_y_1_6gf",
    "regnet_y_3_2gf",
    "regnet_y_8gf",
    "regnet_y_16gf",
    "regnet_y_32gf",
    "regnet_y_400mf",
    "regnet_y_800mf",
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
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0",
    "small_cnn",
    "small_fasterrcnn",
    "small_maskrcnn",
    "small_rcnn",
    "small_retinanet",
    "small_unet",
    "squeezenet1_0",
    "squeezenet1_1",
    "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large",
    "unet",
    "unet_2015",
    "unet_plus_plus",
    "upernet",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
    "whitened_cnn",
    "wide_resnet",
    "wide_resnet50_2",
    "wide_resnet101_2",
    "wrn_28_10",
    "xception",
    "yolov1",
    "yolov1_tiny",
    "yolov3",
    "yolov3_tiny",
    "yolox_l",
    "yolox_m",
    "yolox_nano",
    "yolox_s",
    "yolox_tiny",
    "yolox_x",
]
