"""`jaxcnn predict`."""

from pathlib import Path

import jax
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxcnn import ops, training
from jaxcnn.cli import trained
from jaxcnn.cli.errors import CommandError
from jaxcnn.cli.options import Predict
from jaxcnn.types import Shape


def predict(options: Predict) -> int:
    """Prints the likeliest classes of image files.

    Args:
      options: which run and which images.

    Returns:
      The exit status, 0.

    Raises:
      CommandError: the run or an image cannot be read.
    """
    if not options.images:
        raise CommandError("predict expects image files, got none: jaxcnn predict RUN image.png ...")
    if options.top < 1:
        raise CommandError(f"--top expects a number at least 1, got {options.top}")
    run = trained.load(options.run)
    shape = run.splits.train.images.shape[1:]
    images = np.stack([read_image(path, shape) for path in options.images])
    logits = training.predict(
        training.make_predict_step(run.model, dtype=run.dtype),
        run.params,
        run.state,
        1 - images if options.invert else images,
        batch_size=min(len(images), 64),
    )
    class_names = run.splits.train.class_names
    width = max(len(str(path)) for path in options.images)
    for path, probabilities in zip(options.images, np.asarray(jax.nn.softmax(logits)), strict=True):
        order = np.argsort(-probabilities, kind="stable")[: options.top]
        print(f"{path!s:<{width}}  " + "  ".join(f"{class_names[i]} {probabilities[i]:.1%}" for i in order))
    return 0


def read_image(path: Path, shape: Shape) -> np.ndarray:
    """Reads an image file as a model wants it.

    Transparent pixels become white, and the picture is turned as its camera noted. A picture of another aspect is put
    on a ground of its border's median colour, so that nothing of it is cut or squeezed; then it is resized (bilinear,
    with antialias).

    Args:
      path: a PNG or JPEG file.
      shape: (height, width, channels) of the result; 1 channel is grey, 3 are red, green and blue.

    Returns:
      The image, float32 in [0, 1].

    Raises:
      CommandError: the file is not there, is empty or is not a readable image, or the channels are neither 1 nor 3.
    """
    height, width, channels = shape
    if channels not in (1, 3):
        raise CommandError(f"predict reads images of 1 or 3 channels, but the model wants {channels}")
    try:
        if path.stat().st_size == 0:
            raise CommandError(f"expected an image in {path}, got an empty file")
        with Image.open(path) as file:
            pixels = _pixels(ImageOps.exif_transpose(file), "L" if channels == 1 else "RGB")
    except FileNotFoundError as error:
        raise CommandError(f"expected an image file, but there is no {path}") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise CommandError(
            f"expected a PNG or JPEG image in {path}, got a file that cannot be read: {error}"
        ) from error
    return _fit(pixels.reshape(*pixels.shape[:2], channels), height, width)


def _pixels(image: Image.Image, mode: str) -> np.ndarray:
    """Returns the pixels in [0, 1], float32, of shape (height, width) or (height, width, 3)."""
    if image.mode.startswith("I") or image.mode == "F":
        # 16-bit grey, which Pillow would clip to 8 bits instead of scaling it.
        grey = np.asarray(image, np.float32) / 65535
        return grey if mode == "L" else np.repeat(grey[..., None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert(mode), np.float32) / 255


def _fit(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes an image to fit into a height and width, on a ground of the median colour of its border."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    ground = np.empty((height, width, pixels.shape[2]), np.float32)
    ground[:] = np.median(border, axis=0)
    # Resized first: the ground around a very long picture would not fit into memory.
    scale = min(height / pixels.shape[0], width / pixels.shape[1])
    rows, columns = (max(round(size * scale), 1) for size in pixels.shape[:2])
    top, left = (height - rows) // 2, (width - columns) // 2
    fitted = ops.resize(jax.numpy.asarray(pixels), (rows, columns), antialias=True)
    ground[top : top + rows, left : left + columns] = np.clip(fitted, 0, 1)
    return ground
