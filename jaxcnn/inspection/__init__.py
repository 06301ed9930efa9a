"""Inspects networks: receptive fields and multiply-adds by tracing, receptive fields by gradients, curvature.

These take any function and its arguments, and so are independent of layers. `jaxcnn.layers.receptive_field` and
`multiply_adds` take a layer and the shape of an image, and call the same code.
"""

from jaxcnn.inspection.curvature import (
    Eigenpairs,
    filter_normalized,
    hessian_vector_product,
    lanczos,
    loss_slice,
    random_direction,
)
from jaxcnn.inspection.gradients import gradient_support
from jaxcnn.tracing import ReceptiveField, Span, count_multiply_adds, receptive_fields

__all__ = [
    "Eigenpairs",
    "ReceptiveField",
    "Span",
    "count_multiply_adds",
    "filter_normalized",
    "gradient_support",
    "hessian_vector_product",
    "lanczos",
    "loss_slice",
    "random_direction",
    "receptive_fields",
]
