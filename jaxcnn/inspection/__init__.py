"""What a network does: work counted by tracing, receptive fields by gradients."""

from jaxcnn.inspection.counting import count_multiply_adds
from jaxcnn.inspection.receptive_field import gradient_support

__all__ = ["count_multiply_adds", "gradient_support"]
