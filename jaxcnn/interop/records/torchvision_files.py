"""The preprocessing of torchvision's published weights, by the name of the file.

torchvision's GoogLeNet and Inception v3 themselves change the mean and deviation of their input to 0.5
(`transform_input`); here this is part of the preprocessing. Source: the metadata of torchvision 0.28; the tests compare
with it.
"""

from collections.abc import Iterable

from jaxcnn.interop.preprocessing import Preprocessing
from jaxcnn.interop.preprocessing import torchvision_preprocessing as _preset

_HALF = (0.5, 0.5, 0.5)

# Segmentation: nothing is cropped, so that every pixel has a class.
_WHOLE = Preprocessing(520, None)

DETECTION = Preprocessing(800, None, antialias=False, max_size=1333, rounded=False, multiple=32)
"""For detectors: the whole image, padded to whole sizes of its maps."""

DETECTION_320 = Preprocessing(320, None, antialias=False, max_size=640, rounded=False, multiple=32)

SSD300 = Preprocessing(
    (300, 300), None, antialias=False, mean=(0.48235, 0.45882, 0.40784), std=(1 / 255,) * 3, rounded=False
)

SSDLITE320 = Preprocessing((320, 320), None, antialias=False, mean=_HALF, std=_HALF, rounded=False)

PREPROCESSING: dict[str, Preprocessing] = {
    "alexnet-owt-7be5be79.pth": _preset(256, 224),
    "convnext_base-6075fbad.pth": _preset(232, 224),
    "convnext_large-ea097f82.pth": _preset(232, 224),
    "convnext_small-0c510722.pth": _preset(230, 224),
    "convnext_tiny-983f1562.pth": _preset(236, 224),
    "deeplabv3_mobilenet_v3_large-fc3c493d.pth": _WHOLE,
    "deeplabv3_resnet101_coco-586e9e4e.pth": _WHOLE,
    "deeplabv3_resnet50_coco-cd0a2569.pth": _WHOLE,
    "densenet121-a639ec97.pth": _preset(256, 224),
    "densenet161-8d451a50.pth": _preset(256, 224),
    "densenet169-b2777c0a.pth": _preset(256, 224),
    "densenet201-c1103571.pth": _preset(256, 224),
    "efficientnet_b0_rwightman-7f5810bc.pth": _preset(256, 224, "bicubic"),
    "efficientnet_b1_rwightman-bac287d4.pth": _preset(256, 240, "bicubic"),
    "efficientnet_b1-c27df63c.pth": _preset(255, 240),
    "efficientnet_b2_rwightman-c35c1473.pth": _preset(288, 288, "bicubic"),
    "efficientnet_b3_rwightman-b3899882.pth": _preset(320, 300, "bicubic"),
    "efficientnet_b4_rwightman-23ab8bcd.pth": _preset(384, 380, "bicubic"),
    "efficientnet_b5_lukemelas-1a07897c.pth": _preset(456, 456, "bicubic"),
    "efficientnet_b6_lukemelas-24a108a5.pth": _preset(528, 528, "bicubic"),
    "efficientnet_b7_lukemelas-c5b4e57e.pth": _preset(600, 600, "bicubic"),
    "efficientnet_v2_l-59c71312.pth": _preset(480, 480, "bicubic", _HALF, _HALF),
    "efficientnet_v2_m-dc08266a.pth": _preset(480, 480),
    "efficientnet_v2_s-dd5fe13b.pth": _preset(384, 384),
    "fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth": DETECTION_320,
    "fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7.pth": DETECTION,
    "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth": DETECTION,
    "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth": DETECTION,
    "fcn_resnet101_coco-7ecb50ca.pth": _WHOLE,
    "fcn_resnet50_coco-1167a1af.pth": _WHOLE,
    "fcos_resnet50_fpn_coco-99b0c9b7.pth": DETECTION,
    "googlenet-1378be20.pth": _preset(256, 224, "bilinear", _HALF, _HALF),
    "inception_v3_google-0cc3c7bd.pth": _preset(342, 299, "bilinear", _HALF, _HALF),
    "lraspp_mobilenet_v3_large-d234d4ea.pth": _WHOLE,
    "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth": DETECTION,
    "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth": DETECTION,
    "mobilenet_v2-b0353104.pth": _preset(256, 224),
    "mobilenet_v2-7ebf99e0.pth": _preset(232, 224),
    "mobilenet_v3_large-8738ca79.pth": _preset(256, 224),
    "mobilenet_v3_large-5c1a4163.pth": _preset(232, 224),
    "mobilenet_v3_small-047dcff4.pth": _preset(256, 224),
    "regnet_x_16gf-2007eb11.pth": _preset(256, 224),
    "regnet_x_16gf-ba3796d7.pth": _preset(232, 224),
    "regnet_x_1_6gf-e3633e7f.pth": _preset(256, 224),
    "regnet_x_1_6gf-a12f2b72.pth": _preset(232, 224),
    "regnet_x_32gf-9d47f8d0.pth": _preset(256, 224),
    "regnet_x_32gf-6eb8fdc6.pth": _preset(232, 224),
    "regnet_x_3_2gf-f342aeae.pth": _preset(256, 224),
    "regnet_x_3_2gf-7071aa85.pth": _preset(232, 224),
    "regnet_x_400mf-adf1edd5.pth": _preset(256, 224),
    "regnet_x_400mf-62229a5f.pth": _preset(232, 224),
    "regnet_x_800mf-ad17e45c.pth": _preset(256, 224),
    "regnet_x_800mf-94a99ebd.pth": _preset(232, 224),
    "regnet_x_8gf-03ceed89.pth": _preset(256, 224),
    "regnet_x_8gf-2b70d774.pth": _preset(232, 224),
    "regnet_y_16gf-9e6ed7dd.pth": _preset(256, 224),
    "regnet_y_16gf-3e4a00f9.pth": _preset(232, 224),
    "regnet_y_16gf_swag-43afe44d.pth": _preset(384, 384, "bicubic"),
    "regnet_y_16gf_lc_swag-f3ec0043.pth": _preset(224, 224, "bicubic"),
    "regnet_y_1_6gf-b11a554e.pth": _preset(256, 224),
    "regnet_y_1_6gf-0d7bc02a.pth": _preset(232, 224),
    "regnet_y_32gf-4dee3f7a.pth": _preset(256, 224),
    "regnet_y_32gf-8db6d4b5.pth": _preset(232, 224),
    "regnet_y_32gf_swag-04fdfa75.pth": _preset(384, 384, "bicubic"),
    "regnet_y_32gf_lc_swag-e1583746.pth": _preset(224, 224, "bicubic"),
    "regnet_y_3_2gf-b5a9779c.pth": _preset(256, 224),
    "regnet_y_3_2gf-9180c971.pth": _preset(232, 224),
    "regnet_y_400mf-c65dace8.pth": _preset(256, 224),
    "regnet_y_400mf-e6988f5f.pth": _preset(232, 224),
    "regnet_y_800mf-1b27b58c.pth": _preset(256, 224),
    "regnet_y_800mf-58fc7688.pth": _preset(232, 224),
    "regnet_y_8gf-d0d0e4a8.pth": _preset(256, 224),
    "regnet_y_8gf-dc2b1b54.pth": _preset(232, 224),
    "resnet101-63fe2227.pth": _preset(256, 224),
    "resnet101-cd907fc2.pth": _preset(232, 224),
    "resnet152-394f9c45.pth": _preset(256, 224),
    "resnet152-f82ba261.pth": _preset(232, 224),
    "resnet18-f37072fd.pth": _preset(256, 224),
    "resnet34-b627a593.pth": _preset(256, 224),
    "resnet50-0676ba61.pth": _preset(256, 224),
    "resnet50-11ad3fa6.pth": _preset(232, 224),
    "resnext101_32x8d-8ba56ff5.pth": _preset(256, 224),
    "resnext101_32x8d-110c445d.pth": _preset(232, 224),
    "resnext101_64x4d-173b62eb.pth": _preset(232, 224),
    "resnext50_32x4d-7cdf4587.pth": _preset(256, 224),
    "resnext50_32x4d-1a0047aa.pth": _preset(232, 224),
    "retinanet_resnet50_fpn_coco-eeacb38b.pth": DETECTION,
    "retinanet_resnet50_fpn_v2_coco-5905b1c5.pth": DETECTION,
    "shufflenetv2_x0.5-f707e7126e.pth": _preset(256, 224),
    "shufflenetv2_x1-5666bf0f80.pth": _preset(256, 224),
    "shufflenetv2_x1_5-3c479a10.pth": _preset(232, 224),
    "shufflenetv2_x2_0-8be3c8ee.pth": _preset(232, 224),
    "squeezenet1_0-b66bff10.pth": _preset(256, 224),
    "squeezenet1_1-b8a52dc0.pth": _preset(256, 224),
    "ssd300_vgg16_coco-b556d3b4.pth": SSD300,
    "ssdlite320_mobilenet_v3_large_coco-a79551df.pth": SSDLITE320,
    "vgg11-8a719046.pth": _preset(256, 224),
    "vgg11_bn-6002323d.pth": _preset(256, 224),
    "vgg13-19584684.pth": _preset(256, 224),
    "vgg13_bn-abd245e5.pth": _preset(256, 224),
    "vgg16-397923af.pth": _preset(256, 224),
    # For the detector SSD, whose images have values in [0, 255].
    "vgg16_features-amdegroot-88682ab5.pth": _preset(256, 224, "bilinear", (0.48235, 0.45882, 0.40784), (1 / 255,) * 3),
    "vgg16_bn-6c64b313.pth": _preset(256, 224),
    "vgg19-dcbb9e9d.pth": _preset(256, 224),
    "vgg19_bn-c79401a0.pth": _preset(256, 224),
    "wide_resnet101_2-32ee1156.pth": _preset(256, 224),
    "wide_resnet101_2-d733dc28.pth": _preset(232, 224),
    "wide_resnet50_2-95faca4d.pth": _preset(256, 224),
    "wide_resnet50_2-9ba9bcbe.pth": _preset(232, 224),
}

# File names that do not begin with the name of the architecture.
_OTHER_BEGINNINGS = {
    "shufflenetv2_x0.5": "shufflenet_v2_x0_5",
    "shufflenetv2_x1_5": "shufflenet_v2_x1_5",
    "shufflenetv2_x1-": "shufflenet_v2_x1_0",
    "shufflenetv2_x2_0": "shufflenet_v2_x2_0",
}


def architecture_of(file_name: str, known: Iterable[str]) -> str | None:
    """Returns torchvision's name of the model in one of its files.

    Args:
      file_name: name of the file, such as "resnet50-11ad3fa6.pth".
      known: the names of the models.

    Returns:
      The name of the model; None if the file is not one of torchvision.
    """
    if file_name not in PREPROCESSING:
        return None
    beginnings = {name: name for name in known} | _OTHER_BEGINNINGS
    return beginnings[max(filter(file_name.startswith, beginnings), key=len)]
