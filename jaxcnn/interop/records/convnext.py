"""ConvNeXt: torchvision, timm, Keras."""

import re

from jaxcnn.interop.preprocessing import keras_preprocessing, torchvision_preprocessing
from jaxcnn.interop.records.record import Record, Rules
from jaxcnn.models import convnext

_MODELS = {
    "convnext_tiny": convnext.convnext_tiny,
    "convnext_small": convnext.convnext_small,
    "convnext_base": convnext.convnext_base,
    "convnext_large": convnext.convnext_large,
}

_RESIZE = {"convnext_tiny": 236, "convnext_small": 230, "convnext_base": 232, "convnext_large": 232}
"""The size to which torchvision resizes the shorter side."""

_TORCHVISION_PARTS = {"conv": ".block.0", "norm": ".block.2", "expand": ".block.3", "project": ".block.5"}


def _torchvision_part(match: re.Match[str]) -> str:
    """Names a part of a block: torchvision counts the stages and the layers between them in one sequence."""
    part = _TORCHVISION_PARTS.get(match[3], f":{match[3]}")
    return f"features.{2 * int(match[1]) - 1}.{match[2]}{part}"


_TORCHVISION_RULES = (
    (r"stem/conv", "features.0.0"),
    (r"stem/norm", "features.0.1"),
    (r"stage(\d)/downsample/norm", lambda match: f"features.{2 * int(match[1]) - 2}.0"),
    (r"stage(\d)/downsample/conv", lambda match: f"features.{2 * int(match[1]) - 2}.1"),
    (r"stage(\d)/block(\d+)/(\w+)", _torchvision_part),
    (r"norm", "classifier.0"),
    (r"head", "classifier.2"),
)

_TIMM_PARTS = {
    "conv": ".conv_dw",
    "norm": ".norm",
    "expand": ".mlp.fc1",
    "project": ".mlp.fc2",
    "layer_scale": ":gamma",
}

_TIMM_RULES = (
    (r"stem/conv", "stem.0"),
    (r"stem/norm", "stem.1"),
    (r"stage(\d)/downsample/norm", lambda match: f"stages.{int(match[1]) - 1}.downsample.0"),
    (r"stage(\d)/downsample/conv", lambda match: f"stages.{int(match[1]) - 1}.downsample.1"),
    (
        r"stage(\d)/block(\d+)/(\w+)",
        lambda match: f"stages.{int(match[1]) - 1}.blocks.{match[2]}{_TIMM_PARTS[match[3]]}",
    ),
    (r"norm", "head.norm"),
    (r"head", "head.fc"),
)

_KERAS_PARTS = {
    "conv": "depthwise_conv",
    "norm": "layernorm",
    "expand": "pointwise_conv_1",
    "project": "pointwise_conv_2",
    "layer_scale": "layer_scale",
}


def _keras_rules(name: str) -> Rules:
    """Names layers in Keras, where stem and downsampling are models within the model."""

    def between(match: re.Match[str], kind: str) -> str:
        number = int(match[1]) - 2
        return f"{name}_downsampling_block_{number}/{name}_downsampling_{kind}_{number}"

    def part(match: re.Match[str]) -> str:
        return f"{name}_stage_{int(match[1]) - 1}_block_{match[2]}_{_KERAS_PARTS[match[3]]}"

    rules = (
        (r"stem/conv", f"{name}_stem/{name}_stem_conv"),
        (r"stem/norm", f"{name}_stem/{name}_stem_layernorm"),
        (r"stage(\d)/downsample/norm", lambda match: between(match, "layernorm")),
        (r"stage(\d)/downsample/conv", lambda match: between(match, "conv")),
        (r"stage(\d)/block(\d+)/(\w+)", part),
        (r"norm", f"{name}_head_layernorm"),
        (r"head", f"{name}_head_dense"),
    )
    return Rules("keras", rules)


RECORDS = (
    *(
        Record(
            name,
            "torchvision",
            name,
            build,
            Rules("torchvision", _TORCHVISION_RULES),
            torchvision_preprocessing(_RESIZE[name], 224),
            as_convolution=r".*/layer_scale",
        )
        for name, build in _MODELS.items()
    ),
    *(
        Record(name, "timm", name, build, Rules("timm", _TIMM_RULES), torchvision_preprocessing(256, 224, "bicubic"))
        for name, build in _MODELS.items()
    ),
    # The model of Keras normalises the pixels itself, by the moments that its other models call "torch".
    *(
        Record(
            name,
            "keras",
            f"ConvNeXt{name.removeprefix('convnext_').title()}",
            build,
            _keras_rules(name),
            keras_preprocessing("torch", 224),
            # A depthwise convolution is one with groups there.
            as_convolution=r".*/block\d+/conv",
            # The one array of a layer scale has no name of its own.
            rewrites=((r"(.*_layer_scale)/.*", r"\1/gamma"),),
        )
        for name, build in _MODELS.items()
    ),
)
