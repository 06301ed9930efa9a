"""MobileNet v1 to v3: torchvision, timm, Keras.

timm has several sets of weights for MobileNetV3, which differ in preprocessing: only the configuration that comes with
a file says which is right. A MobileNetV3 of Keras that is built for images of any size pads images of odd size as if
their size were even, unlike one that is built for one size; the padding here is that for one size. For the published
size there is no difference.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

from jaxcnn.interop.preprocessing import keras_preprocessing, torchvision_preprocessing
from jaxcnn.interop.records.numbered import NumberedRules
from jaxcnn.interop.records.record import Record, Rules
from jaxcnn.layers import BatchNorm
from jaxcnn.models import mobilenet_v1, mobilenet_v2, mobilenet_v3_large, mobilenet_v3_small
from jaxcnn.values import Partial

_BLOCK = r"stage\d+/block\d+/(\d+)/\w+/(\d)/"
"""The numbers of the block and of the layer."""


def _torchvision(match: re.Match[str], kind: str, part: str) -> str:
    """Names a layer of a block: torchvision counts the stem as number 0."""
    return f"features.{int(match[1]) + 1}.{kind}.{part}"


_TORCHVISION_ENDS = (
    (r"stem/conv", "features.0.0"),
    (r"stem/norm", "features.0.1"),
    (r"last/\d+/(\d+)/conv", lambda match: f"features.{int(match[1]) + 1}.0"),
    (r"last/\d+/(\d+)/norm", lambda match: f"features.{int(match[1]) + 1}.1"),
)

_TORCHVISION_V2 = (
    *_TORCHVISION_ENDS,
    (rf"{_BLOCK}project/conv", lambda match: _torchvision(match, "conv", match[2])),
    (rf"{_BLOCK}project/norm", lambda match: _torchvision(match, "conv", str(int(match[2]) + 1))),
    (rf"{_BLOCK}\w+/conv", lambda match: _torchvision(match, "conv", f"{match[2]}.0")),
    (rf"{_BLOCK}\w+/norm", lambda match: _torchvision(match, "conv", f"{match[2]}.1")),
    (r"head", "classifier.1"),
)

TORCHVISION_V3 = (
    *_TORCHVISION_ENDS,
    (rf"{_BLOCK}squeeze_excite/reduce", lambda match: _torchvision(match, "block", f"{match[2]}.fc1")),
    (rf"{_BLOCK}squeeze_excite/expand", lambda match: _torchvision(match, "block", f"{match[2]}.fc2")),
    (rf"{_BLOCK}\w+/conv", lambda match: _torchvision(match, "block", f"{match[2]}.0")),
    (rf"{_BLOCK}\w+/norm", lambda match: _torchvision(match, "block", f"{match[2]}.1")),
    (r"dense", "classifier.0"),
    (r"head", "classifier.3"),
)


def timm_block(match: re.Match[str], part: str) -> str:
    """Names a layer of a block: timm counts stages from 0."""
    return f"blocks.{int(match[1]) - 1}.{match[2]}.{part}"


_STAGE_AND_BLOCK = r"stage(\d+)/block(\d+)/\d+/"

TIMM_BLOCKS = (
    (
        rf"{_STAGE_AND_BLOCK}\w+/\d/squeeze_excite/(reduce|expand)",
        lambda match: timm_block(match, f"se.conv_{match[3]}"),
    ),
    (rf"{_STAGE_AND_BLOCK}depthwise/\d/depthwise/conv", lambda match: timm_block(match, "conv_dw")),
    (rf"{_STAGE_AND_BLOCK}depthwise/\d/depthwise/norm", lambda match: timm_block(match, "bn1")),
    (rf"{_STAGE_AND_BLOCK}depthwise/\d/project/conv", lambda match: timm_block(match, "conv_pw")),
    (rf"{_STAGE_AND_BLOCK}depthwise/\d/project/norm", lambda match: timm_block(match, "bn2")),
    (rf"{_STAGE_AND_BLOCK}expand/\d/expand/conv", lambda match: timm_block(match, "conv_pw")),
    (rf"{_STAGE_AND_BLOCK}expand/\d/expand/norm", lambda match: timm_block(match, "bn1")),
    (rf"{_STAGE_AND_BLOCK}expand/\d/depthwise/conv", lambda match: timm_block(match, "conv_dw")),
    (rf"{_STAGE_AND_BLOCK}expand/\d/depthwise/norm", lambda match: timm_block(match, "bn2")),
    (rf"{_STAGE_AND_BLOCK}expand/\d/project/conv", lambda match: timm_block(match, "conv_pwl")),
    (rf"{_STAGE_AND_BLOCK}expand/\d/project/norm", lambda match: timm_block(match, "bn3")),
)
"""Blocks with and without a first convolution to more channels, in timm's MobileNets and EfficientNets."""

