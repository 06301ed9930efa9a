import numpy as np
import pytest

from jaxcnn import data


@pytest.fixture(scope="module")
def stripes():
    """100 images of 6x6 pixels with bright rows (class 0) or bright columns (class 1), and noise."""
    rng = np.random.default_rng(0)
    labels = np.arange(100) % 2
    images = rng.uniform(0, 0.5, (100, 6, 6, 1)).astype(np.float32)
    images[labels == 0, ::2] += 0.5
    images[labels == 1, :, ::2] += 0.5
    return data.arrays(image=images, label=labels, class_names=["rows", "columns"])
