"""ResNet, ResNeXt and Wide ResNet: torchvision, timm, Keras."""

import re

from jaxcnn.interop.preprocessing import keras_preprocessing, torchvision_preprocessing
from jaxcnn.interop.records.record import Origin, Record, Rules
from jaxcnn.models import resnet, resnet_v2

TORCH_RULES = (
    (r"stem/conv", "conv1"),
    (r"stem/norm", "bn1"),
    (r"stage(\d)/block(\d+)/shortcut/conv", r"layer\1.\2.downsample.0"),
    (r"stage(\d)/block(\d+)/shortcut/norm", r"layer\1.\2.downsample.1"),
    (r"stage(\d)/block(\d+)/conv(\d)", r"layer\1.\2.conv\3"),
    (r"stage(\d)/block(\d+)/norm(\d)", r"layer\1.\2.bn\3"),
    (r"head", "fc"),
)


def _keras(match: re.Match[str], part: str) -> str:
    """Names a layer of a block: Keras counts the stages from conv2 and the blocks from block1."""
    return f"conv{int(match[1]) + 1}_block{int(match[2]) + 1}_{part}"


_KERAS_RULES = (
    (r"stem/conv", "conv1_conv"),
    (r"stem/norm", "conv1_bn"),
    (r"stage(\d)/block(\d+)/shortcut/conv", lambda match: _keras(match, "0_conv")),
    (r"stage(\d)/block(\d+)/shortcut/norm", lambda match: _keras(match, "0_bn")),
    (r"stage(\d)/block(\d+)/conv(\d)", lambda match: _keras(match, f"{match[3]}_conv")),
    (r"stage(\d)/block(\d+)/norm(\d)", lambda match: _keras(match, f"{match[3]}_bn")),
    (r"head", "predictions"),
)

_KERAS_V2_RULES = (
    (r"stem/conv", "conv1_conv"),
    (r"norm", "post_bn"),
    (r"stage(\d)/block(\d+)/norm0?", lambda match: _keras(match, "preact_bn")),
    (r"stage(\d)/block(\d+)/residual/shortcut/conv", lambda match: _keras(match, "0_conv")),
    (r"stage(\d)/block(\d+)/(?:residual/)?conv(\d)", lambda match: _keras(match, f"{match[3]}_conv")),
    (r"stage(\d)/block(\d+)/(?:residual/)?norm(\d)", lambda match: _keras(match, f"{match[3]}_bn")),
    (r"head", "predictions"),
)

_TORCH_MODELS = {
    "resnet18": resnet.resnet18,
    "resnet34": resnet.resnet34,
    "resnet50": resnet.resnet50,
    "resnet101": resnet.resnet101,
    "resnet152": resnet.resnet152,
    "resnext50_32x4d": resnet.resnext50_32x4d,
    "resnext101_32x8d": resnet.resnext101_32x8d,
    "resnext101_64x4d": resnet.resnext101_64x4d,
    "wide_resnet50_2": resnet.wide_resnet50_2,
    "wide_resnet101_2": resnet.wide_resnet101_2,
}

_ORIGINS: tuple[Origin, ...] = ("torchvision", "timm")

_KERAS_V1_MODELS = {
    "50": resnet.resnet50_v1,
    "101": resnet.resnet101_v1,
    "152": resnet.resnet152_v1,
}

_KERAS_V2_MODELS = {
    "50": resnet_v2.resnet50_v2,
    "101": resnet_v2.resnet101_v2,
    "152": resnet_v2.resnet152_v2,
}

RECORDS = (
    *(
        Record(name, origin, name, build, Rules(origin, TORCH_RULES), torchvision_preprocessing(256, 224))
        for origin in _ORIGINS
        for name, build in _TORCH_MODELS.items()
    ),
    # Keras' first ResNets have their strides in another place: these weights are for the variant that has them there.
    *(
        Record(model, "keras", f"ResNet{depth}", build, Rules("keras", _KERAS_RULES), keras_preprocessing("caffe", 224))
        for depth, build in _KERAS_V1_MODELS.items()
        for model in (f"resnet{depth}_v1", f"resnet{depth}")
    ),
    *(
        Record(
            f"resnet{depth}_v2",
            "keras",
            f"ResNet{depth}V2",
            build,
            Rules("keras", _KERAS_V2_RULES),
            keras_preprocessing("tf", 224),
        )
        for depth, build in _KERAS_V2_MODELS.items()
    ),
)