TIMM_ENDS = (
    (r"stem/conv", "conv_stem"),
    (r"stem/norm", "bn1"),
    (r"last/\d+/\d+/conv", "conv_head"),
    (r"last/\d+/\d+/norm", "bn2"),
    (r"head", "classifier"),
)

_TIMM_V3_ENDS = (
    (r"stem/conv", "conv_stem"),
    (r"stem/norm", "bn1"),
    (r"last/(\d+)/\d+/conv", r"blocks.\1.0.conv"),
    (r"last/(\d+)/\d+/norm", r"blocks.\1.0.bn1"),
    (r"dense", "conv_head"),
    (r"head", "classifier"),
)

_KERAS_V1 = (
    (r"stem/conv", "conv1"),
    (r"stem/norm", "conv1_bn"),
    (r"stage\d+/block\d+/(\d+)/\w+/\d/depthwise/conv", lambda match: f"conv_dw_{int(match[1]) + 1}"),
    (r"stage\d+/block\d+/(\d+)/\w+/\d/depthwise/norm", lambda match: f"conv_dw_{int(match[1]) + 1}_bn"),
    (r"stage\d+/block\d+/(\d+)/\w+/\d/pointwise/conv", lambda match: f"conv_pw_{int(match[1]) + 1}"),
    (r"stage\d+/block\d+/(\d+)/\w+/\d/pointwise/norm", lambda match: f"conv_pw_{int(match[1]) + 1}_bn"),
    (r"head", "conv_preds"),
)

_KERAS_V2 = (
    (r"stem/conv", "Conv1"),
    (r"stem/norm", "bn_Conv1"),
    (r"stage\d+/block\d+/0/\w+/\d/(\w+)/conv", r"expanded_conv_\1"),
    (r"stage\d+/block\d+/0/\w+/\d/(\w+)/norm", r"expanded_conv_\1_BN"),
    (r"stage\d+/block\d+/(\d+)/\w+/\d/(\w+)/conv", r"block_\1_\2"),
    (r"stage\d+/block\d+/(\d+)/\w+/\d/(\w+)/norm", r"block_\1_\2_BN"),
    (r"last/\d+/\d+/conv", "Conv_1"),
    (r"last/\d+/\d+/norm", "Conv_1_bn"),
    (r"head", "predictions"),
)


def _keras_v3_block(match: re.Match[str], part: str) -> str:
    """Names a layer of a block: the first one has no number."""
    return f"expanded_conv_{part}" if match[1] == "0" else f"expanded_conv_{match[1]}_{part}"


_KERAS_V3 = (
    (r"stem/conv", "conv"),
    (r"stem/norm", "conv_bn"),
    (rf"{_BLOCK}squeeze_excite/reduce", lambda match: _keras_v3_block(match, "squeeze_excite_conv")),
    (rf"{_BLOCK}squeeze_excite/expand", lambda match: _keras_v3_block(match, "squeeze_excite_conv_1")),
    (rf"{_BLOCK}(\w+)/conv", lambda match: _keras_v3_block(match, match[3])),
    (rf"{_BLOCK}(\w+)/norm", lambda match: _keras_v3_block(match, f"{match[3]}_bn")),
    (r"last/\d+/\d+/conv", "conv_1"),
    (r"last/\d+/\d+/norm", "conv_1_bn"),
    (r"dense", "conv_2"),
    (r"head", "logits"),
)

KERAS_DEPTHWISE = ((r"(.*)/depthwise_kernel", r"\1/kernel"),)
"""The name of the kernel of a depthwise convolution in Keras 2."""

_KERAS_2_BLOCK = r"(expanded_conv(?:_\d+)?)"

