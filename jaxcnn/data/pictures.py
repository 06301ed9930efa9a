"""Decodes picture files, and fits pictures into the images of a model. No other module decodes pictures."""

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxcnn.types import Shape
from jaxcnn.values import Value

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
"""The formats that are decoded. Pillow has many more, and some of them start other programs."""

EXTENSIONS = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm")
"""Extensions of files of these formats, in lower case."""

MAX_PIXELS = 100_000_000
"""Largest number of pixels of a picture. It limits the memory for untrusted files: a small file can claim any size."""

_LIGHT_INK = 0.75
"""Mean luma above which a picture with transparency is put on a black page."""

_MODES = {"RGB": "colours", "RGBA": "colours", "LA": "transparency", "I;16": "16 bits", "L": "fewer bits"}
"""Words for Pillow's modes."""

_ORIENTATION, _BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 274, 258, 262, 339


class PictureError(ValueError):
    """A file cannot be read as a picture. The message names the file, what was expected and what was found."""


@dataclass(frozen=True, repr=False)
class FitPicture(Value):
    """Fits pictures into images of one shape, as `jaxcnn predict` does for the models that it trained.

    The picture keeps its aspect ratio: it is resized to fit (bilinear, with antialias) on a background of its border's
    median colour.

    Attributes:
      image_shape: (height, width, channels) of the images.
    """

    image_shape: Shape

    def __post_init__(self) -> None:
        shape = tuple(self.image_shape)
        if len(shape) != 3 or not all(isinstance(size, int) and size > 0 for size in shape):
            raise ValueError(f"FitPicture expects (height, width, channels) of positive ints, got {self.image_shape!r}")
        object.__setattr__(self, "image_shape", shape)

    @property
    def channels(self) -> int:
        """Number of channels of an image."""
        return self.image_shape[2]

    def __call__(self, picture: Any) -> np.ndarray:
        """Fits one picture.

        Args:
          picture: shape (height, width, channels), or (height, width) for one channel; uint8, or floating point in
            [0, 1].

        Returns:
          The image, float32 in [0, 1], of shape `image_shape`.

        Raises:
          ValueError: the picture has another shape, dtype or range.
          ImportError: the picture has to be resized, and Pillow is not installed.
        """
        pixels = np.asarray(picture)
        if pixels.ndim == 2 and self.channels == 1:
            pixels = pixels[:, :, None]
        is_known = pixels.dtype == np.uint8 or np.issubdtype(pixels.dtype, np.floating)
        if pixels.ndim != 3 or pixels.shape[2] != self.channels or 0 in pixels.shape or not is_known:
            raise ValueError(
                f"FitPicture expects a picture of shape (height, width, {self.channels}), uint8 or floating point, got "
                f"{pixels.dtype} {pixels.shape}"
            )
        pixels = pixels.astype(np.float32) / np.float32(255 if pixels.dtype == np.uint8 else 1)
        if not (pixels.min() >= 0 and pixels.max() <= 1):  # also true for NaN
            raise ValueError(
                f"FitPicture expects floating-point pixels in [0, 1], got {pixels.min():g} to {pixels.max():g}; "
                "divide grey levels by 255"
            )
        return _fit(pixels, self.image_shape[0], self.image_shape[1])


