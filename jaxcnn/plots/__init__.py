"""Figures of training and of its results: each function returns a matplotlib `Figure`, and `save` writes one.

    figure = plots.curves(history, subtitle="lenet5 on digits, seed 0")
    plots.save(figure, "curves.png")

matplotlib is imported when something is drawn; `pip install 'jaxcnn[cli]'` brings it.
"""

from jaxcnn.plots.augmentation import augmented
from jaxcnn.plots.calibration import reliability
from jaxcnn.plots.classification import confusion, detection_confusion, mistakes
from jaxcnn.plots.contact import contact_sheet
from jaxcnn.plots.detection import detection_mistakes, detections, precision_recall
from jaxcnn.plots.figures import save
from jaxcnn.plots.landscapes import landscape
from jaxcnn.plots.races import ratios
from jaxcnn.plots.rates import learning_rates
from jaxcnn.plots.runs import comparison, curves
from jaxcnn.plots.segmentation import segmentations

__all__ = [
    "augmented",
    "comparison",
    "confusion",
    "contact_sheet",
    "curves",
    "detection_confusion",
    "detection_mistakes",
    "detections",
    "landscape",
    "learning_rates",
    "mistakes",
    "precision_recall",
    "ratios",
    "reliability",
    "save",
    "segmentations",
]
