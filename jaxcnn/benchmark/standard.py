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
      The workload of the standard set, or that of `own_workload`.
    """
    return STANDARD[name] if name in STANDARD else own_workload(CATALOG[name].image_shape)


def own_workload(image_shape: Shape) -> Workload:
    """Returns what a model that is not of the standard set is given in one step unless the user says otherwise.

    Args:
      image_shape: (height, width, channels) of one image.

    Returns:
      128 images of up to 64x64 pixels, or 8 larger ones.
    """
    return Workload(128 if image_shape[0] * image_shape[1] <= _SMALL_IMAGE else 8, image_shape)
