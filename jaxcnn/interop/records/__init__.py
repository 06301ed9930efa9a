"""What is known of published weights, one module for each family of models."""

from jaxcnn.interop.records import alexnet, googlenet, inception, resnet, squeezenet, vgg
from jaxcnn.interop.records.record import Record

RECORDS: tuple[Record, ...] = (
    *resnet.RECORDS,
    *alexnet.RECORDS,
    *vgg.RECORDS,
    *squeezenet.RECORDS,
    *googlenet.RECORDS,
    *inception.RECORDS,
)
"""All records. Of several that fit the same file, the first one counts."""