def read_picture(path: str | os.PathLike[str], channels: int) -> np.ndarray:
    """Reads a picture file.

    EXIF orientation is applied; damaged EXIF is ignored. The first frame is used. Colours become grey by ITU-R 601-2
    luma; grey becomes three equal channels. Transparent pixels become white, or black if the mean luma of the visible
    pixels is above 0.75: light ink would be invisible on white. 8-bit values and 16-bit grey are scaled to [0, 1].
    16-bit colours are reduced to 8 bits. Floating-point values must be in [0, 1].

    Args:
      path: a file of one of `FORMATS`, of at most `MAX_PIXELS` pixels.
      channels: 1 for grey, 3 for red, green and blue.

    Returns:
      The pixels, shape (height, width, channels), float32 in [0, 1].

    Raises:
      PictureError: the file does not exist, is not a regular file, or is not a picture of these formats.
      ImportError: Pillow is not installed.
      ValueError: `channels` is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise ValueError(f"read_picture expects 1 or 3 channels, got {channels}")
    with _opened(path, FORMATS) as image:
        image.load()
        pixels = _turned(_pixels(image, "L" if channels == 1 else "RGB"), _orientation(image))
    return pixels.reshape(*pixels.shape[:2], channels)


def read_mask(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads a PNG file whose values are class indices.

    Args:
      path: a PNG file with a palette, of 8 bits of grey, or of black and white. The colours of a palette do not matter.

    Returns:
      The values as they are stored, uint8, shape (height, width); black is 0 and white is 1 in a file of black and
      white.

    Raises:
      PictureError: the file does not exist, is not a regular file, or is not a PNG file of this kind.
      ImportError: Pillow is not installed.
    """
    with _opened(path, ("PNG",)) as image:
        image.load()
        # Pillow scales 2 and 4 bits of grey to 8.
        if image.mode not in ("1", "P", "L") or (_png_bits(Path(path)) not in (1, 8) and image.mode == "L"):
            raise ValueError(
                f"expected class indices, as a palette or 8 bits of grey, got {_MODES.get(image.mode, image.mode)}"
            )
        return np.asarray(image).astype(np.uint8)


def picture_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Reads the size of a picture from the beginning of its file.

    Args:
      path: a file of one of `FORMATS`.

    Returns:
      (height, width), of the upright picture.

    Raises:
      PictureError: as in `read_picture`, but damaged pixels are not noticed.
      ImportError: Pillow is not installed.
    """
    with _opened(path, FORMATS) as image:
        width, height = image.size
        return (width, height) if _rows_are_columns(_orientation(image)) else (height, width)


def resize_picture(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes a picture bilinearly, with antialias.

    Args:
      pixels: shape (height, width, channels), float32.
      size: (height, width) of the result.

    Returns:
      Shape (*size, channels), float32.

    Raises:
      ImportError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("pictures are resized by Pillow; pip install pillow") from error

    def resized(channel: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(channel).resize((size[1], size[0]), Image.Resampling.BILINEAR))

    return np.stack([resized(np.ascontiguousarray(channel)) for channel in np.moveaxis(pixels, 2, 0)], axis=2)


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes a mask; each pixel of the result is the nearest one.

    Args:
      mask: shape (height, width), uint8.
      size: (height, width) of the result.

    Returns:
      Shape `size`, uint8.
    """
    from PIL import Image

    return np.asarray(Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST))


