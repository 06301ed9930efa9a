"""Figures of detectors over a whole set: COCO's and VOC's average precision, and confusions.

All of them compare annotations with results in COCO's format, which `coco_annotations` and `coco_results` make of a
source and of predictions:

    annotations = coco_annotations(source)
    found = coco_figures(annotations, coco_results(source, predictions))
    found.figures["AP50"], found.classes["cat"]["AP"]
"""

from jaxcnn.evaluation.coco import CocoFigures, check_coco_tools, coco_figures
from jaxcnn.evaluation.coco_format import coco_annotations, coco_predictions, coco_results, original_image
from jaxcnn.evaluation.intervals import Interval, mean_interval
from jaxcnn.evaluation.matching import DetectionMistakes, detection_confusion, detection_mistakes
from jaxcnn.evaluation.pasting import paste_masks
from jaxcnn.evaluation.voc import VocFigures, voc_figures

__all__ = [
    "CocoFigures",
    "DetectionMistakes",
    "Interval",
    "VocFigures",
    "check_coco_tools",
    "coco_annotations",
    "coco_figures",
    "coco_predictions",
    "coco_results",
    "detection_confusion",
    "detection_mistakes",
    "mean_interval",
    "original_image",
    "paste_masks",
    "voc_figures",
]
