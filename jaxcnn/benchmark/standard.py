"""The standard set of models, and how many images a model is given in one step."""

from jaxcnn.types import Shape

STANDARD: dict[str, int] = {
    "lenet5": 128,
    "small_cnn": 128,
    "resnet18_cifar": 64,
    "resnet50": 8,
    "mobilenet_v2": 8,
    "convnext_tiny": 4,
    "resnext50_32x4d": 4,
    "unet": 4,
}
"""Images in a step of the models of the standard set, by name in the catalog."""

_SMALL_IMAGE, _LARGE_IMAGE = 64 * 64, 512 * 512


def usual_batch_size(name: str, image_shape: Shape) -> int:
    """Returns how many images a model is given in one step unless the user says otherwise.

    Args:
      name: its name.
      image_shape: (height, width, channels) of one image.

    Returns:
      That of the standard set; for other models 128 images of up to 64x64 pixels, 8 of up to 512x512, or 2 larger ones.
    """
    pixels = image_shape[0] * image_shape[1]
    return STANDARD.get(name, 128 if pixels <= _SMALL_IMAGE else 8 if pixels <= _LARGE_IMAGE else 2)