@contextmanager
def _opened(path: str | os.PathLike[str], formats: tuple[str, ...]) -> Iterator["Image.Image"]:
    """Opens a picture file; errors until it is closed become a PictureError that names the file."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise ImportError("pictures are read by Pillow; pip install pillow") from error
    path = Path(path)
    _check_file(path)
    try:
        # Pillow's warnings either are errors here or do not affect the pixels. Pillow maps a file that it opens itself
        # into memory, and then scrambles the rows of a TIFF that it rotates.
        with (
            warnings.catch_warnings(action="ignore"),
            open(path, "rb") as file,
            Image.open(file, formats=formats) as image,
        ):
            _check_size(path, image.size)
            yield image
    except PictureError:
        raise
    except Image.DecompressionBombError as error:
        raise PictureError(_too_large(path, "more")) from error
    except UnidentifiedImageError as error:
        raise PictureError(
            f"expected a picture in {str(path)!r} ({', '.join(formats)}), got another format or a damaged file"
        ) from error
    except Exception as error:
        # On damaged files the decoders raise nearly every kind of exception.
        reason = str(error) or type(error).__name__
        raise PictureError(f"expected a picture in {str(path)!r}, got a file that cannot be read: {reason}") from error


def _png_bits(path: Path) -> int:
    """Reads the bits of a value from the header of a PNG file (PNG specification, section 11.2.2)."""
    with open(path, "rb") as file:
        return file.read(25)[24]


def _check_file(path: Path) -> None:
    try:
        status = path.stat()
    except OSError as error:
        raise PictureError(f"expected a picture, got {str(path)!r}: {error.strerror}") from error
    if stat.S_ISDIR(status.st_mode):
        raise PictureError(f"expected a picture, got the folder {str(path)!r}; name the files in it")
    if not stat.S_ISREG(status.st_mode):
        raise PictureError(f"expected a picture, got {str(path)!r}, which is not a regular file")
    if status.st_size == 0:
        raise PictureError(f"expected a picture in {str(path)!r}, got an empty file")


def _check_size(path: Path, size: tuple[int, int]) -> None:
    width, height = size
    if not 0 < width * height <= MAX_PIXELS:
        raise PictureError(_too_large(path, f"{height:,}x{width:,}"))


def _too_large(path: Path, got: str) -> str:
    return f"expected a picture of at most {MAX_PIXELS:,} pixels in {str(path)!r}, got {got}; scale it down first"


def _pixels(image: "Image.Image", mode: str) -> np.ndarray:
    """Returns the pixels, float32, of shape (height, width) or (height, width, 3)."""
    tags = getattr(image, "tag_v2", {})
    if 2 in tags.get(_SAMPLE_FORMAT, ()) or (tags and image.mode == "I"):
        raise ValueError(
            "its numbers are signed or have 32 bits, so the value of white is unknown; convert them to unsigned "
            "numbers of 8 or 16 bits"
        )
    if image.mode == "F" or image.mode.startswith("I"):
        grey, alpha = _deep_grey(image)
        colour = grey if mode == "L" else np.repeat(grey[..., None], 3, axis=2)
        return colour if alpha is None else _on_a_page(colour, grey, alpha)
    if not image.has_transparency_data:
        return _unit(image.convert(mode))
    image = image.convert("RGBA")
    opaque = image.convert("RGB")
    return _on_a_page(_unit(opaque.convert(mode)), _unit(opaque.convert("L")), _unit(image.getchannel("A")))


def _unit(image: "Image.Image") -> np.ndarray:
    pixels = np.array(image, np.float32)
    pixels /= 255  # in place: a picture may be large
    return pixels


def _deep_grey(image: "Image.Image") -> tuple[np.ndarray, np.ndarray | None]:
    """Returns grey of more than 8 bits, which Pillow would clip instead of scale, and its transparency."""
    values = np.asarray(image, np.float32)
    tags = getattr(image, "tag_v2", {})
    grey = values if image.mode == "F" else values / (2 ** tags.get(_BITS_PER_SAMPLE, (16,))[0] - 1)
    if tags.get(_PHOTOMETRIC) == 0:  # white is zero, which Pillow handles only for 8 bits
        grey = 1 - grey
    if not (grey.min() >= 0 and grey.max() <= 1):  # also true for NaN
        raise ValueError(
            f"expected floating-point numbers in [0, 1], got {grey.min():g} to {grey.max():g}; scale them, and replace "
            "NaN"
        )
    clear = image.info.get("transparency")
    return grey, None if clear is None else (values != clear).astype(np.float32)


def _on_a_page(colour: np.ndarray, luma: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    ink = np.sum(luma * alpha) / max(np.sum(alpha), 1e-6)
    page = 0.0 if ink > _LIGHT_INK and alpha.min() < 1 else 1.0
    alpha = alpha if colour.ndim == 2 else alpha[..., None]
    return colour * alpha + np.float32(page) * (1 - alpha)


def _orientation(image: "Image.Image") -> int:
    """Reads the EXIF orientation; 1 (upright) if it cannot be read."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return 1


def _rows_are_columns(orientation: int) -> bool:
    return 5 <= orientation <= 8


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Rotates and flips pixels by their EXIF orientation (TIFF 6.0, Orientation)."""
    pixels = pixels.swapaxes(0, 1) if _rows_are_columns(orientation) else pixels
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _fit(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes an image to fit into a height and width, on a background of the median colour of its border."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    ground = np.empty((height, width, pixels.shape[2]), np.float32)
    ground[:] = np.median(border, axis=0)
    # Resize first: the padding of a very long picture might not fit in memory.
    scale = min(height / pixels.shape[0], width / pixels.shape[1])
    rows, columns = (max(round(size * scale), 1) for size in pixels.shape[:2])
    top, left = (height - rows) // 2, (width - columns) // 2
    # Not `ops.resize`, which compiles a program for every size of picture.
    fitted = pixels if (rows, columns) == pixels.shape[:2] else np.clip(resize_picture(pixels, (rows, columns)), 0, 1)
    ground[top : top + rows, left : left + columns] = fitted
    return ground
