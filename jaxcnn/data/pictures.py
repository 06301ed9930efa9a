"""Picture files: the only place that decodes them."""

import os
import stat
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
"""What may be decoded. Pillow knows many more kinds, some of which start other programs."""

MAX_PIXELS = 100_000_000
"""Largest number of pixels of a picture, which then takes some 3 GB to read: a small file can claim any number."""

_LIGHT_INK = 0.75
"""Mean luma from which on ink on a transparent ground is put on a black page."""

_ORIENTATION, _BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 274, 258, 262, 339


class PictureError(ValueError):
    """A file is not a picture that can be read; the message names the file, what was expected and what it is."""


def read_picture(path: str | os.PathLike[str], channels: int) -> np.ndarray:
    """Reads a picture file.

    The picture is turned as its camera noted; nothing else is read of its EXIF data, and damaged ones are left out. Of
    a file of several pictures the first one is taken. Colours become grey by ITU-R 601-2 luma, and grey becomes three
    equal channels. Transparent pixels show a white page, or a black one where the mean luma of what is drawn on it is
    above 0.75: light ink would be lost on white. 8 and 16 bits (grey) are scaled to [0, 1], colours of 16 bits are read
    to 8, and floating-point values must lie in [0, 1].

    Args:
      path: a file of one of `FORMATS`, of at most `MAX_PIXELS` pixels.
      channels: 1 for grey, 3 for red, green and blue.

    Returns:
      The pixels, shape (height, width, channels), float32 in [0, 1].

    Raises:
      PictureError: there is no such file, it is not a regular one, or it holds no picture of these kinds.
      ImportError: Pillow is not installed.
      ValueError: `channels` is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise ValueError(f"pictures are read to 1 or 3 channels, got {channels}")
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise ImportError("pictures are read by Pillow; pip install pillow") from error
    path = Path(path)
    _check_file(path)
    try:
        # Whatever Pillow warns of either is an error here, or does not matter for the pixels. Pillow maps a file of its
        # own opening into memory, and then scrambles the rows where it turns a TIFF.
        with (
            warnings.catch_warnings(action="ignore"),
            open(path, "rb") as file,
            Image.open(file, formats=FORMATS) as image,
        ):
            _check_size(path, image.size)
            image.load()
            pixels = _turned(_pixels(image, "L" if channels == 1 else "RGB"), _orientation(image))
    except PictureError:
        raise
    except Image.DecompressionBombError as error:
        raise PictureError(_too_large(path, "more")) from error
    except UnidentifiedImageError as error:
        raise PictureError(
            f"expected a picture in {str(path)!r} ({', '.join(FORMATS)}), got another or a damaged file"
        ) from error
    except Exception as error:
        # The decoders raise nearly every kind of exception at one damaged file or another.
        reason = str(error) or type(error).__name__
        raise PictureError(f"expected a picture in {str(path)!r}, got a file that cannot be read: {reason}") from error
    return pixels.reshape(*pixels.shape[:2], channels)


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
            "its numbers are signed or of 32 bits, and which of them is white is not known; convert them to unsigned "
            "ones of 8 or 16"
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
    pixels /= 255  # in place: a picture may take a gigabyte
    return pixels


def _deep_grey(image: "Image.Image") -> tuple[np.ndarray, np.ndarray | None]:
    """Returns grey of more than 8 bits, which Pillow would clip instead of scaling it, and its transparency."""
    values = np.asarray(image, np.float32)
    tags = getattr(image, "tag_v2", {})
    grey = values if image.mode == "F" else values / (2 ** tags.get(_BITS_PER_SAMPLE, (16,))[0] - 1)
    if tags.get(_PHOTOMETRIC) == 0:  # white is zero, which Pillow minds for 8 bits only
        grey = 1 - grey
    if not (grey.min() >= 0 and grey.max() <= 1):  # true of nan too
        raise ValueError(
            f"expected floating-point numbers in [0, 1], got {grey.min():g} to {grey.max():g}; scale them, and repair "
            "what is not a number"
        )
    clear = image.info.get("transparency")
    return grey, None if clear is None else (values != clear).astype(np.float32)


def _on_a_page(colour: np.ndarray, luma: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    ink = np.sum(luma * alpha) / max(np.sum(alpha), 1e-6)
    page = 0.0 if ink > _LIGHT_INK and alpha.min() < 1 else 1.0
    alpha = alpha if colour.ndim == 2 else alpha[..., None]
    return colour * alpha + np.float32(page) * (1 - alpha)


def _orientation(image: "Image.Image") -> int:
    """Reads how the camera was held; 1, upright, where that cannot be read."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return 1


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns and mirrors pixels by the table of EXIF (TIFF 6.0, Orientation)."""
    rows_are_columns = 5 <= orientation <= 8
    pixels = pixels.swapaxes(0, 1) if rows_are_columns else pixels
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
