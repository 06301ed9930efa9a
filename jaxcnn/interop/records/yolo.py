"""YOLOX and YOLOv3: the weights that their authors publish, with the names of their files."""

import re

from jaxcnn.interop.preprocessing import Preprocessing
from jaxcnn.interop.records.detection import CATEGORIES
from jaxcnn.interop.records.record import Record, Rules
from jaxcnn.models import catalog
from jaxcnn.ops.check import as_pair
from jaxcnn.types import Layer

_MERGES = {"merge4": "C3_p4", "merge3": "C3_p3", "merge_up4": "C3_n3", "merge_up5": "C3_n4"}
_OTHERS = {"reduce5": "lateral_conv0", "reduce4": "reduce_conv1", "shrink3": "bu_conv2", "shrink4": "bu_conv1"}
_HEADS = {"class_logits": "cls_preds", "boxes": "reg_preds", "objectness": "obj_preds"}
_LEAVES = {"conv": "conv", "norm": "bn", "depthwise": "dconv", "pointwise": "pconv"}


def _inner(path: str) -> str:
    """Names the layers of a block by their path within it."""
    path = re.sub(r"halves/main/block(\d+)", r"m.\1", path)
    for ours, theirs in (("halves/main/reduce", "conv1"), ("halves/other", "conv2"), ("project", "conv3")):
        path = path.replace(ours, theirs)
    return ".".join(_LEAVES.get(part, part) for part in path.split("/"))


def _stage(match: re.Match[str]) -> str:
    """Names the layers of a stage: a strided convolution, in the last one a pyramid of pools, and a block."""
    number, part, rest = int(match[1]), match[2], match[3]
    place = {"conv": 0, "pyramid": 1, "csp": 2 if number == 4 else 1}[part]
    if part == "pyramid":
        rest = rest.replace("reduce", "conv1").replace("project", "conv2")
    return f"backbone.backbone.dark{number + 1}.{place}.{_inner(rest)}"


def _tower(match: re.Match[str]) -> str:
    kind = {"class": "cls", "box": "reg"}[match[1]]
    return f"head.{kind}_convs.{int(match[2]) - 3}.{int(match[3]) - 1}.{_inner(match[4])}"


_RULES = (
    (r"stem/(\w+)", lambda match: f"backbone.backbone.stem.conv.{_inner(match[1])}"),
    (r"stage(\d)/(conv|pyramid|csp)/(.*)", _stage),
    (r"neck/(merge\w+)/(.*)", lambda match: f"backbone.{_MERGES[match[1]]}.{_inner(match[2])}"),
    (r"neck/(\w+)/(.*)", lambda match: f"backbone.{_OTHERS[match[1]]}.{_inner(match[2])}"),
    (r"head/stems/p(\d)/(\w+)", lambda match: f"head.stems.{int(match[1]) - 3}.{_inner(match[2])}"),
    (r"head/(class|box)_towers/p(\d)/conv(\d)/(.*)", _tower),
    (r"head/(\w+)/p(\d)", lambda match: f"head.{_HEADS[match[1]]}.{int(match[2]) - 3}"),
)


def _yolox(name: str) -> Record:
    entry = catalog.CATALOG[name]
    return Record(
        name,
        "yolox",
        name,
        entry.build,
        Rules("yolox", _RULES),
        Preprocessing(
            as_pair("image_size", entry.image_shape[:2]),
            None,
            antialias=False,
            fit="letterbox",
            fill=(114, 114, 114),
            channel_order="BGR",
            scale=255,
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
        ),
        of_squares="stem/conv",
        head="head/class_logits/p3",
        class_names=CATEGORIES,
    )


def _own_name(path: str, layer: Layer, leaf: str) -> str:
    del layer
    return f"{path}/{leaf}"


def _darknet(name: str) -> Record:
    entry = catalog.CATALOG[name]
    body, size = (f"stage{i}" for i in range(1, 8)), as_pair("image_size", entry.image_shape[:2])
    return Record(
        name,
        "darknet",
        name,
        entry.build,
        _own_name,
        # Darknet maps the corner pixels onto each other when it resizes, and its ground is 0.5 rather than 128 / 255.
        Preprocessing(
            size,
            size,
            antialias=False,
            fit="inside",
            fill=(128, 128, 128),
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
        ),
        head="head/outputs/p5",
        anchors=3,
        beside=5,
        file_order=(
            "stem",
            *body,
            *("neck/merge5", "head/towers/p5", "head/outputs/p5"),
            *("neck/reduce4", "neck/merge4", "head/towers/p4", "head/outputs/p4"),
            *("neck/reduce3", "neck/merge3", "head/towers/p3", "head/outputs/p3"),
        ),
        class_names=CATEGORIES,
    )


_YOLOX = tuple(_yolox(f"yolox_{size}") for size in ("nano", "tiny", "s", "m", "l", "x"))

RECORDS = (*_YOLOX, _darknet("yolov3"), _darknet("yolov3_tiny"))

FILES = {
    **{f"{record.model}.pth": record.name for record in _YOLOX},
    "yolov3.weights": "darknet/yolov3",
    "yolov3-tiny.weights": "darknet/yolov3_tiny",
}
"""Library and architecture by the names of the published files."""
