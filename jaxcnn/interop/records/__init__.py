"""What is known of published weights, one module for each family of models."""

from jaxcnn.interop.records import (
    alexnet,
    convnext,
    densenet,
    googlenet,
    inception,
    regnet,
    resnet,
    shufflenet,
    squeezenet,
    vgg,
)
from jaxcnn.interop.records.record import Record

RECORDS: tuple[Record, ...] = (
    *resnet.RECORDS,
    *alexnet.RECORDS,
    *convnext.RECORDS,
    *densenet.RECORDS,
    *googlenet.RECORDS,
    *inception.RECORDS,
    *regnet.RECORDS,
    *shufflenet.RECORDS,
    *squeezenet.RECORDS,
    *vgg.RECORDS,
)
"""All records. Of several that fit the same file, the first one counts."""
