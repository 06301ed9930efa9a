"""RetinaNet, FCOS and SSD: torchvision, whose files have an output for the background, which is no class here."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxcnn.interop.records import mobilenet, resnet, torchvision_files
from jaxcnn.interop.records.numbered import NumberedRules
from jaxcnn.interop.records.record import Names, Record, Replacement, Rules
from jaxcnn.layers import BatchNorm
from jaxcnn.models import mobilenet_v3_large
from jaxcnn.models.detection import fcos, retinanet, ssd
from jaxcnn.types import Layer
from jaxcnn.values import Partial, Value

_COCO_NAMES = """
person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,N/A,stop sign,parking meter,bench
bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,N/A,backpack,umbrella,N/A,N/A,handbag,tie,suitcase,frisbee
skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,N/A,wine glass
cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,potted plant
bed,N/A,dining table,N/A,N/A,toilet,N/A,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink
refrigerator,N/A,book,clock,vase,scissors,teddy bear,hair drier,toothbrush
"""
"""COCO's category names, for ids 1 to 90. torchvision names the ten unused ids "N/A"."""

COCO = tuple(re.split("[,\n]", _COCO_NAMES.strip()))

CATEGORIES = tuple(name for name in COCO if name != "N/A")
"""The names of COCO's 80 categories, in the order of their ids."""

_BODY = tuple((path, f"backbone.body.{name}") for path, name in resnet.TORCH_RULES if path != "head")


def pyramid_rules(first: int) -> tuple[tuple[str, Replacement], ...]:
    """Returns the rules of a feature pyramid, whose levels torchvision counts from 0.

    Args:
      first: number of its finest level here.
    """
    parts = {"": "0", "/conv": "0", "/norm": "1"}
    return (
        *(
            (
                rf"neck/{ours}/p(\d){part}",
                lambda match, theirs=theirs, number=number: (
                    f"backbone.fpn.{theirs}_blocks.{int(match[1]) - first}.{number}"
                ),
            )
            for ours, theirs in (("laterals", "inner"), ("outputs", "layer"))
            for part, number in parts.items()
        ),
        (r"neck/extra/(p\d)", r"backbone.fpn.extra_blocks.\1"),
    )


_PYRAMID = pyramid_rules(3)
_RETINANET = (
    *_BODY,
    *_PYRAMID,
    (r"head/class_tower/conv(\d)", lambda match: f"head.classification_head.conv.{int(match[1]) - 1}.0"),
    (r"head/class_tower/norm(\d)", lambda match: f"head.classification_head.conv.{int(match[1]) - 1}.1"),
    (r"head/class_logits", "head.classification_head.cls_logits"),
    (r"head/box_tower/conv(\d)", lambda match: f"head.regression_head.conv.{int(match[1]) - 1}.0"),
    (r"head/box_tower/norm(\d)", lambda match: f"head.regression_head.conv.{int(match[1]) - 1}.1"),
    (r"head/box_deltas", "head.regression_head.bbox_reg"),
)

_FCOS = (
    *_BODY,
    *_PYRAMID,
    (r"head/class_tower/conv(\d)", lambda match: f"head.classification_head.conv.{3 * int(match[1]) - 3}"),
    (r"head/class_tower/norm(\d)", lambda match: f"head.classification_head.conv.{3 * int(match[1]) - 2}"),
    (r"head/class_logits", "head.classification_head.cls_logits"),
    (r"head/box_tower/conv(\d)", lambda match: f"head.regression_head.conv.{3 * int(match[1]) - 3}"),
    (r"head/box_tower/norm(\d)", lambda match: f"head.regression_head.conv.{3 * int(match[1]) - 2}"),
    (r"head/distances", "head.regression_head.bbox_reg"),
    (r"head/centerness", "head.regression_head.bbox_ctrness"),
)

_SSD300 = (
    (r"stage1/conv(\d)", lambda match: f"backbone.features.{2 * int(match[1]) - 2}"),
    (r"stage2/conv(\d)", lambda match: f"backbone.features.{2 * int(match[1]) + 3}"),
    (r"stage3/conv(\d)", lambda match: f"backbone.features.{2 * int(match[1]) + 8}"),
    (r"stage4/conv(\d)", lambda match: f"backbone.features.{2 * int(match[1]) + 15}"),
    (r"stage5/conv(\d)", lambda match: f"backbone.extra.0.{2 * int(match[1]) - 1}"),
    (r"neck/rescale/scale", "backbone:scale_weight"),
    (r"neck/extra/fc/conv(\d)", lambda match: f"backbone.extra.0.7.{2 * int(match[1]) - 1}"),
    (r"neck/extra/extra(\d)/conv(\d)", lambda match: f"backbone.extra.{match[1]}.{2 * int(match[2]) - 2}"),
    (r"head/classes/level(\d)", r"head.classification_head.module_list.\1"),
    (r"head/boxes/level(\d)", r"head.regression_head.module_list.\1"),
)

