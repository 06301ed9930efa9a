"""DenseNet: torchvision, timm, Keras."""

import re

from jaxcnn.interop.preprocessing import Interpolation, keras_preprocessing, torchvision_preprocessing
from jaxcnn.interop.records.record import Origin, Record, Rules
from jaxcnn.layers import BatchNorm
from jaxcnn.models import densenet
from jaxcnn.values import Partial

_MODELS = {
    "densenet121": densenet.densenet121,
    "densenet161": densenet.densenet161,
    "densenet169": densenet.densenet169,
    "densenet201": densenet.densenet201,
}


def _torch_transition(match: re.Match[str]) -> str:
    """Names a part of a transition: torch numbers it by the block before it."""
    return f"features.transition{int(match[1]) - 1}.{match[2]}"


def _torch_layer(match: re.Match[str]) -> str:
    """Names a part of a dense layer: torch counts the layers from 1."""
    return f"features.denseblock{match[1]}.denselayer{int(match[2]) + 1}.{match[3]}"


_TORCH_RULES = (
    (r"stem/(conv|norm)", r"features.\g<1>0"),
    (r"stage(\d)/transition/(\w+)", _torch_transition),
    (r"stage(\d)/layer(\d+)/new/(\w+)", _torch_layer),
    (r"norm", "features.norm5"),
    (r"head", "classifier"),
)

# The files that torchvision publishes are older than the names of its module: norm.1 is its norm1.
_TORCH_REWRITES = ((r"(.*\.denselayer\d+\.(?:norm|conv))\.([12]\..*)", r"\1\2"),)


def _keras_layer(match: re.Match[str]) -> str:
    """Names a part of a dense layer: Keras counts the blocks from conv2, the layers from 1 and the first norm as 0."""
    kind, number = match[3], int(match[4])
    part = f"{number}_conv" if kind == "conv" else f"{number - 1}_bn"
    return f"conv{int(match[1]) + 1}_block{int(match[2]) + 1}_{part}"


_KERAS_RULES = (
    (r"stem/conv", "conv1_conv"),
    (r"stem/norm", "conv1_bn"),
    (r"stage(\d)/transition/conv", r"pool\1_conv"),
    (r"stage(\d)/transition/norm", r"pool\1_bn"),
    (r"stage(\d)/layer(\d+)/new/(conv|norm)(\d)", _keras_layer),
    (r"norm", "bn"),
    (r"head", "predictions"),
)

# The published files have the names of Keras 2.
_KERAS_REWRITES = ((r"conv1/(conv|bn)/(.*)", r"conv1_\1/\2"), (r"fc1000/(.*)", r"predictions/\1"))

_TORCH_ORIGINS: tuple[tuple[Origin, Interpolation], ...] = (("torchvision", "bilinear"), ("timm", "bicubic"))

_keras_norm = Partial(BatchNorm, decay=0.99, epsilon=1.001e-5, unbiased=False)

RECORDS = (
    *(
        Record(
            name,
            origin,
            name,
            build,
            Rules(origin, _TORCH_RULES),
            torchvision_preprocessing(256, 224, interpolation),
            rewrites=_TORCH_REWRITES,
        )
        for origin, interpolation in _TORCH_ORIGINS
        for name, build in _MODELS.items()
    ),
    *(
        Record(
            f"densenet{depth}",
            "keras",
            f"DenseNet{depth}",
            Partial(_MODELS[f"densenet{depth}"], norm=_keras_norm),
            Rules("keras", _KERAS_RULES),
            keras_preprocessing("torch", 224),
            rewrites=_KERAS_REWRITES,
        )
        for depth in (121, 169, 201)
    ),
)
