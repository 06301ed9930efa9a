"""Decodes picture files, and fits pictures into the images of a model. No other module decodes pictures."""

import ctypes
import functools
import importlib
import io
import math
import os
import re
import stat
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from jaxcnn.ops.lowering.native.build import resampler
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

File: TypeAlias = str | os.PathLike[str] | bytes
"""The path of a picture file, or its content."""

FitMode: TypeAlias = Literal["crop", "fit", "stretch"]
"""How a picture of another aspect ratio is fitted; see `FitPicture`."""

_LIGHT_INK = 0.75
"""Mean luma above which a picture with transparency is put on a black page."""

_SPARE = 2
"""JPEG files are decoded at a smaller scale, but at least this many times larger than they are resized to."""

_LEAST_SIDE = 8
"""Least height and width, after scaling, at which every eighth of the scale has another size."""

_ROWS_BELOW = 16
"""Number of extra rows to decode below the crop: the decoder interpolates subsampled colours from neighbouring rows."""

_SEQUENTIAL_FRAMES, _START_OF_SCAN, _END_OF_IMAGE = (b"\xff\xc0", b"\xff\xc1"), b"\xff\xda", b"\xff\xd9"
"""Markers of a JPEG file. The rows of a sequential frame are stored from top to bottom."""

_TRAILER = 64
"""Bytes at the end of a JPEG file among which its last marker is looked for."""

_MODES = {"RGB": "colours", "RGBA": "colours", "LA": "transparency", "I;16": "16 bits", "L": "fewer bits"}
"""Words for Pillow's modes."""

_PILLOW = r"PIL\."
_QUIET = ("ignore", None, Warning, re.compile(_PILLOW), 0)
"""Pillow's modules, and the filter of its warnings."""

_ORIENTATION, _BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 274, 258, 262, 339


class PictureError(ValueError):
    """A file cannot be read as a picture. The message names the file, what was expected and what was found."""


class Placement(NamedTuple):
    """Where a resized picture lies in an image.

    Attributes:
      picture: its (height, width) before it was resized.
      resized: its (height, width) in the image, in pixels of the image.
      top_left: (row, column) of its first corner in the image; negative where it is cut.
      size: (height, width) of the image.
    """

    picture: tuple[int, int]
    resized: tuple[int, int]
    top_left: tuple[int, int]
    size: tuple[int, int]

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Moves boxes from the picture to the image.

        Args:
          boxes: edges (left, top, right, bottom) in pixels, shape (..., 4).

        Returns:
          Same shape and dtype, not clipped to the image.
        """
        factor, start = self._map()
        return (boxes * factor + start).astype(boxes.dtype)

    def original_boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Moves boxes from the image back to the picture, the inverse of `boxes`, and clips them to the picture.

        Args:
          boxes: edges (left, top, right, bottom) in pixels, shape (..., 4).

        Returns:
          Same shape and dtype.
        """
        factor, start = self._map()
        return np.clip((boxes - start) / factor, 0, np.tile(self.picture[::-1], 2)).astype(boxes.dtype)

    def original_detections(self, detections: Mapping[str, Any]) -> dict[str, Any]:
        """Moves the detections of an image back to the picture; those beyond the picture are no longer valid.

        Args:
          detections: "boxes", shape (slots, 4), edges (left, top, right, bottom) in pixels of the image; "valid", bool,
            shape (slots,); and others, with one row for each slot.

        Returns:
          The same arrays, with boxes in pixels of the picture, clipped to it; slots that are not valid hold zeros.
        """
        boxes = self.original_boxes(np.asarray(detections["boxes"]))
        moved = {**detections, "boxes": boxes}
        valid = np.asarray(detections["valid"]) & (boxes[:, 2:] > boxes[:, :2]).all(1)
        for name, array in moved.items():
            used = valid.reshape(-1, *(1,) * (np.ndim(array) - 1))
            moved[name] = np.where(used, array, np.zeros((), np.asarray(array).dtype))
        return moved

    def masks(self, masks: np.ndarray) -> np.ndarray:
        """Resizes masks with the picture; each pixel is the nearest one, and False beyond the picture.

        Args:
          masks: bool, shape (masks, height, width).

        Returns:
          Shape (masks, *size).
        """
        return self._nearest(masks, self.size, [r / p for r, p in zip(self.resized, self.picture, strict=True)], 1)

    def reduced_masks(self, masks: Iterable[np.ndarray]) -> np.ndarray:
        """Resizes masks with the picture, as `masks` does, one by one: many masks of a large picture need gigabytes.

        Args:
          masks: each bool, shape (height, width).

        Returns:
          Shape (masks, *size).
        """
        return np.array([self.masks(mask[None])[0] for mask in masks], bool).reshape(-1, *self.size)

    def original_masks(self, masks: np.ndarray) -> np.ndarray:
        """Resizes masks of the image to the picture, the inverse of `masks`; False where the picture was cut.

        Args:
          masks: bool, shape (masks, *size).

        Returns:
          Shape (masks, *picture).
        """
        return self._nearest(masks, self.picture, [p / r for r, p in zip(self.resized, self.picture, strict=True)], -1)

    def _map(self) -> tuple[np.ndarray, np.ndarray]:
        factors = [new / old for new, old in zip(self.resized, self.picture, strict=True)]
        return np.tile(factors[::-1], 2), np.tile(self.top_left[::-1], 2)

    def _nearest(self, masks: np.ndarray, size: tuple[int, int], factors: list[float], direction: int) -> np.ndarray:
        places, inside = [], []
        for axis, (length, factor, start) in enumerate(zip(size, factors, self.top_left, strict=True)):
            centres = np.arange(length) + 0.5
            old = (centres - start) / factor if direction == 1 else centres / factor + start
            place = np.floor(old).astype(np.int64)
            inside.append((place >= 0) & (place < masks.shape[axis + 1]))
            places.append(np.clip(place, 0, masks.shape[axis + 1] - 1))
        found = masks[:, places[0][:, None], places[1]]
        return found & (inside[0][:, None] & inside[1])


