"""The models by name, with their images and sizes. The command line and the tests use this list."""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

from jaxcnn.layers import Composite
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
    vgg,
)
from jaxcnn.models.alex_net import alexnet
from jaxcnn.models.detection import faster_rcnn, fcos, mask_rcnn, retinanet, ssd, yolov1, yolov3, yolox
from jaxcnn.models.extreme_inception import xception
from jaxcnn.models.google_net import googlenet
from jaxcnn.models.segmentation import deeplab, fcn, lraspp, u_net
from jaxcnn.models.segmentation.deeplabv3_plus import deeplabv3_plus
from jaxcnn.models.segmentation.encoder_unet import encoder_unet, unet_plus_plus
from jaxcnn.models.segmentation.fpn import fpn
from jaxcnn.models.segmentation.linknet import linknet
from jaxcnn.models.segmentation.pspnet import pspnet
from jaxcnn.models.segmentation.upernet import upernet
from jaxcnn.types import Shape
from jaxcnn.values import Partial

Model: TypeAlias = Composite
"""What a model function returns."""


Kind: TypeAlias = Literal["classification", "detection", "segmentation"]
"""What a model gives: a logit for each class, boxes with classes, or a logit for each class and pixel."""


class Entry(NamedTuple):
    """A model of the catalog.

    Attributes:
      build: the model function, called with the number of classes.
      image_shape: (height, width, channels) of the image that the model was made for.
      num_classes: number of classes that it was made for.
      takes: which of the options "in_channels" and "image_size" the function has; without any, the model takes only
        images of `image_shape`.
      parameters: number of its parameters for that image, without those of auxiliary heads.
      multiply_adds: its multiply-adds for that image in evaluation.
      min_size: smallest height and width of an image that the model takes, in pixels.
      task: what the model is for. A classifier serves regression and several labels too.
      backbone: name of the classifier within a segmentation model, whose weights it can start from; None for none.
    """

    build: Callable[..., Model]
    image_shape: Shape
    num_classes: int
    takes: tuple[str, ...]
    parameters: int
    multiply_adds: int
    min_size: int = 1
    task: Kind = "classification"
    backbone: str | None = None


_FLAT = ("in_channels", "image_size")
_ANY_SIZE = ("in_channels",)
_IMAGENET, _CIFAR, _DIGITS = (224, 224, 3), (32, 32, 3), (32, 32, 1)
_COCO = (800, 800, 3)


def _with_encoder(
    build: Callable[..., Model], encoder: str, parameters: int, multiply_adds: int, min_size: int = 32
) -> Entry:
    """Describes a segmentation model with a classifier as its encoder."""
    model = Partial(build, encoder=encoder)
    return Entry(model, (256, 256, 3), 2, _ANY_SIZE, parameters, multiply_adds, min_size, "segmentation", encoder)


def _scene(build: Callable[..., Model], parameters: int, multiply_adds: int, backbone: str) -> Entry:
    """Lists a model for the 21 classes of Pascal VOC, in the size of torchvision's weights."""
    return Entry(build, (520, 520, 3), 21, _ANY_SIZE, parameters, multiply_adds, 1, "segmentation", backbone)


def _yolo(build: Callable[..., Model], size: int, parameters: int, multiply_adds: int, min_size: int = 1) -> Entry:
    """Lists a detector of COCO's 80 categories."""
    return Entry(build, (size, size, 3), 80, _ANY_SIZE, parameters, multiply_adds, min_size, "detection")


