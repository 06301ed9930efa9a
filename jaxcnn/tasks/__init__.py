"""Tasks: what a model is trained for. Each one holds a loss, metrics and the meaning of the outputs."""

from jaxcnn.tasks.box_losses import hard_negatives, iou_loss, smooth_l1_loss
from jaxcnn.tasks.classification import Classification, MultiLabel
from jaxcnn.tasks.detection import AnchorDetection, DefaultBoxDetection, Detection, PointDetection
from jaxcnn.tasks.losses import cross_entropy, soft_targets
from jaxcnn.tasks.means import figures
from jaxcnn.tasks.region_detection import MaskDetection, RCNNDetection, RegionDetection
from jaxcnn.tasks.regression import Regression
from jaxcnn.tasks.segmentation import Segmentation
from jaxcnn.tasks.yolo_detection import YOLOv1Detection, YOLOv3Detection, YOLOXDetection

__all__ = [
    "AnchorDetection",
    "Classification",
    "DefaultBoxDetection",
    "Detection",
    "MaskDetection",
    "MultiLabel",
    "PointDetection",
    "RCNNDetection",
    "RegionDetection",
    "Regression",
    "Segmentation",
    "YOLOXDetection",
    "YOLOv1Detection",
    "YOLOv3Detection",
    "cross_entropy",
    "figures",
    "hard_negatives",
    "iou_loss",
    "smooth_l1_loss",
    "soft_targets",
]
