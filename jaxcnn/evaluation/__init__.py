"""Figures over a whole set: calibration of classifiers, COCO's and VOC's average precision of detectors, confusions.

Those of detectors compare annotations with results in COCO's format, which `coco_annotations` and `coco_results` make
of a source and of predictions:

    annotations = coco_annotations(source)
    found = coco_figures(annotations, coco_results(source, predictions))
    found.figures["AP50"], found.classes["cat"]["AP"]
"""

from jaxcnn.evaluation.calibration import Calibration, calibration_curve, fit_temperature
from jaxcnn.evaluation.coco import CocoFigures, check_coco_tools, coco_figures
from jaxcnn.evaluation.coco_format import coco_annotations, coco_predictions, coco_results, original_image
from jaxcnn.evaluation.intervals import Interval, mean_interval
from jaxcnn.evaluation.matching import DetectionMistakes, detection_confusion, detection_mistakes
from jaxcnn.evaluation.pasting import paste_masks
from jaxcnn.evaluation.voc import VocFigures, voc_figures

__all__ = [
    "Calibration",
    "CocoFigures",
    "DetectionMistakes",
    "Interval",
    "VocFigures",
    "calibration_curve",
    "check_coco_tools",
    "coco_annotations",
    "coco_figures",
    "coco_predictions",
    "coco_results",
    "detection_confusion",
    "detection_mistakes",
    "fit_temperature",
    "mean_interval",
    "original_image",
    "paste_masks",
    "voc_figures",
]