_SSDLITE = (
    (r"neck/extra/extra(\d)/(\w+)/conv", lambda match: _lite_extra(match, 0)),
    (r"neck/extra/extra(\d)/(\w+)/norm", lambda match: _lite_extra(match, 1)),
    *(
        rule
        for ours, theirs in (("classes", "classification"), ("boxes", "regression"))
        for rule in (
            (rf"head/{ours}/level(\d)/depthwise/conv", rf"head.{theirs}_head.module_list.\1.0.0"),
            (rf"head/{ours}/level(\d)/depthwise/norm", rf"head.{theirs}_head.module_list.\1.0.1"),
            (rf"head/{ours}/level(\d)/project", rf"head.{theirs}_head.module_list.\1.1"),
        )
    ),
)


def _lite_extra(match: re.Match[str], part: int) -> str:
    place = ("reduce", "depthwise", "expand").index(match[2])
    return f"backbone.extra.{int(match[1]) - 1}.{place}.{part}"


@dataclass(frozen=True, repr=False)
class _SSDLiteNames(Value):
    """Names of SSDlite: torchvision splits the layers of MobileNetV3 after the expansion of block 13.

    Attributes:
      classifier: names the layers of MobileNetV3.
    """

    classifier: Names

    def __call__(self, path: str, layer: Layer, leaf: str) -> str:
        """Names a leaf; see `Rules`."""
        if path.startswith(("neck/", "head/")):
            return Rules("torchvision", _SSDLITE)(path, layer, leaf)
        _, block, rest = self.classifier(path, layer, leaf).split(".", 2)
        number = int(block) - 13
        if number:
            return f"backbone.features.0.{block}.{rest}" if number < 0 else f"backbone.features.1.{number}.{rest}"
        _, part, rest = rest.split(".", 2)
        return f"backbone.features.0.13.{rest}" if part == "0" else f"backbone.features.1.0.{part}.{rest}"


# Names of files from before torchvision 0.14.
OLD_PYRAMID = ((r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)", r"\1.0.\2"),)
_OLD_RETINANET = (
    *OLD_PYRAMID,
    *((rf"(head\.\w+\.conv)\.{2 * i}\.(weight|bias)", rf"\g<1>.{i}.0.\2") for i in range(4)),
)

frozen_norm = Partial(BatchNorm, epsilon=0.0)
"""torchvision runs the first detectors' frozen batch norms without an epsilon."""


def _record(build: Callable[..., Any], rules: Any, *, norm: Any = None, **options: Any) -> Record:
    return Record(
        build.__name__,
        "torchvision",
        build.__name__,
        build if norm is None else Partial(build, norm=norm),
        Rules("torchvision", rules),
        torchvision_files.DETECTION,
        head="head/class_logits",
        background=r"head\.classification_head\.cls_logits\.\w+",
        class_names=COCO,
        **options,
    )


RECORDS = (
    _record(
        retinanet.retinanet_resnet50_fpn,
        _RETINANET,
        norm=frozen_norm,
        rewrites=_OLD_RETINANET,
        anchors=9,
    ),
    _record(
        retinanet.retinanet_resnet50_fpn_v2,
        _RETINANET,
        anchors=9,
    ),
    _record(fcos.fcos_resnet50_fpn, _FCOS, rewrites=OLD_PYRAMID),
    Record(
        "ssd300_vgg16",
        "torchvision",
        "ssd300_vgg16",
        ssd.ssd300_vgg16,
        Rules("torchvision", _SSD300),
        torchvision_files.SSD300,
        head="head/classes/level0",
        anchors=4,
        beside=1,
        class_names=COCO,
    ),
    Record(
        "ssdlite320_mobilenet_v3_large",
        "torchvision",
        "ssdlite320_mobilenet_v3_large",
        ssd.ssdlite320_mobilenet_v3_large,
        _SSDLiteNames(NumberedRules(Rules("torchvision", mobilenet.TORCHVISION_V3), mobilenet_v3_large)),
        torchvision_files.SSDLITE320,
        as_convolution=mobilenet.GATES,
        head="head/classes/level0/project",
        anchors=6,
        beside=1,
        class_names=COCO,
    ),
)
