"""What is known of published weights, one module for each family of models."""

from jaxcnn.interop.records import resnet
from jaxcnn.interop.records.record import Record

RECORDS: tuple[Record, ...] = (*resnet.RECORDS,)
"""All records. Of several that fit the same file, the first one counts."""
