"""RegNet X and Y: torchvision, timm. Keras 3 has none."""

import re

from jaxcnn.interop.preprocessing import torchvision_preprocessing
from jaxcnn.interop.records.record import Record, Rules
from jaxcnn.layers import Sequential
from jaxcnn.models import regnet
from jaxcnn.values import Partial

_MODELS = {
    "regnet_x_400mf": regnet.regnet_x_400mf,
    "regnet_x_800mf": regnet.regnet_x_800mf,
    "regnet_x_1_6gf": regnet.regnet_x_1_6gf,
    "regnet_x_3_2gf": regnet.regnet_x_3_2gf,
    "regnet_x_8gf": regnet.regnet_x_8gf,
    "regnet_x_16gf": regnet.regnet_x_16gf,
    "regnet_x_32gf": regnet.regnet_x_32gf,
    "regnet_y_400mf": regnet.regnet_y_400mf,
    "regnet_y_800mf": regnet.regnet_y_800mf,
    "regnet_y_1_6gf": regnet.regnet_y_1_6gf,
    "regnet_y_3_2gf": regnet.regnet_y_3_2gf,
    "regnet_y_8gf": regnet.regnet_y_8gf,
    "regnet_y_16gf": regnet.regnet_y_16gf,
    "regnet_y_32gf": regnet.regnet_y_32gf,
}

_TIMM_SIZES = {
    "400mf": "004",
    "800mf": "008",
    "1_6gf": "016",
    "3_2gf": "032",
    "8gf": "080",
    "16gf": "160",
    "32gf": "320",
}

_UNLIKE_THE_PAPER = ("regnet_x_400mf", "regnet_y_800mf", "regnet_y_8gf")
"""Networks to which torchvision gives other widths than the paper; timm has both."""

# Both libraries write the dense layers of a squeeze-and-excitation as convolutions.
_SQUEEZE_EXCITE = r".*/squeeze_excite/(reduce|expand)"


def _torchvision_part(match: re.Match[str]) -> str:
    """Names a convolution or batch norm of a block: a, b and c for 1, 2 and 3."""
    letter = "abc"[int(match[4]) - 1]
    return f"trunk_output.block{match[1]}.block{match[1]}-{match[2]}.f.{letter}.{0 if match[3] == 'conv' else 1}"


_TORCHVISION_RULES = (
    (r"stem/conv", "stem.0"),
    (r"stem/norm", "stem.1"),
    (r"stage(\d)/block(\d+)/(conv|norm)(\d)", _torchvision_part),
    (r"stage(\d)/block(\d+)/squeeze_excite/reduce", r"trunk_output.block\1.block\1-\2.f.se.fc1"),
    (r"stage(\d)/block(\d+)/squeeze_excite/expand", r"trunk_output.block\1.block\1-\2.f.se.fc2"),
    (r"stage(\d)/block(\d+)/shortcut/conv", r"trunk_output.block\1.block\1-\2.proj.0"),
    (r"stage(\d)/block(\d+)/shortcut/norm", r"trunk_output.block\1.block\1-\2.proj.1"),
    (r"head", "fc"),
)


def _timm(match: re.Match[str], part: str) -> str:
    """Names a part of a block: timm counts the blocks from 1."""
    return f"s{match[1]}.b{int(match[2]) + 1}.{part}"


_TIMM_RULES = (
    (r"stem/conv", "stem.conv"),
    (r"stem/norm", "stem.bn"),
    (r"stage(\d)/block(\d+)/conv(\d)", lambda match: _timm(match, f"conv{match[3]}.conv")),
    (r"stage(\d)/block(\d+)/norm(\d)", lambda match: _timm(match, f"conv{match[3]}.bn")),
    (r"stage(\d)/block(\d+)/squeeze_excite/reduce", lambda match: _timm(match, "se.fc1")),
    (r"stage(\d)/block(\d+)/squeeze_excite/expand", lambda match: _timm(match, "se.fc2")),
    (r"stage(\d)/block(\d+)/shortcut/conv", lambda match: _timm(match, "downsample.conv")),
    (r"stage(\d)/block(\d+)/shortcut/norm", lambda match: _timm(match, "downsample.bn")),
    (r"head", "head.fc"),
)


def as_in_the_paper(num_classes: int = 1000, *, in_channels: int = 3, rule: str) -> Sequential:
    """Builds a RegNet whose widths are the multiples nearest to the line, as in the paper's code and in timm.

    Args:
      num_classes: number of logits.
      in_channels: channels of the image.
      rule: name of the network among `jaxcnn.models.regnet.RULES`, such as "x_400mf".

    Returns:
      The model.
    """
    return regnet.regnet(
        regnet.RULES[rule],
        num_classes,
        in_channels=in_channels,
        squeeze=rule.startswith("y"),
        multiple=regnet.nearest_multiple,
    )


def _timm_record(model: str, architecture: str, *, paper: bool) -> Record:
    build = Partial(as_in_the_paper, rule=model.removeprefix("regnet_")) if paper else _MODELS[model]
    return Record(
        model,
        "timm",
        architecture,
        build,
        Rules("timm", _TIMM_RULES),
        torchvision_preprocessing(256, 224, "bicubic"),
        as_convolution=_SQUEEZE_EXCITE,
    )


def _timm_name(model: str) -> str:
    """Returns timm's name: its sizes are in units of 100 million multiply-adds."""
    _, kind, size = model.split("_", 2)
    return f"regnet{kind}_{_TIMM_SIZES[size]}"


RECORDS = (
    *(
        Record(
            name,
            "torchvision",
            name,
            build,
            Rules("torchvision", _TORCHVISION_RULES),
            torchvision_preprocessing(256, 224),
            as_convolution=_SQUEEZE_EXCITE,
        )
        for name, build in _MODELS.items()
    ),
    *(_timm_record(name, _timm_name(name), paper=name in _UNLIKE_THE_PAPER) for name in _MODELS),
    *(_timm_record(name, f"{_timm_name(name)}_tv", paper=False) for name in _UNLIKE_THE_PAPER),
)
