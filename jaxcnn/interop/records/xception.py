"""Xception: Keras."""

import re

from jaxcnn.interop.preprocessing import keras_preprocessing
from jaxcnn.interop.records.record import Record, Rules
from jaxcnn.models import xception

# The number that Keras gives the first block of each flow.
_FIRST = {"entry": 2, "middle": 5, "exit": 13}


def _block(match: re.Match[str]) -> str:
    return f"block{_FIRST[match[1]] + int(match[2])}_sepconv{match[3]}"


def _shortcut(match: re.Match[str], kind: str) -> str:
    """Names a layer around a block: Keras names these only by the numbers of a session."""
    number = 3 if match[1] == "exit" else int(match[2])
    return f"{kind}_{number}"


RECORDS = (
    Record(
        "xception",
        "keras",
        "Xception",
        xception,
        Rules(
            "keras",
            (
                (r"stem/conv(\d)/conv", r"block1_conv\1"),
                (r"stem/conv(\d)/norm", r"block1_conv\1_bn"),
                (r"(\w+)/block(\d)/shortcut/conv", lambda match: _shortcut(match, "conv2d")),
                (r"(\w+)/block(\d)/shortcut/norm", lambda match: _shortcut(match, "batch_normalization")),
                (r"(\w+)/block(\d)/conv(\d)/(depthwise|pointwise)", lambda match: f"{_block(match)}:{match[4]}_kernel"),
                (r"(\w+)/block(\d)/conv(\d)/norm", lambda match: f"{_block(match)}_bn"),
                (r"exit/conv(\d)/(depthwise|pointwise)", r"block14_sepconv\1:\2_kernel"),
                (r"exit/conv(\d)/norm", r"block14_sepconv\1_bn"),
                (r"head", "predictions"),
            ),
        ),
        keras_preprocessing("tf", 299),
        auto_numbered=("conv2d", "batch_normalization"),
    ),
)
