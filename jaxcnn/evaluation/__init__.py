"""Figures of detectors over a whole set: COCO's and VOC's average precision, and confusions.

All of them compare annotations with results in COCO's format, which `coco_annotations` and `coco_results` make of a
source and of predictions:

    annotations = coco_annotations(source)
    found = coco_figures(annotations, coco_results(source, predictions))
    found.figures["AP50"], found.classes["cat"]["AP"]
"""

from jaxcnn.evaluation.coco import CocoFigures, coco_figures
from jaxcnn.evaluation.coco_format import coco_annotations, coco_predictions, coco_results
from jaxcnn.evaluation.matching import detection_confusion
from jaxcnn.evaluation.pasting import paste_masks
from jaxcnn.evaluation.voc import VocFigures, voc_figures

__all__ = [
    "CocoFigures",
    "VocFigures",
    "coco_annotations",
    "coco_figures",
    "coco_predictions",
    "coco_results",
    "detection_confusion",
    "paste_masks",
    "voc_figures",
]
