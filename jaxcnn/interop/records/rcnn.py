"""Faster R-CNN and Mask R-CNN: torchvision, whose boxes and masks of the background are kept and not used."""

from collections.abc import Callable
from typing import Any

from jaxcnn.interop.preprocessing import Preprocessing
from jaxcnn.interop.records import mobilenet, torchvision_files
from jaxcnn.interop.records.detection import COCO, OLD_PYRAMID, frozen_norm, pyramid_rules
from jaxcnn.interop.records.record import Names, Record
from jaxcnn.interop.records.segmentation import MOBILENET_V3, RESNET, WithBackbone
from jaxcnn.models.detection import faster_rcnn, mask_rcnn
from jaxcnn.values import Partial

_HEADS = (
    (r"rpn/tower/conv(\d)", lambda match: f"rpn.head.conv.{int(match[1]) - 1}.0"),
    (r"rpn/objectness", "rpn.head.cls_logits"),
    (r"rpn/deltas", "rpn.head.bbox_pred"),
    (r"head/(?:regions/)?classes", "roi_heads.box_predictor.cls_score"),
    (r"head/(?:regions/)?boxes", "roi_heads.box_predictor.bbox_pred"),
)
_MASKS = (
    (r"mask_tower/convs/conv(\d)", lambda match: f"roi_heads.mask_head.{int(match[1]) - 1}.0"),
    (r"mask_tower/convs/norm(\d)", lambda match: f"roi_heads.mask_head.{int(match[1]) - 1}.1"),
    (r"mask_tower/up", "roi_heads.mask_predictor.conv5_mask"),
    (r"head/masks", "roi_heads.mask_predictor.mask_fcn_logits"),
)
_V1 = (*_HEADS, (r"tower/dense/fc1", "roi_heads.box_head.fc6"), (r"tower/dense/fc2", "roi_heads.box_head.fc7"))
_V2 = (
    *_HEADS,
    (r"tower/convs/conv(\d)", lambda match: f"roi_heads.box_head.{int(match[1]) - 1}.0"),
    (r"tower/convs/norm(\d)", lambda match: f"roi_heads.box_head.{int(match[1]) - 1}.1"),
    (r"tower/dense/fc1", "roi_heads.box_head.5"),
)

# Names of files from before torchvision 0.14.
_OLD = (
    *OLD_PYRAMID,
    (r"rpn\.head\.conv\.(weight|bias)", r"rpn.head.conv.0.0.\1"),
    *((rf"roi_heads\.mask_head\.mask_fcn{i + 1}\.(weight|bias)", rf"roi_heads.mask_head.{i}.0.\1") for i in range(4)),
)


def _record(
    build: Callable[..., Any],
    classifier: Names,
    rules: Any,
    *,
    first: int = 2,
    preprocessing: Preprocessing = torchvision_files.DETECTION,
    head: str = "head/classes",
    **options: Any,
) -> Record:
    function: Any = build.function if isinstance(build, Partial) else build
    return Record(
        function.__name__,
        "torchvision",
        function.__name__,
        build,
        WithBackbone(classifier, (*pyramid_rules(first), *rules), "backbone.body"),
        preprocessing,
        flattened=(("tower/dense/fc1", (7, 7, 256)),),
        head=head,
        beside=1,
        class_names=COCO,
        **options,
    )


RECORDS = (
    _record(Partial(faster_rcnn.fasterrcnn_resnet50_fpn, norm=frozen_norm), RESNET, _V1, rewrites=_OLD),
    _record(faster_rcnn.fasterrcnn_resnet50_fpn_v2, RESNET, _V2),
    _record(
        Partial(mask_rcnn.maskrcnn_resnet50_fpn, norm=frozen_norm),
        RESNET,
        (*_V1, *_MASKS),
        head="head/regions/classes",
        rewrites=_OLD,
    ),
    _record(mask_rcnn.maskrcnn_resnet50_fpn_v2, RESNET, (*_V2, *_MASKS), head="head/regions/classes"),
    *(
        _record(
            build,
            MOBILENET_V3,
            _V1,
            first=5,
            preprocessing=preprocessing,
            rewrites=_OLD,
            as_convolution=mobilenet.GATES,
        )
        for build, preprocessing in (
            (faster_rcnn.fasterrcnn_mobilenet_v3_large_fpn, torchvision_files.DETECTION),
            (faster_rcnn.fasterrcnn_mobilenet_v3_large_320_fpn, torchvision_files.DETECTION_320),
        )
    ),
)
