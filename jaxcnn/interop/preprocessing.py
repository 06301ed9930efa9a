"""Prepares photographs as published networks were evaluated.

    prepare = torchvision_preprocessing(resize=232, crop=224)
    image = prepare(photograph)  # uint8 (height, width, 3) to float32 (224, 224, 3)

A network silently loses accuracy if its images are prepared differently than in training: another filter, rounding or
order of channels. So the results here equal those of the sources pixel by pixel.

Pillow resizes, as in the measurements of the published accuracies. It rounds to integer grey levels after each of its
two passes and clips the overshoot of bicubic. `jaxcnn.ops.resize` does neither, and compiles for every size of image.
Resizing without antialias, which Pillow does not have, uses `jaxcnn.ops.resize`, with torch's results.
"""

import dataclasses
import functools
import math
from typing import Any, Literal, Self, TypeAlias, cast, get_args

import jax
import numpy as np

from jaxcnn.data.pictures import Placement
from jaxcnn.interop.files.config import TimmConfig
from jaxcnn.models.normalized import Normalization
from jaxcnn.ops.check import Size, as_pair, is_int
from jaxcnn.ops.resizing import resize
from jaxcnn.values import Value

Interpolation: TypeAlias = Literal["bilinear", "bicubic", "nearest"]
Fit: TypeAlias = Literal["exact", "cover", "inside", "letterbox"]

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Mean of ImageNet in grey levels, blue first, for networks that were trained with Caffe.
_CAFFE_MEAN = (103.939, 116.779, 123.68)


