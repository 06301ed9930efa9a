"""EfficientNet B0 to B7, and EfficientNetV2 S, M and L: torchvision, timm, Keras.

timm has several sets of weights for most of these, which differ in size, resizing and moments: the configuration that
comes with a file gives them.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxcnn.interop.files.tensor import Tensor
from jaxcnn.interop.preprocessing import Preprocessing, keras_preprocessing
from jaxcnn.interop.records.mobilenet import KERAS_DEPTHWISE, TF_NORM, TIMM_BLOCKS, TIMM_ENDS, timm_block
from jaxcnn.interop.records.numbered import NumberedRules
from jaxcnn.interop.records.record import Record, Replacement, Rules
from jaxcnn.interop.records.torchvision_files import PREPROCESSING
from jaxcnn.layers import BatchNorm
from jaxcnn.models import (
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
from jaxcnn.values import Partial

_BLOCK = r"stage(\d+)/block(\d+)/\d+/\w+/(\d)/"
"""The numbers of the stage, of the block in it, and of the layer in the block."""

_TORCHVISION = (
    (r"stem/conv", "features.0.0"),
    (r"stem/norm", "features.0.1"),
    (rf"{_BLOCK}squeeze_excite/reduce", r"features.\1.\2.block.\3.fc1"),
    (rf"{_BLOCK}squeeze_excite/expand", r"features.\1.\2.block.\3.fc2"),
    (rf"{_BLOCK}\w+/conv", r"features.\1.\2.block.\3.0"),
    (rf"{_BLOCK}\w+/norm", r"features.\1.\2.block.\3.1"),
    (r"last/(\d+)/\d+/conv", lambda match: f"features.{int(match[1]) + 1}.0"),
    (r"last/(\d+)/\d+/norm", lambda match: f"features.{int(match[1]) + 1}.1"),
    (r"head", "classifier.1"),
)

# The fused blocks are those of the first three stages of the second version.
_FUSED = r"stage([123])/block(\d+)/\d+/"

_TIMM_V2 = (
    (rf"{_FUSED}project/\d/project/conv", lambda match: timm_block(match, "conv")),
    (rf"{_FUSED}project/\d/project/norm", lambda match: timm_block(match, "bn1")),
    (rf"{_FUSED}expand/\d/expand/conv", lambda match: timm_block(match, "conv_exp")),
    (rf"{_FUSED}expand/\d/expand/norm", lambda match: timm_block(match, "bn1")),
    (rf"{_FUSED}expand/\d/project/conv", lambda match: timm_block(match, "conv_pwl")),
    (rf"{_FUSED}expand/\d/project/norm", lambda match: timm_block(match, "bn2")),
)


def _keras_block(match: re.Match[str], part: str) -> str:
    """Names a layer of a block: Keras gives the blocks of a stage letters."""
    return f"block{match[1]}{chr(ord('a') + int(match[2]))}_{part}"


def _keras_rules(depthwise: str) -> Rules:
    return Rules(
        "keras",
        (
            (r"stem/conv", "stem_conv"),
            (r"stem/norm", "stem_bn"),
            (rf"{_BLOCK}squeeze_excite/(reduce|expand)", lambda match: _keras_block(match, f"se_{match[4]}")),
            (rf"{_BLOCK}depthwise/conv", lambda match: _keras_block(match, depthwise)),
            (rf"{_BLOCK}depthwise/norm", lambda match: _keras_block(match, "bn")),
            (rf"{_BLOCK}(\w+)/conv", lambda match: _keras_block(match, f"{match[4]}_conv")),
            (rf"{_BLOCK}(\w+)/norm", lambda match: _keras_block(match, f"{match[4]}_bn")),
            (r"last/\d+/\d+/conv", "top_conv"),
            (r"last/\d+/\d+/norm", "top_bn"),
            (r"head", "predictions"),
        ),
    )


def keras_normalization(tensors: Mapping[str, Tensor], size: int) -> Preprocessing:
    """Makes the preprocessing that Keras' EfficientNets apply to their images themselves.

    They divide by 255, subtract the mean of the file and divide by the square root of its variance. The files that
    Keras publishes hold the standard deviations of ImageNet instead of variances, and the model that reads them divides
    by their square roots a second time: together by the standard deviation.

    Args:
      tensors: the arrays of the file by name.
      size: height and width of the images, in pixels.

    Returns:
      The preprocessing.

    Raises:
      ValueError: the file has no such arrays.
    """
    found: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(_NORMALIZATION, name)
        if match:
            found[match[1]] = np.asarray(tensor, np.float64).ravel()
    if not found.keys() >= {"mean", "variance"}:
        raise ValueError(
            "expected the arrays normalization/mean and normalization/variance of an EfficientNet of Keras, "
            f"got {sorted(found)}"
        )
    std = np.sqrt(found["variance"])
    if np.allclose(found["variance"], _DEVIATIONS, atol=1e-4):
        std = std * np.sqrt(_DEVIATIONS)
    return _normalized(size, tuple(map(float, found["mean"])), tuple(map(float, std)))


def _normalized(size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Preprocessing:
    """Describes what Keras' models do to images of a size: pixels in [0, 1], and these moments."""
    return dataclasses.replace(keras_preprocessing("tf", size), mean=mean, std=std)


