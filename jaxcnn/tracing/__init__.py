"""Receptive fields and multiply-adds of any function of an image, from its traced program."""

from jaxcnn.tracing.dataflow import follow
from jaxcnn.tracing.fields import ReceptiveField, Span, field_of, receptive_fields, seen_by_image
from jaxcnn.tracing.work import count_multiply_adds, work_of

__all__ = [
    "ReceptiveField",
    "Span",
    "count_multiply_adds",
    "field_of",
    "follow",
    "receptive_fields",
    "seen_by_image",
    "work_of",
]