_KERAS_2_V3 = (
    (r"Conv/kernel", "conv/kernel"),
    (r"Conv/BatchNorm/(\w+)", r"conv_bn/\1"),
    (r"Conv_1/BatchNorm/(\w+)", r"conv_1_bn/\1"),
    (r"Conv_([12])/(\w+)", r"conv_\1/\2"),
    (r"Logits/(\w+)", r"logits/\1"),
    (rf"{_KERAS_2_BLOCK}/(\w+)/BatchNorm/(\w+)", r"\1_\2_bn/\3"),
    (rf"{_KERAS_2_BLOCK}/squeeze_excite/Conv(_1)?/(\w+)", r"\1_squeeze_excite_conv\2/\3"),
    (rf"{_KERAS_2_BLOCK}/(\w+)/(?:depthwise_)?kernel", r"\1_\2/kernel"),
    *KERAS_DEPTHWISE,
)
"""The names that layers of MobileNetV3 have in Keras 2, such as "expanded_conv_1/expand/BatchNorm"."""

TF_NORM = Partial(BatchNorm, epsilon=1e-3)
"""The batch norm of those models of timm whose weights come from TensorFlow."""

_KERAS_NORM = Partial(BatchNorm, decay=0.999, epsilon=1e-3, unbiased=False)
GATES = r".*/squeeze_excite/(reduce|expand)"


def _torchvision_v3(size: str, build: Callable[..., Any]) -> Record:
    return Record(
        f"mobilenet_v3_{size}",
        "torchvision",
        f"mobilenet_v3_{size}",
        build,
        NumberedRules(Rules("torchvision", TORCHVISION_V3), build),
        torchvision_preprocessing(256, 224),
        as_convolution=GATES,
    )


def _timm_v3(size: str, build: Callable[..., Any]) -> Iterator[Record]:
    names = NumberedRules(Rules("timm", (*TIMM_BLOCKS, *_TIMM_V3_ENDS)), build)
    variants = {
        f"mobilenetv3_{size}_100": Partial(build, norm=BatchNorm),
        f"tf_mobilenetv3_{size}_100": Partial(build, norm=TF_NORM, padding="same"),
    }
    for architecture, variant in variants.items():
        yield Record(
            f"mobilenet_v3_{size}", "timm", architecture, variant, names, None, as_convolution=rf"{GATES}|dense"
        )


def _keras_v3(size: str, build: Callable[..., Any]) -> Record:
    return Record(
        f"mobilenet_v3_{size}",
        "keras",
        f"MobileNetV3{size.capitalize()}",
        Partial(build, norm=_KERAS_NORM, padding="same"),
        NumberedRules(Rules("keras", _KERAS_V3), build),
        keras_preprocessing("tf", 224),
        as_convolution=rf"{GATES}|dense|head",
        rewrites=_KERAS_2_V3,
    )


_V3 = {"large": mobilenet_v3_large, "small": mobilenet_v3_small}

RECORDS = (
    Record(
        "mobilenet_v1",
        "keras",
        "MobileNet",
        mobilenet_v1,
        NumberedRules(Rules("keras", _KERAS_V1), mobilenet_v1),
        keras_preprocessing("tf", 224),
        as_convolution="head",
        rewrites=KERAS_DEPTHWISE,
    ),
    Record(
        "mobilenet_v2",
        "torchvision",
        "mobilenet_v2",
        mobilenet_v2,
        NumberedRules(Rules("torchvision", _TORCHVISION_V2), mobilenet_v2),
        torchvision_preprocessing(256, 224),
    ),
    Record(
        "mobilenet_v2",
        "timm",
        "mobilenetv2_100",
        mobilenet_v2,
        NumberedRules(Rules("timm", (*TIMM_BLOCKS, *TIMM_ENDS)), mobilenet_v2),
        torchvision_preprocessing(256, 224, "bicubic"),
    ),
    Record(
        "mobilenet_v2",
        "keras",
        "MobileNetV2",
        Partial(mobilenet_v2, norm=_KERAS_NORM, padding="same"),
        NumberedRules(Rules("keras", _KERAS_V2), mobilenet_v2),
        keras_preprocessing("tf", 224),
        rewrites=((r"Logits/(\w+)", r"predictions/\1"), *KERAS_DEPTHWISE),
    ),
    *(_torchvision_v3(size, build) for size, build in _V3.items()),
    *(record for size, build in _V3.items() for record in _timm_v3(size, build)),
    *(_keras_v3(size, build) for size, build in _V3.items()),
)
