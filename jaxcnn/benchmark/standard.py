"""The workloads: the standard set, and a batch for every other model of the catalog."""

from typing import NamedTuple

from jaxcnn.models.catalog import CATALOG
from jaxcnn.types import Shape


class Workload(NamedTuple):
    """The input of a model in one step.

    Attributes:
      batch_size: images in a step.
      image_shape: (height, width, channels) of one image.
    """

    batch_size: int
    image_shape: Shape


STANDARD: dict[str, Workload] = {
    "lenet5": Workload(128, (32, 32, 1)),
    "small_cnn": Workload(128, (32, 32, 3)),
    "resnet18_cifar": Workload(64, (32, 32, 3)),
    "resnet50": Workload(8, (224, 224, 3)),
    "mobilenet_v2": Workload(8, (224, 224, 3)),
    "convnext_tiny": Workload(4, (224, 224, 3)),
    "resnext50_32x4d": Workload(4, (224, 224, 3)),
    "unet": Workload(4, (128, 128, 3)),
}
"""The standard set, by name in the catalog."""

_SMALL_IMAGE = 64 * 64


def workload(name: str) -> Workload:
    """Returns the default workload of a model of the catalog.

    Args:
      name: its name in the catalog.

    Returns:
      The workload of the standard set; for other models 128 images of up to 64x64 pixels, or 8 larger ones.
    """
    if name in STANDARD:
        return STANDARD[name]
    shape = CATALOG[name].image_shape
    return Workload(128 if shape[0] * shape[1] <= _SMALL_IMAGE else 8, shape)