@dataclass(frozen=True, repr=False)
class FitPicture(Value):
    """Fits pictures into images of one shape, bilinearly and with antialias.

    - "crop": the picture keeps its aspect ratio and covers the image, whose centre is cut out. With `crop_fraction`
      0.875 and 224 x 224 pixels, the shorter side becomes 256: the usual evaluation on ImageNet.
    - "fit": the picture keeps its aspect ratio and stands whole in the middle, on a background of its border's median
      colour.
    - "stretch": the picture fills the image, and its aspect ratio changes.

    A picture of the size of the image stays as it is. A smaller one is enlarged.

    Attributes:
      image_shape: (height, width, channels) of the images.
      mode: "crop", "fit" or "stretch".
      crop_fraction: of mode "crop": the part of the shorter side that is kept, in (0, 1].
    """

    image_shape: Shape
    mode: FitMode = "fit"
    crop_fraction: float = 1.0

    def __post_init__(self) -> None:
        shape = tuple(self.image_shape)
        if len(shape) != 3 or not all(isinstance(size, int) and size > 0 for size in shape):
            raise ValueError(f"FitPicture expects (height, width, channels) of positive ints, got {self.image_shape!r}")
        object.__setattr__(self, "image_shape", shape)
        if self.mode not in get_args(FitMode):
            raise ValueError(f"FitPicture expects mode to be one of {', '.join(get_args(FitMode))}, got {self.mode!r}")
        if not 0 < self.crop_fraction <= 1:
            raise ValueError(f"FitPicture expects crop_fraction in (0, 1], got {self.crop_fraction:g}")
        if self.crop_fraction < 1 and self.mode != "crop":
            raise ValueError(
                f"FitPicture expects crop_fraction only with mode 'crop', got {self.crop_fraction:g} with {self.mode!r}"
            )

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
          The image, float32 in [0, 1], of shape `image_shape`. That of a picture of uint8 is `fitted(picture) / 255`.

        Raises:
          ValueError: the picture has another shape, dtype or range.
          ImportError: the picture has to be resized, and Pillow is not installed.
        """
        image = self.fitted(picture)
        return np.divide(image, 255, dtype=np.float32) if image.dtype == np.uint8 else image

    def fitted(self, picture: Any) -> np.ndarray:
        """Fits one picture, and keeps 8 bits.

        Args:
          picture: as for `__call__`.

        Returns:
          The image, of shape `image_shape`: uint8 for a picture of uint8, otherwise float32 in [0, 1].

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
        if pixels.dtype != np.uint8:
            pixels = pixels.astype(np.float32, copy=False)
            if not (pixels.min() >= 0 and pixels.max() <= 1):  # also true for NaN
                raise ValueError(
                    f"FitPicture expects floating-point pixels in [0, 1], got {pixels.min():g} to {pixels.max():g}; "
                    "divide grey levels by 255"
                )
        height, width = pixels.shape[:2]
        place = self.placement(height, width)
        if self.mode == "stretch":
            return _resized(pixels, place.size)
        return _cropped(pixels, place) if self.mode == "crop" else _on_ground(pixels, place)

    def placement(self, height: int, width: int) -> Placement:
        """Tells where a picture lies in its image. Sizes are rounded as by torchvision's `Resize` and `CenterCrop`.

        Args:
          height: of the picture.
          width: of the picture.
        """
        size = self.image_shape[0], self.image_shape[1]
        if self.mode == "stretch":
            return Placement((height, width), size, (0, 0), size)
        if self.mode == "fit":
            scale = min(size[0] / height, size[1] / width)
            whole = max(round(height * scale), 1), max(round(width * scale), 1)
            return Placement((height, width), whole, ((size[0] - whole[0]) // 2, (size[1] - whole[1]) // 2), size)
        covered = self._covered
        if height * covered[1] <= width * covered[0]:
            whole = covered[0], max(covered[0] * width // height, covered[1])
        else:
            whole = max(covered[1] * height // width, covered[0]), covered[1]
        top, left = (-round((have - want) / 2) for have, want in zip(whole, size, strict=True))
        return Placement((height, width), whole, (top, left), size)

    def read(self, file: File) -> np.ndarray:
        """Reads a picture file and fits it; a large JPEG file is decoded at a smaller scale.

        The scale is 1/2, 1/4 or 1/8, as long as the decoded picture is at least twice as large as needed. The result
        is a little smoother or sharper than from the whole picture, at a fraction of the time.

        Args:
          file: as for `read_picture`.

        Returns:
          The image, uint8, of shape `image_shape`.

        Raises:
          PictureError: as `read_picture`.
          ImportError: Pillow is not installed.
          ValueError: the image has neither 1 nor 3 channels.
        """
        height, width = self._covered
        return self.fitted(read_picture(file, self.channels, at_least=(_SPARE * height, _SPARE * width)))

    @property
    def _covered(self) -> tuple[int, int]:
        """The (height, width) that a picture covers before it is cropped."""
        height, width = (math.floor(size / self.crop_fraction) for size in self.image_shape[:2])
        return height, width


def check_channels(channels: int, fit: FitPicture) -> None:
    """Checks that pictures are fitted with the channels that they are read with.

    Args:
      channels: of the pictures of a source.
      fit: fits them.

    Raises:
      ValueError: `fit` has other channels.
    """
    if fit.channels != channels:
        raise ValueError(f"expected images of {channels} channels, as they are read, got {fit!r}")


def read_picture(file: File, channels: int, *, at_least: tuple[int, int] | None = None) -> np.ndarray:
    """Reads a picture file.

    EXIF orientation is applied; damaged EXIF is ignored. The first frame is used. Colours become grey by ITU-R 601-2
    luma; grey becomes three equal channels. Transparent pixels become white, or black if the mean luma of the visible
    pixels is above 0.75: light ink would be invisible on white. 16 bits are scaled to 8. Floating-point values must be
    in [0, 1], and are multiplied by 255.

    Args:
      file: path or content of a file of one of `FORMATS`, of at most `MAX_PIXELS` pixels.
      channels: 1 for grey, 3 for red, green and blue.
      at_least: (height, width). A larger JPEG file is decoded at 1/2, 1/4 or 1/8 of its size, which is faster, if the
        result is at least so high and so wide. None decodes the whole picture.

    Returns:
      The pixels, uint8, shape (height, width, channels).

    Raises:
      PictureError: the file does not exist, is not a regular file, or is not a picture of these formats.
      ImportError: Pillow is not installed.
      ValueError: `channels` is neither 1 nor 3.
    """
    return _read(file, channels, at_least, None)


def _read(file: File, channels: int, at_least: tuple[int, int] | None, rows: int | None) -> np.ndarray:
    """Reads a picture file; if it is decoded in full size, perhaps only its first `rows` rows and a few more."""
    if channels not in (1, 3):
        raise ValueError(f"read_picture expects 1 or 3 channels, got {channels}")
    with _opened(file, FORMATS) as (image, _):
        size = image.size
        if at_least is not None:
            height, width = at_least
            image.draft(None, (height, width) if _rows_are_columns(_orientation(image)) else (width, height))
        rows = rows if image.size == size and _orientation(image) == 1 else None
        pixels = _fast_jpeg(image, rows) if channels == 3 and image.format == "JPEG" else None
        if pixels is None:
            image.load()
            pixels = _pixels(image, "L" if channels == 1 else "RGB")
        # Read after the pixels: Pillow turns a TIFF itself.
        pixels = _turned(pixels, _orientation(image))
    return pixels.reshape(*pixels.shape[:2], channels)


def read_picture_part(
    file: File, channels: int, whole: tuple[int, int], part: tuple[int, int, int, int], size: tuple[int, int]
) -> np.ndarray:
    """Reads a part of a picture file, and resizes it; a large JPEG file is decoded at a smaller scale.

    The scale is 1/2, 1/4 or 1/8, as long as the decoded part is at least twice as large as needed. Of a whole picture,
    the pixels around the part do not count; of one at a smaller scale, they do. At full scale, the rows below the part
    are not decoded where simplejpeg is installed, so that damage there is not noticed.

    Args:
      file: as for `read_picture`.
      channels: 1 for grey, 3 for red, green and blue.
      whole: (height, width) of the upright picture.
      part: (top, left, height, width) of the part in it.
      size: (height, width) of the result.

    Returns:
      The image, uint8, shape (*size, channels).

    Raises:
      PictureError, ImportError, ValueError: as `read_picture`.
    """
    top, left, height, width = part
    least = math.ceil(_SPARE * size[0] * whole[0] / height), math.ceil(_SPARE * size[1] * whole[1] / width)
    pixels = _read(file, channels, least, top + height)
    if pixels.shape[1] == whole[1]:
        return resize_picture(pixels[top : top + height, left : left + width], size)
    down, right = pixels.shape[0] / whole[0], pixels.shape[1] / whole[1]
    return resize_picture(pixels, size, Box(left * right, top * down, (left + width) * right, (top + height) * down))


def read_mask(file: File) -> np.ndarray:
    """Reads a PNG file whose values are class indices.

    Args:
      file: path or content of a PNG file with a palette, of 8 bits of grey, or of black and white. The colours of a
        palette do not matter.

    Returns:
      The values as they are stored, uint8, shape (height, width); black is 0 and white is 1 in a file of black and
      white.

    Raises:
      PictureError: the file does not exist, is not a regular file, or is not a PNG file of this kind.
      ImportError: Pillow is not installed.
    """
    with _opened(file, ("PNG",)) as (image, head):
        image.load()
        # Pillow scales 2 and 4 bits of grey to 8. The header tells them (PNG specification, section 11.2.2).
        if image.mode not in ("1", "P", "L") or (head[24] not in (1, 8) and image.mode == "L"):
            raise ValueError(
                f"expected class indices, as a palette or 8 bits of grey, got {_MODES.get(image.mode, image.mode)}"
            )
        return np.asarray(image).astype(np.uint8)


def picture_size(file: File) -> tuple[int, int]:
    """Reads the size of a picture from the beginning of its file.

    Args:
      file: path or content of a file of one of `FORMATS`.

    Returns:
      (height, width), of the upright picture.

    Raises:
      PictureError: as in `read_picture`, but damaged pixels are not noticed.
      ImportError: Pillow is not installed.
    """
    with _opened(file, FORMATS) as (image, _):
        width, height = image.size
        return (width, height) if _rows_are_columns(_orientation(image)) else (height, width)


class Box(NamedTuple):
    """A part of a picture, in pixels, which need not be whole ones."""

    left: float
    top: float
    right: float
    bottom: float


def resize_picture(pixels: np.ndarray, size: tuple[int, int], box: Box | None = None) -> np.ndarray:
    """Resizes a picture bilinearly, with antialias: first along its rows, then along its columns.

    So did Pillow before version 13, which takes the axes of some sizes in the other order; pixels may then differ by
    one level. Pictures of 8 bits in colour are resized in C++ where a compiler is found, to the same pixels.

    Args:
      pixels: shape (height, width, channels), uint8 or float32.
      size: (height, width) of the result.
      box: the part that is resized to that size, inside the picture; the pixels around it count as in a resized whole
        picture. None for the whole picture.

    Returns:
      Shape (*size, channels), of the same dtype; uint8 is rounded between the axes and at the end.

    Raises:
      ImportError: Pillow is not installed.
      ValueError: the size has no pixels, or the box is empty, or not inside the picture.
    """
    if min(size) < 1:
        raise ValueError(f"resize_picture expects a size of at least 1x1, got {size}")
    height, width = pixels.shape[:2]
    # In float32, as in Pillow: the edge of a scaled picture may exceed it by a rounding of float64.
    part = (ctypes.c_float * 4)(*(box or (0, 0, width, height)))
    left, top, right, bottom = part
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(f"resize_picture expects a box inside a picture of {height}x{width} pixels, got {box}")
    in_colour = pixels.dtype == np.uint8 and pixels.shape[2] == 3
    if in_colour and (resample := resampler()) is not None:
        if pixels.strides[1:] != (3, 1):
            pixels = np.ascontiguousarray(pixels)
        result = np.empty((*size, 3), np.uint8)
        resample(pixels.ctypes.data, pixels.strides[0], height, width, part, result.ctypes.data, *size)
        return result
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("pictures are resized by Pillow; pip install pillow") from error

    def resized(values: np.ndarray) -> np.ndarray:
        bilinear = Image.Resampling.BILINEAR
        narrow = Image.fromarray(values).resize((size[1], height), bilinear, (left, 0, right, height))
        return np.asarray(narrow.resize((size[1], size[0]), bilinear, (0, top, size[1], bottom)))

    if in_colour:
        return resized(pixels)
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
def _opened(file: File, formats: tuple[str, ...]) -> Iterator[tuple["Image.Image", bytes]]:
    """Opens a picture, and reads the first bytes; errors until it is closed become a PictureError that names it."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise ImportError("pictures are read by Pillow; pip install pillow") from error
    name = "the given bytes" if isinstance(file, bytes) else repr(os.fspath(file))
    if isinstance(file, bytes):
        _check_length(name, len(file))
    else:
        _check_file(Path(file), name)
    # Pillow's warnings either are errors here or do not affect the pixels. The filter stays: `catch_warnings` changes
    # the filters of all threads, and several threads that read pictures would restore them in the wrong order.
    if not warnings.filters or warnings.filters[0] != _QUIET:
        warnings.filterwarnings("ignore", module=_PILLOW)
    try:
        # Pillow maps a file that it opens itself into memory, and then scrambles the rows of a TIFF that it rotates.
        with io.BytesIO(file) if isinstance(file, bytes) else open(file, "rb") as stream:
            head = stream.read(32)
            stream.seek(0)
            with Image.open(stream, formats=formats) as image:
                _check_size(name, image.size)
                yield image, head
    except PictureError:
        raise
    except Image.DecompressionBombError as error:
        raise PictureError(_too_large(name, "more")) from error
    except UnidentifiedImageError as error:
        raise PictureError(
            f"expected a picture in {name} ({', '.join(formats)}), got another format or a damaged file"
        ) from error
    except Exception as error:
        # On damaged files the decoders raise nearly every kind of exception.
        reason = str(error) or type(error).__name__
        raise PictureError(f"expected a picture in {name}, got a file that cannot be read: {reason}") from error


def _check_file(path: Path, name: str) -> None:
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # a name may hold a null character
        raise PictureError(f"expected a picture, got {name}: {getattr(error, 'strerror', error)}") from error
    if stat.S_ISDIR(status.st_mode):
        raise PictureError(f"expected a picture, got the folder {name}; name the files in it")
    if not stat.S_ISREG(status.st_mode):
        raise PictureError(f"expected a picture, got {name}, which is not a regular file")
    _check_length(name, status.st_size)


def _check_length(name: str, length: int) -> None:
    if length == 0:
        raise PictureError(f"expected a picture in {name}, got an empty file")


def _check_size(name: str, size: tuple[int, int]) -> None:
    width, height = size
    if not 0 < width * height <= MAX_PIXELS:
        raise PictureError(_too_large(name, f"{height:,}x{width:,}"))


def _too_large(name: str, got: str) -> str:
    return f"expected a picture of at most {MAX_PIXELS:,} pixels in {name}, got {got}; scale it down first"


def _fast_jpeg(image: "Image.Image", rows: int | None) -> np.ndarray | None:
    """Decodes a JPEG file in colour by simplejpeg, which is faster than Pillow and gives the same pixels.

    Args:
      image: the opened file, before its pixels are loaded.
      rows: number of rows from the top that are needed, of a file that is decoded in full size; None for all.

    Returns:
      The pixels, uint8, shape (height, width, 3); fewer rows, but at least `rows`, where decoding can end early. None
      if Pillow has to decode: simplejpeg is not installed, the file has other colours or is damaged, or it is so small
      that simplejpeg might choose another scale.
    """
    simplejpeg = _simplejpeg()
    if simplejpeg is None or image.mode != "RGB" or min(image.size) < _LEAST_SIDE:
        return None
    stream: Any = image.fp  # pyright: ignore[reportAttributeAccessIssue]
    stream.seek(0)
    content = stream.read()
    try:
        if rows is not None and rows + _ROWS_BELOW < image.height:
            shortened = _shortened_jpeg(content, rows + _ROWS_BELOW)
            if shortened is not None:
                # Not strict: what follows the last row is a surplus.
                return simplejpeg.decode_jpeg(shortened, "RGB", strict=False)
        pixels = simplejpeg.decode_jpeg(content, "RGB", min_height=image.height, min_width=image.width)
    except ValueError:
        return None
    return pixels if pixels.shape[:2] == (image.height, image.width) else None


def _shortened_jpeg(content: bytes, height: int) -> bytearray | None:
    """Lowers the height in the header of a JPEG file, so that decoding ends there (ITU-T T.81, B.2.2).

    Returns:
      The file; None if it is not sequential, its header is unusual or its end is missing.
    """
    if _END_OF_IMAGE not in content[-_TRAILER:]:
        return None
    place = 2  # after the marker of the start
    while (marker := content[place : place + 2])[:1] == b"\xff" and marker != _START_OF_SCAN:
        if marker in _SEQUENTIAL_FRAMES:
            shortened = bytearray(content)
            shortened[place + 5 : place + 7] = height.to_bytes(2, "big")
            return shortened
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return None


@functools.cache
def _simplejpeg() -> Any:
    """Imports simplejpeg; None if it is not installed."""
    try:
        return importlib.import_module("simplejpeg")
    except ImportError:
        return None


def _pixels(image: "Image.Image", mode: str) -> np.ndarray:
    """Returns the pixels, uint8, of shape (height, width) or (height, width, 3)."""
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
        return np.asarray(image if image.mode == mode else image.convert(mode))
    image = image.convert("RGBA")
    opaque = image.convert("RGB")
    return _on_a_page(
        np.asarray(opaque.convert(mode)), np.asarray(opaque.convert("L")), np.asarray(image.getchannel("A"))
    )


def _deep_grey(image: "Image.Image") -> tuple[np.ndarray, np.ndarray | None]:
    """Returns grey of more than 8 bits, which Pillow would clip instead of scale, as 8 bits, and its transparency."""
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
    return _as_bytes(255 * grey), None if clear is None else _as_bytes(255 * (values != clear))


def _on_a_page(colour: np.ndarray, luma: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Blends visible pixels with a white page, or a black one under light ink; all uint8."""
    opacity = np.divide(alpha, 255, dtype=np.float32)
    ink = np.sum(luma * opacity) / max(np.sum(opacity), 1e-6)
    page = 0 if ink > 255 * _LIGHT_INK and opacity.min() < 1 else 255
    opacity = opacity if colour.ndim == 2 else opacity[..., None]
    return _as_bytes(colour * opacity + np.float32(page) * (1 - opacity))


def _as_bytes(levels: np.ndarray) -> np.ndarray:
    return np.rint(levels).astype(np.uint8)


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


def _resized(pixels: np.ndarray, size: tuple[int, int], box: Box | None = None) -> np.ndarray:
    if pixels.shape[:2] == size and box is None:
        return pixels
    resized = resize_picture(pixels, size, box)
    return resized if resized.dtype == np.uint8 else np.clip(resized, 0, 1)


def _cropped(pixels: np.ndarray, place: Placement) -> np.ndarray:
    """Resizes a picture so that it covers an image, and cuts out its centre."""
    (top, left), (height, width) = (-start for start in place.top_left), place.size
    if place.resized == place.picture:
        return pixels[top : top + height, left : left + width]
    # Not the whole picture: a very long one might not fit in memory.
    down, right = (old / new for old, new in zip(place.picture, place.resized, strict=True))
    box = Box(left * right, top * down, (left + width) * right, (top + height) * down)
    return _resized(pixels, place.size, box)


def _on_ground(pixels: np.ndarray, place: Placement) -> np.ndarray:
    """Resizes a picture to fit into an image, on a background of the median colour of its border."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    colour = np.median(border, axis=0)
    ground = np.empty((*place.size, pixels.shape[2]), pixels.dtype)
    ground[:] = np.rint(colour) if pixels.dtype == np.uint8 else colour
    # Resize first: the padding of a very long picture might not fit in memory.
    (top, left), (rows, columns) = place.top_left, place.resized
    # Not `ops.resize`, which compiles a program for every size of picture.
    ground[top : top + rows, left : left + columns] = _resized(pixels, (rows, columns))
    return ground
