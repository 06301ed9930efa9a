"""What published weights expect of an image: size, crop, range and moments of the pixel values."""

from dataclasses import dataclass
from typing import Literal

from jaxcnn.values import Value

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Interpolation = Literal["bilinear", "bicubic"]


@dataclass(frozen=True, repr=False)
class Preprocessing(Value):
    """The evaluation transform of published weights."""

    resize_size: int | tuple[int, int] | None
    crop_size: int
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    channel_order: Literal["RGB", "BGR"] = "RGB"
    scale: float = 1 / 255


def torchvision_preprocessing(
    resize: int,
    crop: int,
    interpolation: Interpolation = "bilinear",
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> Preprocessing:
    """Describes a preset of torchvision."""
    return Preprocessing(resize, crop, interpolation, mean, std)


def timm_preprocessing(config) -> Preprocessing:
    """Describes the evaluation transform that a configuration of timm stands for."""
    return Preprocessing(config.input_size[1], config.input_size[1])


def keras_preprocessing(mode: Literal["tf", "torch", "caffe", "none"], size: int) -> Preprocessing:
    """Describes what `preprocess_input` of Keras does."""
    return Preprocessing((size, size), size)