@dataclasses.dataclass(frozen=True, repr=False)
class Preprocessing(Value):
    """Resizes one photograph, crops its centre, orders and normalises its channels.

    Attributes:
      resize_size: the shorter side after resizing, in pixels, with the longer side in proportion and rounded down; or
        (height, width), see `fit`; or None for no resizing.
      crop_size: (height, width) of the central crop, in pixels; a smaller image is padded. None for no crop.
      interpolation: "bilinear", "bicubic" or "nearest".
      antialias: whether to widen the filter when shrinking, so that every pixel counts; no effect for "nearest".
      fit: meaning of a pair `resize_size`. "exact": the size, without keeping proportions. With proportions kept and
        rounded: "cover", the smallest image that covers the size, or "inside", the largest that fits inside.
        "letterbox": the largest that fits inside, rounded down, at the top left of an image of that size, whose other
        pixels have the value `fill`.
      fill: padding value of each channel in [0, 255], red first.
      channel_order: "RGB" or "BGR", of the result; ignored for grey images.
      scale: largest value of a pixel before normalisation, 1 or 255.
      mean: mean of each channel of the result, in units of `scale`: three numbers, or one for grey images.
      std: standard deviation of each channel.
      max_size: with a single `resize_size`, the largest length of the longer side after resizing, in pixels: the image
        becomes smaller, with its proportions, to stay within; both sides are rounded down. None for no limit.
      rounded: whether resizing without antialias gives whole grey levels. torchvision's detectors resize after the
        normalisation, which gives any number.
      multiple: height and width are padded to multiples of this number, at the bottom and on the right, with zeros
        after the normalisation.
    """

    resize_size: int | tuple[int, int] | None
    crop_size: Size | None
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    fit: Fit = "exact"
    fill: tuple[int, ...] = (0, 0, 0)
    channel_order: Literal["RGB", "BGR"] = "RGB"
    scale: float = 1.0
    mean: tuple[float, ...] = _MEAN
    std: tuple[float, ...] = _STD
    max_size: int | None = None
    rounded: bool = True
    multiple: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.resize_size, int):
            as_pair("resize_size", self.resize_size)
        elif self.resize_size is not None:
            object.__setattr__(self, "resize_size", as_pair("resize_size", self.resize_size))
        if self.crop_size is not None:
            object.__setattr__(self, "crop_size", as_pair("crop_size", self.crop_size))
        channels = 1 if len(tuple(self.mean)) == len(tuple(self.std)) == 1 else 3
        for name in ("fill", "mean", "std"):
            numbers = tuple(getattr(self, name))
            object.__setattr__(self, name, numbers)
            if len(numbers) != channels:
                raise ValueError(
                    f"Preprocessing expects {name} to have one number for each of {channels} channels, got {numbers}"
                )
        _check_choice("interpolation", self.interpolation, ("bilinear", "bicubic", "nearest"))
        _check_choice("fit", self.fit, get_args(Fit))
        _check_choice("channel_order", self.channel_order, ("RGB", "BGR"))
        _check_choice("scale", self.scale, (1, 255))
        if not all(isinstance(level, int) and 0 <= level <= 255 for level in self.fill):
            raise ValueError(f"Preprocessing expects fill to be integers from 0 to 255, got {self.fill}")
        if self.fit == "letterbox" and (not isinstance(self.resize_size, tuple) or self.crop_size is not None):
            raise ValueError(
                f"Preprocessing expects a pair as resize_size, and no crop_size, with fit='letterbox', got {self!r}"
            )
        if self.max_size is not None and not isinstance(self.resize_size, int):
            raise ValueError(f"Preprocessing expects max_size only with one number as resize_size, got {self!r}")
        for name in ("max_size", "multiple"):
            value = getattr(self, name)
            if value is not None and (not is_int(value) or value < 1):
                raise ValueError(f"Preprocessing expects {name} of at least 1, got {value!r}")
        if not self.rounded and self.antialias:
            raise ValueError("Preprocessing expects antialias=False with rounded=False, got antialias=True")
        if not all(map(math.isfinite, self.mean)):
            raise ValueError(f"Preprocessing expects mean to be finite, got {self.mean}")
        if not all(0 < number < math.inf for number in self.std):
            raise ValueError(f"Preprocessing expects std to be positive, got {self.std}")

    @property
    def channels(self) -> int:
        """Number of channels of an image: 3, or 1 for grey images."""
        return len(self.mean)

    def __call__(self, image: Any) -> np.ndarray:
        """Prepares one image.

        Args:
          image: uint8, shape (height, width, 3), red first; or an object that NumPy converts to that, such as a Pillow
            image in mode "RGB". If `mean` is one number: shape (height, width, 1), or (height, width).

        Returns:
          float32, shape (*crop_size, channels); without a crop, of the resized and padded image.

        Raises:
          ImportError: Pillow is not installed.
          ValueError: `image` has another shape or dtype.
        """
        pixels, channels = np.asarray(image), self.channels
        if pixels.ndim == 2 and channels == 1:
            pixels = pixels[:, :, None]
        if pixels.ndim != 3 or pixels.shape[2] != channels or pixels.dtype != np.uint8 or 0 in pixels.shape:
            raise ValueError(
                f"Preprocessing expects one uint8 image of shape (height, width, {channels}), got {pixels.dtype} "
                f"{pixels.shape}; convert a file with PIL.Image.open(path).convert({'RGB' if channels == 3 else 'L'!r})"
            )
        if self.resize_size is not None:
            pixels = self._resize(pixels)
        if self.fit == "letterbox":
            pixels = self._boxed(pixels)
        if self.crop_size is not None:
            height, width = as_pair("crop_size", self.crop_size)
            pixels = _centre(_padded(pixels, height, width, self.fill), height, width)
        if self.channel_order == "BGR":
            pixels = pixels[:, :, ::-1]
        values = pixels.astype(np.float32)
        if self.scale == 1:
            values /= np.float32(255)
        values = (values - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.pad(values, [(0, -size % self.multiple) for size in values.shape[:2]] + [(0, 0)])

    def placement(self, height: int, width: int) -> Placement:
        """Tells where a picture lies in its prepared image.

        Args:
          height: of the picture.
          width: of the picture.
        """
        whole = (height, width) if self.resize_size is None else self._resized_shape(height, width)
        starts, size = (0, 0), self._letterbox or whole
        if self.crop_size is not None:
            size = as_pair("crop_size", self.crop_size)
            starts = tuple(_start(have, want) for have, want in zip(whole, size, strict=True))
        down, right = (length + -length % self.multiple for length in size)
        return Placement((height, width), whole, (starts[0], starts[1]), (down, right))

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(height, width) of all prepared images; None if it depends on the picture."""
        size = self.crop_size or self._letterbox
        if size is None and self.fit == "exact" and isinstance(self.resize_size, tuple):
            size = self.resize_size
        if size is None:
            return None
        height, width = as_pair("image_size", size)
        return height + -height % self.multiple, width + -width % self.multiple

    @property
    def _letterbox(self) -> tuple[int, int] | None:
        return as_pair("resize_size", self.resize_size) if self.fit == "letterbox" else None  # pyright: ignore[reportArgumentType]

    def _boxed(self, pixels: np.ndarray) -> np.ndarray:
        """Puts an image at the top left of one of the size of the letterbox."""
        height, width = pixels.shape[:2]
        assert self._letterbox is not None
        boxed = np.empty((*self._letterbox, self.channels), pixels.dtype)
        boxed[...] = self.fill
        boxed[:height, :width] = pixels
        return boxed

    def normalization(self) -> Normalization:
        """Returns the normalization of pixels in [0, 1], for `jaxcnn.models.normalized`."""
        mean, std = (tuple(number / self.scale for number in numbers) for numbers in (self.mean, self.std))
        return Normalization(mean, std, reverse=self.channel_order == "BGR")

    def with_channels(self, channels: Literal[1, 3]) -> Self:
        """Returns the preprocessing of grey or colour images for which the model has been converted.

        Mean, standard deviation and fill are the averages over the channels, as in timm (`timm.data.loader`).

        Args:
          channels: number of channels of the images.

        Returns:
          The preprocessing; the same one if it is made for so many channels.
        """
        if channels == len(self.mean):
            return self
        average = {name: sum(getattr(self, name)) / len(self.mean) for name in ("fill", "mean", "std")}
        return dataclasses.replace(
            self,
            channel_order="RGB",
            fill=(round(average["fill"]),) * channels,
            mean=(average["mean"],) * channels,
            std=(average["std"],) * channels,
        )

    def _resize(self, pixels: np.ndarray) -> np.ndarray:
        height, width = self._resized_shape(*pixels.shape[:2])
        if not self.antialias and self.interpolation != "nearest":
            grey_levels = _interpolate(pixels.astype(np.float32), (height, width), method=self.interpolation)
            return np.asarray(grey_levels).round().clip(0, 255).astype(np.uint8) if self.rounded else grey_levels
        try:
            from PIL import Image
        except ImportError as error:
            raise ImportError("resizing expects Pillow to be installed; pip install 'jaxcnn[weights]'") from error
        method = Image.Resampling[self.interpolation.upper()]
        # Pillow images with one channel have no channel axis.
        grey_or_rgb = np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        resized = np.asarray(Image.fromarray(grey_or_rgb).resize((width, height), method))
        return resized.reshape(height, width, pixels.shape[2])

    def _resized_shape(self, height: int, width: int) -> tuple[int, int]:
        if isinstance(self.resize_size, int) and self.max_size is not None:
            scale = min(self.resize_size / min(height, width), self.max_size / max(height, width))
            return math.floor(height * scale), math.floor(width * scale)
        if isinstance(self.resize_size, int):
            shorter, longer = sorted((height, width))
            longer = int(self.resize_size * longer / shorter)
            return (self.resize_size, longer) if height <= width else (longer, self.resize_size)
        target = as_pair("resize_size", self.resize_size)
        if self.fit == "exact":
            return target
        ratios = height / target[0], width / target[1]
        if self.fit == "letterbox":
            scale = min(target[0] / height, target[1] / width)
            return max(int(height * scale), 1), max(int(width * scale), 1)
        ratio = min(ratios) if self.fit == "cover" else max(ratios)
        return max(round(height / ratio), 1), max(round(width / ratio), 1)


def torchvision_preprocessing(
    resize: int,
    crop: int,
    interpolation: Interpolation = "bilinear",
    mean: tuple[float, ...] = _MEAN,
    std: tuple[float, ...] = _STD,
) -> Preprocessing:
    """Prepares as torchvision evaluates its classifiers (`torchvision.transforms._presets.ImageClassification`).

    Args:
      resize: the shorter side after resizing, in pixels.
      crop: height and width of the central crop, in pixels.
      interpolation: method of resizing.
      mean: mean of each channel, for pixels in [0, 1].
      std: standard deviation of each channel.

    Returns:
      The preprocessing.
    """
    return Preprocessing(resize, crop, interpolation, mean=mean, std=std)


def timm_preprocessing(config: TimmConfig, *, use_test_size: bool = False) -> Preprocessing:
    """Prepares as timm evaluates (`timm.data.create_transform`, with `timm.data.resolve_data_config`).

    Args:
      config: as `read_timm_config` returns it.
      use_test_size: use the larger test size if the config has one. It is not timm's default, but most of its published
        accuracies use it.

    Returns:
      The preprocessing.

    Raises:
      ValueError: the model's images have neither 3 channels nor 1, or an option of the config is unknown.
    """
    channels, *crop_size = config.input_size
    crop_pct = config.crop_pct
    if use_test_size:
        channels, *crop_size = config.test_input_size or config.input_size
        crop_pct = config.test_crop_pct or crop_pct
    if channels not in (1, 3) or len(config.mean) != channels:
        raise ValueError(
            f"timm_preprocessing expects a model of images with 3 channels or 1, got {channels} and the mean "
            f"{config.mean}"
        )
    _check_choice("interpolation", config.interpolation, ("bilinear", "bicubic", "nearest"))
    _check_choice("crop_mode", config.crop_mode, ("center", "squash", "border"))
    size = as_pair("size", [math.floor(side / crop_pct) for side in crop_size])
    fits: dict[str, Fit] = {"center": "cover", "squash": "exact", "border": "inside"}
    fit = fits[config.crop_mode]
    return Preprocessing(
        # torchvision's rounding, which timm uses here.
        size[0] if fit == "cover" and size[0] == size[1] else size,
        as_pair("crop_size", crop_size),
        cast(Interpolation, config.interpolation),
        fit=fit,
        fill=tuple(round(255 * level) if fit == "inside" else 0 for level in config.mean),
        mean=config.mean,
        std=config.std,
    )


def keras_preprocessing(
    mode: Literal["tf", "torch", "caffe", "none"], size: Size, interpolation: Interpolation = "nearest"
) -> Preprocessing:
    """Prepares as the examples of Keras: `keras.utils.load_img(path, target_size=size)` and `preprocess_input`.

    Args:
      mode: mode of the model's `preprocess_input`. "tf": pixels in [-1, 1]; "torch": in [0, 1], normalised by
        ImageNet's moments; "caffe": in [0, 255], blue first, ImageNet's mean subtracted; "none": in [0, 255], for
        models that scale their images themselves.
      size: (height, width) of the result; proportions are not kept.
      interpolation: method of resizing; "nearest" is the default of `load_img`.

    Returns:
      The preprocessing.

    Raises:
      ValueError: `mode` is unknown.
    """
    _check_choice("mode", mode, ("tf", "torch", "caffe", "none"))
    prepare = functools.partial(Preprocessing, as_pair("size", size), None, interpolation)
    if mode == "tf":
        return prepare(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    if mode == "torch":
        return prepare()
    if mode == "caffe":
        return prepare(channel_order="BGR", scale=255.0, mean=_CAFFE_MEAN, std=(1.0, 1.0, 1.0))
    return prepare(scale=255.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


_interpolate = jax.jit(resize, static_argnames=("output_shape", "method"))


def _padded(pixels: np.ndarray, height: int, width: int, fill: tuple[int, ...]) -> np.ndarray:
    """Pads an image that is smaller than (height, width); an odd pixel goes to the bottom or right."""
    down, right = max(height - pixels.shape[0], 0), max(width - pixels.shape[1], 0)
    if not (down or right):
        return pixels
    padded = np.empty((pixels.shape[0] + down, pixels.shape[1] + right, pixels.shape[2]), np.uint8)
    padded[:] = fill
    padded[down // 2 : down // 2 + pixels.shape[0], right // 2 : right // 2 + pixels.shape[1]] = pixels
    return padded


def _start(have: int, want: int) -> int:
    """Returns where a side begins in a crop, as `_padded` and `_centre` place it."""
    return (want - have) // 2 if have < want else -round((have - want) / 2)


def _centre(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Crops the centre; half pixels are rounded to even numbers, as in torchvision."""
    top, left = round((pixels.shape[0] - height) / 2), round((pixels.shape[1] - width) / 2)
    return pixels[top : top + height, left : left + width]


def _check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise ValueError(f"expected {name} to be one of {', '.join(map(repr, choices))}, got {value!r}")