CATALOG: dict[str, Entry] = {
    "mlp": Entry(perceptron.mlp, _DIGITS, 10, _FLAT, 296_586, 296_192),
    "lenet5": Entry(lenet.lenet5, _DIGITS, 10, _FLAT, 61_706, 416_520, 16),
    "lenet5_1998": Entry(lenet.lenet5_1998, _DIGITS, 10, (), 60_000, 325_680, 32),
    "small_cnn": Entry(small.small_cnn, _CIFAR, 10, _FLAT, 582_026, 8_488_192, 4),
    "whitened_cnn": Entry(small.whitened_cnn, _CIFAR, 10, _ANY_SIZE, 1_971_640, 118_147_360, 9),
    "alexnet": Entry(alexnet, _IMAGENET, 1000, _ANY_SIZE, 61_100_840, 714_188_480, 63),
    "vgg11": Entry(vgg.vgg11, _IMAGENET, 1000, _ANY_SIZE, 132_863_336, 7_609_090_048, 32),
    "vgg13": Entry(vgg.vgg13, _IMAGENET, 1000, _ANY_SIZE, 133_047_848, 11_308_466_176, 32),
    "vgg16": Entry(vgg.vgg16, _IMAGENET, 1000, _ANY_SIZE, 138_357_544, 15_470_264_320, 32),
    "vgg19": Entry(vgg.vgg19, _IMAGENET, 1000, _ANY_SIZE, 143_667_240, 19_632_062_464, 32),
    "vgg11_bn": Entry(vgg.vgg11_bn, _IMAGENET, 1000, _ANY_SIZE, 132_868_840, 7_609_090_048, 32),
    "vgg13_bn": Entry(vgg.vgg13_bn, _IMAGENET, 1000, _ANY_SIZE, 133_053_736, 11_308_466_176, 32),
    "vgg16_bn": Entry(vgg.vgg16_bn, _IMAGENET, 1000, _ANY_SIZE, 138_365_992, 15_470_264_320, 32),
    "vgg19_bn": Entry(vgg.vgg19_bn, _IMAGENET, 1000, _ANY_SIZE, 143_678_248, 19_632_062_464, 32),
    "squeezenet1_0": Entry(squeezenet.squeezenet1_0, _IMAGENET, 1000, _ANY_SIZE, 1_248_424, 818_924_576, 21),
    "squeezenet1_1": Entry(squeezenet.squeezenet1_1, _IMAGENET, 1000, _ANY_SIZE, 1_235_496, 349_151_936, 17),
    "googlenet": Entry(googlenet, _IMAGENET, 1000, _ANY_SIZE, 6_624_904, 1_498_376_192, 15),
    "inception_v3": Entry(inception.inception_v3, (299, 299, 3), 1000, _ANY_SIZE, 23_834_568, 5_713_216_096, 75),
    "resnet18": Entry(resnet.resnet18, _IMAGENET, 1000, _ANY_SIZE, 11_689_512, 1_814_073_344),
    "resnet34": Entry(resnet.resnet34, _IMAGENET, 1000, _ANY_SIZE, 21_797_672, 3_663_761_408),
    "resnet50": Entry(resnet.resnet50, _IMAGENET, 1000, _ANY_SIZE, 25_557_032, 4_089_184_256),
    "resnet101": Entry(resnet.resnet101, _IMAGENET, 1000, _ANY_SIZE, 44_549_160, 7_801_405_440),
    "resnet152": Entry(resnet.resnet152, _IMAGENET, 1000, _ANY_SIZE, 60_192_808, 11_513_626_624),
    "resnet50_v1": Entry(resnet.resnet50_v1, _IMAGENET, 1000, _ANY_SIZE, 25_583_592, 3_857_973_248),
    "resnet101_v1": Entry(resnet.resnet101_v1, _IMAGENET, 1000, _ANY_SIZE, 44_601_832, 7_570_194_432),
    "resnet152_v1": Entry(resnet.resnet152_v1, _IMAGENET, 1000, _ANY_SIZE, 60_268_520, 11_282_415_616),
    "resnet50_v2": Entry(resnet_v2.resnet50_v2, _IMAGENET, 1000, _ANY_SIZE, 25_568_360, 3_482_255_360),
    "resnet101_v2": Entry(resnet_v2.resnet101_v2, _IMAGENET, 1000, _ANY_SIZE, 44_577_896, 7_194_476_544),
    "resnet152_v2": Entry(resnet_v2.resnet152_v2, _IMAGENET, 1000, _ANY_SIZE, 60_236_904, 10_906_697_728),
    "resnext50_32x4d": Entry(resnet.resnext50_32x4d, _IMAGENET, 1000, _ANY_SIZE, 25_028_904, 4_230_479_872),
    "resnext101_32x8d": Entry(resnet.resnext101_32x8d, _IMAGENET, 1000, _ANY_SIZE, 88_791_336, 16_414_015_488),
    "resnext101_64x4d": Entry(resnet.resnext101_64x4d, _IMAGENET, 1000, _ANY_SIZE, 83_455_272, 15_460_270_080),
    "wide_resnet50_2": Entry(resnet.wide_resnet50_2, _IMAGENET, 1000, _ANY_SIZE, 68_883_240, 11_398_021_120),
    "wide_resnet101_2": Entry(resnet.wide_resnet101_2, _IMAGENET, 1000, _ANY_SIZE, 126_886_696, 22_753_050_624),
    "mobilenet_v1": Entry(mobilenet.mobilenet_v1, _IMAGENET, 1000, _ANY_SIZE, 4_231_976, 568_740_352, 31),
    "mobilenet_v2": Entry(mobilenet.mobilenet_v2, _IMAGENET, 1000, _ANY_SIZE, 3_504_872, 300_774_272),
    "mobilenet_v3_large": Entry(mobilenet.mobilenet_v3_large, _IMAGENET, 1000, _ANY_SIZE, 5_483_032, 216_589_760),
    "mobilenet_v3_small": Entry(mobilenet.mobilenet_v3_small, _IMAGENET, 1000, _ANY_SIZE, 2_542_856, 56_510_400),
    "efficientnet_b0": Entry(efficientnet.efficientnet_b0, _IMAGENET, 1000, _ANY_SIZE, 5_288_548, 385_814_752),
    "efficientnet_b1": Entry(efficientnet.efficientnet_b1, (240, 240, 3), 1000, _ANY_SIZE, 7_794_184, 686_802_832),
    "efficientnet_b2": Entry(efficientnet.efficientnet_b2, (260, 260, 3), 1000, _ANY_SIZE, 9_109_994, 993_561_872),
    "efficientnet_b3": Entry(efficientnet.efficientnet_b3, (300, 300, 3), 1000, _ANY_SIZE, 12_233_232, 1_827_141_392),
    "efficientnet_b4": Entry(efficientnet.efficientnet_b4, (380, 380, 3), 1000, _ANY_SIZE, 19_341_616, 4_393_771_024),
    "efficientnet_b5": Entry(efficientnet.efficientnet_b5, (456, 456, 3), 1000, _ANY_SIZE, 30_389_784, 10_266_384_752),
    "efficientnet_b6": Entry(efficientnet.efficientnet_b6, (528, 528, 3), 1000, _ANY_SIZE, 43_040_704, 19_067_593_536),
    "efficientnet_b7": Entry(efficientnet.efficientnet_b7, (600, 600, 3), 1000, _ANY_SIZE, 66_347_960, 37_745_884_192),
    "efficientnet_v2_s": Entry(
        efficientnet.efficientnet_v2_s, (384, 384, 3), 1000, _ANY_SIZE, 21_458_488, 8_365_617_152
    ),
    "efficientnet_v2_m": Entry(
        efficientnet.efficientnet_v2_m, (480, 480, 3), 1000, _ANY_SIZE, 54_139_356, 24_582_460_384
    ),
    "efficientnet_v2_l": Entry(
        efficientnet.efficientnet_v2_l, (480, 480, 3), 1000, _ANY_SIZE, 118_515_272, 56_079_699_008
    ),
    "xception": Entry(xception, (299, 299, 3), 1000, _ANY_SIZE, 22_855_952, 8_357_403_496, 7),
    "convnext_tiny": Entry(convnext.convnext_tiny, _IMAGENET, 1000, _ANY_SIZE, 28_589_128, 4_455_531_264, 32),
    "convnext_small": Entry(convnext.convnext_small, _IMAGENET, 1000, _ANY_SIZE, 50_223_688, 8_683_712_256, 32),
    "convnext_base": Entry(convnext.convnext_base, _IMAGENET, 1000, _ANY_SIZE, 88_591_464, 15_354_729_472, 32),
    "convnext_large": Entry(convnext.convnext_large, _IMAGENET, 1000, _ANY_SIZE, 197_767_336, 34_361_433_600, 32),
    "densenet121": Entry(densenet.densenet121, _IMAGENET, 1000, _ANY_SIZE, 7_978_856, 2_834_161_664, 29),
    "densenet161": Entry(densenet.densenet161, _IMAGENET, 1000, _ANY_SIZE, 28_681_000, 7_727_907_072, 29),
    "densenet169": Entry(densenet.densenet169, _IMAGENET, 1000, _ANY_SIZE, 14_149_480, 3_359_843_328, 29),
    "densenet201": Entry(densenet.densenet201, _IMAGENET, 1000, _ANY_SIZE, 20_013_928, 4_291_365_888, 29),
    "shufflenet_v2_x0_5": Entry(shufflenet.shufflenet_v2_x0_5, _IMAGENET, 1000, _ANY_SIZE, 1_366_792, 40_476_448),
    "shufflenet_v2_x1_0": Entry(shufflenet.shufflenet_v2_x1_0, _IMAGENET, 1000, _ANY_SIZE, 2_278_604, 144_907_992),
    "shufflenet_v2_x1_5": Entry(shufflenet.shufflenet_v2_x1_5, _IMAGENET, 1000, _ANY_SIZE, 3_503_624, 295_759_392),
    "shufflenet_v2_x2_0": Entry(shufflenet.shufflenet_v2_x2_0, _IMAGENET, 1000, _ANY_SIZE, 7_393_996, 583_253_464),
    "regnet_x_400mf": Entry(regnet.regnet_x_400mf, _IMAGENET, 1000, _ANY_SIZE, 5_495_976, 413_812_608),
    "regnet_x_800mf": Entry(regnet.regnet_x_800mf, _IMAGENET, 1000, _ANY_SIZE, 7_259_656, 799_699_712),
    "regnet_x_1_6gf": Entry(regnet.regnet_x_1_6gf, _IMAGENET, 1000, _ANY_SIZE, 9_190_136, 1_602_849_792),
    "regnet_x_3_2gf": Entry(regnet.regnet_x_3_2gf, _IMAGENET, 1000, _ANY_SIZE, 15_296_552, 3_176_621_952),
    "regnet_x_8gf": Entry(regnet.regnet_x_8gf, _IMAGENET, 1000, _ANY_SIZE, 39_572_648, 7_995_132_416),
    "regnet_x_16gf": Entry(regnet.regnet_x_16gf, _IMAGENET, 1000, _ANY_SIZE, 54_278_536, 15_940_755_456),
    "regnet_x_32gf": Entry(regnet.regnet_x_32gf, _IMAGENET, 1000, _ANY_SIZE, 107_811_560, 31_735_929_792),
    "regnet_y_400mf": Entry(regnet.regnet_y_400mf, _IMAGENET, 1000, _ANY_SIZE, 4_344_144, 401_842_848),
    "regnet_y_800mf": Entry(regnet.regnet_y_800mf, _IMAGENET, 1000, _ANY_SIZE, 6_432_512, 833_856_256),
    "regnet_y_1_6gf": Entry(regnet.regnet_y_1_6gf, _IMAGENET, 1000, _ANY_SIZE, 11_202_430, 1_612_076_160),
    "regnet_y_3_2gf": Entry(regnet.regnet_y_3_2gf, _IMAGENET, 1000, _ANY_SIZE, 19_436_338, 3_176_482_752),
    "regnet_y_8gf": Entry(regnet.regnet_y_8gf, _IMAGENET, 1000, _ANY_SIZE, 39_381_472, 8_473_070_592),
    "regnet_y_16gf": Entry(regnet.regnet_y_16gf, _IMAGENET, 1000, _ANY_SIZE, 83_590_140, 15_911_510_272),
    "regnet_y_32gf": Entry(regnet.regnet_y_32gf, _IMAGENET, 1000, _ANY_SIZE, 145_046_770, 32_279_552_832),
    "resnet18_cifar": Entry(Partial(resnet.resnet18, stem="cifar"), _CIFAR, 10, _ANY_SIZE, 11_173_962, 555_422_720),
    "resnet34_cifar": Entry(Partial(resnet.resnet34, stem="cifar"), _CIFAR, 10, _ANY_SIZE, 21_282_122, 1_159_402_496),
    "resnet50_cifar": Entry(Partial(resnet.resnet50, stem="cifar"), _CIFAR, 10, _ANY_SIZE, 23_520_842, 1_297_829_888),
    "resnet101_cifar": Entry(Partial(resnet.resnet101, stem="cifar"), _CIFAR, 10, _ANY_SIZE, 42_512_970, 2_509_983_744),
    "resnet152_cifar": Entry(Partial(resnet.resnet152, stem="cifar"), _CIFAR, 10, _ANY_SIZE, 58_156_618, 3_722_137_600),
    "resnet20": Entry(resnet.resnet20, _CIFAR, 10, _ANY_SIZE, 269_722, 40_551_040),
    "resnet32": Entry(resnet.resnet32, _CIFAR, 10, _ANY_SIZE, 464_154, 68_862_592),
    "resnet44": Entry(resnet.resnet44, _CIFAR, 10, _ANY_SIZE, 658_586, 97_174_144),
    "resnet56": Entry(resnet.resnet56, _CIFAR, 10, _ANY_SIZE, 853_018, 125_485_696),
    "resnet110": Entry(resnet.resnet110, _CIFAR, 10, _ANY_SIZE, 1_727_962, 252_887_680),
    "wrn_28_10": Entry(resnet_v2.wrn_28_10, _CIFAR, 10, _ANY_SIZE, 36_479_194, 5_243_328_768),
    "small_unet": Entry(u_net.small_unet, (64, 64, 3), 2, _ANY_SIZE, 482_754, 145_031_168, 8, "segmentation"),
    "unet": Entry(u_net.unet, (128, 128, 3), 2, _ANY_SIZE, 31_037_698, 12_042_895_360, 16, "segmentation"),
    "unet_2015": Entry(u_net.unet_2015, (572, 572, 1), 2, _ANY_SIZE, 31_030_658, 150_428_424_448, 188, "segmentation"),
    "unet_resnet18": _with_encoder(encoder_unet, "resnet18", 14_328_354, 5_407_506_432),
    "unet_resnet34": _with_encoder(encoder_unet, "resnet34", 24_436_514, 7_823_425_536),
    "unet_resnet50": _with_encoder(encoder_unet, "resnet50", 32_521_250, 10_641_997_824),
    "unet_mobilenet_v2": _with_encoder(encoder_unet, "mobilenet_v2", 6_629_090, 3_354_451_968),
    "unet_efficientnet_b0": _with_encoder(encoder_unet, "efficientnet_b0", 5_839_454, 2_967_259_648),
    "unet_vgg16_bn": _with_encoder(encoder_unet, "vgg16_bn", 23_756_834, 24_744_296_448),
    "unet_densenet121": _with_encoder(encoder_unet, "densenet121", 13_607_778, 8_400_142_336),
    "unet_plus_plus_resnet34": _with_encoder(unet_plus_plus, "resnet34", 26_078_754, 18_393_071_616),
    "fpn_resnet34": _with_encoder(fpn, "resnet34", 23_155_522, 6_855_589_888),
    "pspnet_resnet34": _with_encoder(pspnet, "resnet34", 1_505_826, 2_344_820_736, 8),
    "deeplabv3_plus_resnet50": _with_encoder(deeplabv3_plus, "resnet50", 26_677_842, 9_141_747_712, 16),
    "upernet_convnext_tiny": _with_encoder(upernet, "convnext_tiny", 37_044_130, 19_105_366_016),
    "linknet_resnet34": _with_encoder(linknet, "resnet34", 21_771_970, 5_032_116_224),
    "fcn_resnet50": _scene(fcn.fcn_resnet50, 32_957_013, 142_725_772_800, "resnet50"),
    "fcn_resnet101": _scene(fcn.fcn_resnet101, 51_949_141, 222_746_867_200, "resnet101"),
    "deeplabv3_resnet50": _scene(deeplab.deeplabv3_resnet50, 39_638_869, 168_731_205_888, "resnet50"),
    "deeplabv3_resnet101": _scene(deeplab.deeplabv3_resnet101, 58_630_997, 248_752_300_288, "resnet101"),
    "deeplabv3_mobilenet_v3_large": _scene(
        deeplab.deeplabv3_mobilenet_v3_large, 11_025_477, 10_436_350_688, "mobilenet_v3_large"
    ),
    "lraspp_mobilenet_v3_large": _scene(
        lraspp.lraspp_mobilenet_v3_large, 3_221_538, 2_077_790_120, "mobilenet_v3_large"
    ),
    "small_retinanet": Entry(
        retinanet.small_retinanet, (128, 128, 3), 10, _ANY_SIZE, 1_527_444, 309_084_160, task="detection"
    ),
    "retinanet_resnet50_fpn": Entry(
        retinanet.retinanet_resnet50_fpn, _COCO, 90, _ANY_SIZE, 34_047_374, 151_263_756_800, task="detection"
    ),
    "fcos_resnet50_fpn": Entry(
        fcos.fcos_resnet50_fpn, _COCO, 90, _ANY_SIZE, 32_320_415, 128_176_310_528, task="detection"
    ),
    "ssd300_vgg16": Entry(ssd.ssd300_vgg16, (300, 300, 3), 90, _ANY_SIZE, 35_641_826, 34_858_153_472, 268, "detection"),
    "ssdlite320_mobilenet_v3_large": Entry(
        ssd.ssdlite320_mobilenet_v3_large, (320, 320, 3), 90, _ANY_SIZE, 3_440_060, 583_171_904, task="detection"
    ),
    "retinanet_resnet50_fpn_v2": Entry(
        retinanet.retinanet_resnet50_fpn_v2, _COCO, 90, _ANY_SIZE, 38_178_190, 151_961_518_592, task="detection"
    ),
    "small_fasterrcnn": Entry(
        faster_rcnn.small_fasterrcnn, (128, 128, 3), 10, _ANY_SIZE, 2_253_141, 347_069_440, task="detection"
    ),
    "fasterrcnn_resnet50_fpn": Entry(
        faster_rcnn.fasterrcnn_resnet50_fpn, _COCO, 90, _ANY_SIZE, 41_808_406, 134_379_721_216, task="detection"
    ),
    "fasterrcnn_resnet50_fpn_v2": Entry(
        faster_rcnn.fasterrcnn_resnet50_fpn_v2, _COCO, 90, _ANY_SIZE, 43_712_278, 280_370_729_472, task="detection"
    ),
    "small_maskrcnn": Entry(
        mask_rcnn.small_maskrcnn, (128, 128, 3), 10, _ANY_SIZE, 2_418_016, 1_327_006_720, task="detection"
    ),
    "maskrcnn_resnet50_fpn": Entry(
        mask_rcnn.maskrcnn_resnet50_fpn, _COCO, 90, _ANY_SIZE, 44_454_513, 187_586_351_616, task="detection"
    ),
    "maskrcnn_resnet50_fpn_v2": Entry(
        mask_rcnn.maskrcnn_resnet50_fpn_v2, _COCO, 90, _ANY_SIZE, 46_359_409, 333_577_359_872, task="detection"
    ),
    "fasterrcnn_mobilenet_v3_large_fpn": Entry(
        faster_rcnn.fasterrcnn_mobilenet_v3_large_fpn,
        _COCO,
        90,
        _ANY_SIZE,
        19_410_754,
        18_853_144_256,
        task="detection",
    ),
    "fasterrcnn_mobilenet_v3_large_320_fpn": Entry(
        faster_rcnn.fasterrcnn_mobilenet_v3_large_320_fpn,
        (320, 320, 3),
        90,
        _ANY_SIZE,
        19_410_754,
        2_872_931_200,
        task="detection",
    ),
    "yolov1": Entry(yolov1.yolov1, (448, 448, 3), 20, _FLAT, 271_703_550, 20_285_153_280, task="detection"),
    "yolov1_tiny": Entry(yolov1.yolov1_tiny, (128, 128, 3), 10, _FLAT, 4_916_624, 87_097_344, task="detection"),
    "yolov3": _yolo(yolov3.yolov3, 416, 61_949_149, 32_932_037_632),
    "yolov3_tiny": _yolo(yolov3.yolov3_tiny, 416, 8_852_366, 2_782_480_896),
    "yolox_nano": _yolo(yolox.yolox_nano, 416, 912_159, 522_553_408, 2),
    "yolox_tiny": _yolo(yolox.yolox_tiny, 416, 5_055_855, 3_206_268_000, 2),
    "yolox_s": _yolo(yolox.yolox_s, 640, 8_968_255, 13_342_771_200, 2),
    "yolox_m": _yolo(yolox.yolox_m, 640, 25_326_495, 36_765_158_400, 2),
    "yolox_l": _yolo(yolox.yolox_l, 640, 54_208_895, 77_646_336_000, 2),
    "yolox_x": _yolo(yolox.yolox_x, 640, 99_071_455, 140_704_896_000, 2),
}


def build(name: str, num_classes: int | None = None, image_shape: Shape | None = None) -> Model:
    """Builds a model of the catalog for given images.

    Args:
      name: its name.
      num_classes: number of logits; that of the catalog if None.
      image_shape: (height, width, channels) of the images; that of the catalog if None.

    Returns:
      The model.

    Raises:
      KeyError: there is no model of that name.
      ValueError: the model cannot take such images.
    """
    entry = CATALOG[name]
    num_classes = entry.num_classes if num_classes is None else num_classes
    image_shape = entry.image_shape if image_shape is None else image_shape
    options = {"in_channels": image_shape[2], "image_size": image_shape[:2]}
    if not entry.takes and image_shape != entry.image_shape:
        raise ValueError(f"{name} expects images of shape {entry.image_shape}, got {image_shape}")
    if min(image_shape[:2]) < entry.min_size:
        raise ValueError(
            f"{name} expects images of at least {entry.min_size}x{entry.min_size} pixels, "
            f"got {image_shape[0]}x{image_shape[1]}; enlarge them or take another model"
        )
    return entry.build(num_classes, **{option: options[option] for option in entry.takes})
