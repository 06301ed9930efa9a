"""Random boxes for the tests of detection."""

import numpy as np


def boxes(seed, count, *, size=100.0, largest=40.0, dtype=np.float64):
    """Draws boxes (count, 4) around an image of `size` pixels; some leave it."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-0.1 * size, 0.9 * size, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(1, largest, (count, 2))], axis=1).astype(dtype)


def clustered(seed, count, *, size=100.0, dtype=np.float64):
    """Draws boxes (count, 4) that overlap a lot: a few objects, each with many boxes around it."""
    rng = np.random.default_rng(seed)
    objects = boxes(seed + 1, max(1, count // 12), size=size)
    return (objects[rng.integers(len(objects), size=count)] + rng.normal(size=(count, 4))).astype(dtype)


def iou(box, other):
    """The intersection over union of two boxes, by the definition."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    shared = width * height if width > 0 and height > 0 else 0.0
    union = (box[2] - box[0]) * (box[3] - box[1]) + (other[2] - other[0]) * (other[3] - other[1]) - shared
    return shared / union if union > 0 else 0.0


def iou_matrix(these, others):
    return np.array([[iou(box, other) for other in others] for box in these]).reshape(len(these), len(others))
