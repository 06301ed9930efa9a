"""`jaxcnn predict`."""

from pathlib import Path

import jax
import numpy as np

from jaxcnn import training
from jaxcnn.cli import trained
from jaxcnn.cli.errors import CommandError, reported
from jaxcnn.cli.options import Predict
from jaxcnn.cli.terminal import complain, say, shown
from jaxcnn.data.pictures import FitPicture, PictureError, read_picture
from jaxcnn.types import Shape


def predict(options: Predict) -> int:
    """Prints the most likely classes of image files.

    Reports unreadable files on stderr after the predictions.

    Args:
      options: the run and the images.

    Returns:
      The exit status: 0, or 2 if an image could not be read.

    Raises:
      CommandError: the run cannot be read, or its model does not take pictures.
    """
    if not options.images:
        raise CommandError("predict expects image files, got none: jaxcnn predict RUN image.png ...")
    if options.top < 1:
        raise CommandError(f"--top expects a number at least 1, got {options.top}")
    run = trained.load(options.run)
    shape = run.splits.train.images.shape[1:]
    if shape[2] not in (1, 3):
        raise CommandError(f"predict reads images of 1 or 3 channels, but the model of the run takes {shape[2]}")
    images, errors = [], []
    for path in options.images:
        try:
            images.append((path, read_image(path, shape)))
        except PictureError as error:
            # The file is named as in the lines of the others, which escape bytes that are not UTF-8 in another way.
            errors.append(str(error).replace(repr(str(path)), f"'{shown(path)}'"))
    if images:
        _print_predictions(run, images, options)
    for error in errors:
        complain(f"error: {error}")
    if errors and images:
        complain(f"{len(errors)} of {len(images) + len(errors)} images could not be read")
    return 2 if errors else 0


def _print_predictions(run: trained.Trained, images: list[tuple[Path, np.ndarray]], options: Predict) -> None:
    pixels = np.stack([image for _, image in images])
    logits = training.predict(
        training.make_predict_step(run.model, precision=run.dtype),
        run.params,
        run.state,
        training.image_batches(1 - pixels if options.invert else pixels, min(len(pixels), 64)),
    )
    class_names = [shown(name) for name in run.splits.train.class_names]
    files = [shown(path) for path, _ in images]
    width = max(map(len, files))
    for file, probabilities in zip(files, np.asarray(jax.nn.softmax(logits)), strict=True):
        order = np.argsort(-probabilities, kind="stable")[: options.top]
        say(f"{file:<{width}}  " + "  ".join(f"{class_names[i]} {probabilities[i]:.1%}" for i in order))


def read_image(path: Path, shape: Shape) -> np.ndarray:
    """Reads an image file and converts it to a model's image shape.

    See `jaxcnn.data.pictures.read_picture` and `FitPicture`.

    Args:
      path: an image file.
      shape: (height, width, channels) of the result; 1 channel is grey, 3 are red, green and blue.

    Returns:
      The image, float32 in [0, 1].

    Raises:
      PictureError: the file does not exist or cannot be read as a picture.
      CommandError: Pillow is not installed.
    """
    with reported(ImportError):
        return FitPicture((shape[0], shape[1], shape[2]))(read_picture(path, shape[2]))
