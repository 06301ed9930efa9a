"""Inspects networks: receptive fields and multiply-adds by tracing, receptive fields by gradients."""

from jaxcnn.inspection.gradients import gradient_support
from jaxcnn.tracing import ReceptiveField, Span, count_multiply_adds, receptive_fields

__all__ = ["ReceptiveField", "Span", "count_multiply_adds", "gradient_support", "receptive_fields"]
