"""GoogLeNet: torchvision, with and without auxiliary heads.

With published weights, torchvision's own model changes the moments of its input from those of ImageNet to 0.5
(`transform_input`); here this is part of the preprocessing.
"""

from jaxcnn.interop.preprocessing import torchvision_preprocessing
from jaxcnn.interop.records.record import Record, Rules
from jaxcnn.models.google_net import googlenet
from jaxcnn.values import Partial

_BLOCKS = (
    (r"stem/conv(\d)", r"conv\1"),
    (r"(inception\d\w)/branch1x1", r"\1.branch1"),
    (r"(inception\d\w)/branch3x3/reduce", r"\1.branch2.0"),
    (r"(inception\d\w)/branch3x3/conv", r"\1.branch2.1"),
    (r"(inception\d\w)/branch5x5/reduce", r"\1.branch3.0"),
    (r"(inception\d\w)/branch5x5/conv", r"\1.branch3.1"),
    (r"(inception\d\w)/branch_pool/project", r"\1.branch4.1"),
    (r"(aux\d)/conv", r"\1.conv"),
)
"""Convolutions with their batch norms."""

_RULES = (
    *((f"{ours}/conv", f"{theirs}.conv") for ours, theirs in _BLOCKS),
    *((f"{ours}/norm", f"{theirs}.bn") for ours, theirs in _BLOCKS),
    (r"(aux\d)/dense", r"\1.fc1"),
    (r"(aux\d)/head", r"\1.fc2"),
    ("head", "fc"),
)
_HALF = (0.5, 0.5, 0.5)

RECORDS = tuple(
    Record(
        "googlenet",
        "torchvision",
        "googlenet",
        Partial(googlenet, aux_heads=aux_heads),
        Rules("torchvision", _RULES),
        torchvision_preprocessing(256, 224, "bilinear", _HALF, _HALF),
        flattened=tuple((f"{name}/dense", (4, 4, 128)) for name in ("aux1", "aux2")) if aux_heads else (),
    )
    for aux_heads in (True, False)
)
