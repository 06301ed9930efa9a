"""Descriptions of published weights, one module for each family of models."""

from jaxcnn.interop.records import (
    alexnet,
    convnext,
    densenet,
    detection,
    efficientnet,
    googlenet,
    inception,
    mobilenet,
    rcnn,
    regnet,
    resnet,
    segmentation,
    shufflenet,
    smp,
    squeezenet,
    vgg,
    xception,
    yolo,
)
from jaxcnn.interop.records.record import Record

RECORDS: tuple[Record, ...] = (
    *resnet.RECORDS,
    *alexnet.RECORDS,
    *convnext.RECORDS,
    *densenet.RECORDS,
    *detection.RECORDS,
    *efficientnet.RECORDS,
    *googlenet.RECORDS,
    *inception.RECORDS,
    *mobilenet.RECORDS,
    *rcnn.RECORDS,
    *regnet.RECORDS,
    *segmentation.RECORDS,
    *shufflenet.RECORDS,
    *smp.RECORDS,
    *squeezenet.RECORDS,
    *vgg.RECORDS,
    *xception.RECORDS,
    *yolo.RECORDS,
)
"""All records. Of several that fit the same file, the first one counts."""