_DEVIATIONS = (0.229, 0.224, 0.225)
_NORMALIZATION = r"normalization(?:_\d+)?/(mean|variance|count)"
_GATES = r".*/squeeze_excite/(reduce|expand)"
_KERAS_NORM = Partial(BatchNorm, decay=0.99, epsilon=1e-3, unbiased=False)
_KERAS_V2_NORM = Partial(BatchNorm, decay=0.9, epsilon=1e-3, unbiased=False)

# Images from 0 to 255 are divided by 128, and 1 is subtracted.
_KERAS_V2_MOMENTS = (128 / 255,) * 3

_V1: dict[str, tuple[Callable[..., Any], str, int]] = {
    "b0": (efficientnet_b0, "efficientnet_b0_rwightman-7f5810bc.pth", 224),
    "b1": (efficientnet_b1, "efficientnet_b1-c27df63c.pth", 240),
    "b2": (efficientnet_b2, "efficientnet_b2_rwightman-c35c1473.pth", 260),
    "b3": (efficientnet_b3, "efficientnet_b3_rwightman-b3899882.pth", 300),
    "b4": (efficientnet_b4, "efficientnet_b4_rwightman-23ab8bcd.pth", 380),
    "b5": (efficientnet_b5, "efficientnet_b5_lukemelas-1a07897c.pth", 456),
    "b6": (efficientnet_b6, "efficientnet_b6_lukemelas-24a108a5.pth", 528),
    "b7": (efficientnet_b7, "efficientnet_b7_lukemelas-c5b4e57e.pth", 600),
}
"""The model; the newest file of torchvision, whose preprocessing is used for unknown file names; the size in Keras."""

_V2: dict[str, tuple[Callable[..., Any], str, int]] = {
    "s": (efficientnet_v2_s, "efficientnet_v2_s-dd5fe13b.pth", 384),
    "m": (efficientnet_v2_m, "efficientnet_v2_m-dc08266a.pth", 480),
    "l": (efficientnet_v2_l, "efficientnet_v2_l-59c71312.pth", 480),
}
"""The same for the second version."""


def _torchvision(model: str, build: Callable[..., Any], file: str) -> Record:
    names = NumberedRules(Rules("torchvision", _TORCHVISION), build)
    return Record(model, "torchvision", model, build, names, PREPROCESSING[file], as_convolution=_GATES)


def _timm(model: str, build: Callable[..., Any]) -> Record:
    """Describes weights that timm has trained."""
    names = NumberedRules(Rules("timm", (*TIMM_BLOCKS, *TIMM_ENDS)), build)
    return Record(model, "timm", model, Partial(build, norm=BatchNorm), names, None, as_convolution=_GATES)


def _timm_tf(
    model: str, build: Callable[..., Any], architecture: str, rules: tuple[tuple[str, Replacement], ...] = ()
) -> Record:
    """Describes weights of TensorFlow that timm publishes."""
    names = NumberedRules(Rules("timm", (*rules, *TIMM_BLOCKS, *TIMM_ENDS)), build)
    variant = Partial(build, norm=TF_NORM, padding="same")
    return Record(model, "timm", architecture, variant, names, None, as_convolution=_GATES)


def _keras_v1(name: str, build: Callable[..., Any], size: int) -> Record:
    return Record(
        f"efficientnet_{name}",
        "keras",
        f"EfficientNet{name.upper()}",
        Partial(build, norm=_KERAS_NORM, padding="same"),
        NumberedRules(_keras_rules("dwconv"), build),
        None,
        as_convolution=_GATES,
        rewrites=KERAS_DEPTHWISE,
        ignored=((_NORMALIZATION, "what the model does to its images, which is in the preprocessing"),),
        read_preprocessing=Partial(keras_normalization, size=size),
    )


def _keras_v2(name: str, build: Callable[..., Any], size: int) -> Record:
    return Record(
        f"efficientnet_v2_{name}",
        "keras",
        f"EfficientNetV2{name.upper()}",
        Partial(build, norm=_KERAS_V2_NORM, padding="same"),
        NumberedRules(_keras_rules("dwconv2"), build),
        _normalized(size, _KERAS_V2_MOMENTS, _KERAS_V2_MOMENTS),
        as_convolution=_GATES,
        rewrites=KERAS_DEPTHWISE,
    )


RECORDS = (
    *(_torchvision(f"efficientnet_{name}", build, file) for name, (build, file, _) in _V1.items()),
    *(_torchvision(f"efficientnet_v2_{name}", build, file) for name, (build, file, _) in _V2.items()),
    *(_timm(f"efficientnet_{name}", build) for name, (build, _, _) in _V1.items()),
    *(_timm_tf(f"efficientnet_{name}", build, f"tf_efficientnet_{name}") for name, (build, _, _) in _V1.items()),
    *(
        _timm_tf(f"efficientnet_v2_{name}", build, f"tf_efficientnetv2_{name}", _TIMM_V2)
        for name, (build, _, _) in _V2.items()
    ),
    *(_keras_v1(name, build, size) for name, (build, _, size) in _V1.items()),
    *(_keras_v2(name, build, size) for name, (build, _, size) in _V2.items()),
)
