"""ShuffleNet V2: torchvision. timm and Keras have none."""

import re

from jaxcnn.interop.preprocessing import torchvision_preprocessing
from jaxcnn.interop.records.record import Record, Rules
from jaxcnn.models import shufflenet

# Places of convolutions and batch norms in the branches of torchvision, between which there are activations.
_LEFT = {"conv1": 0, "norm1": 1, "conv2": 2, "norm2": 3}
_RIGHT = {"conv1": 0, "norm1": 1, "conv2": 3, "norm2": 4, "conv3": 5, "norm3": 6}


def _part(match: re.Match[str]) -> str:
    """Names a part of a branch: torchvision counts the stages from 2, as the paper does."""
    branch, places = ("branch1", _LEFT) if match[3] == "left" else ("branch2", _RIGHT)
    return f"stage{int(match[1]) + 1}.{match[2]}.{branch}.{places[match[4]]}"


_RULES = (
    (r"stem/conv", "conv1.0"),
    (r"stem/norm", "conv1.1"),
    (r"stage(\d)/block(\d+)/join/(left|right)/(\w+)", _part),
    (r"last/conv", "conv5.0"),
    (r"last/norm", "conv5.1"),
    (r"head", "fc"),
)

RECORDS = tuple(
    Record(name, "torchvision", name, build, Rules("torchvision", _RULES), torchvision_preprocessing(resize, 224))
    for name, build, resize in (
        ("shufflenet_v2_x0_5", shufflenet.shufflenet_v2_x0_5, 256),
        ("shufflenet_v2_x1_0", shufflenet.shufflenet_v2_x1_0, 256),
        ("shufflenet_v2_x1_5", shufflenet.shufflenet_v2_x1_5, 232),
        ("shufflenet_v2_x2_0", shufflenet.shufflenet_v2_x2_0, 232),
    )
)
