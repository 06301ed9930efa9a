"""`jaxcnn data preview`."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxcnn import plots
from jaxcnn.cli.errors import CommandError, reported
from jaxcnn.cli.names import load_data, object_reading
from jaxcnn.cli.options import Preview
from jaxcnn.cli.terminal import say, shown
from jaxcnn.data import IGNORED, Source, parse_augment
from jaxcnn.files import check_target


def preview(options: Preview) -> int:
    """Draws examples of a data set beside augmented forms of them.

    Args:
      options: the data, the augmentation and the picture.

    Returns:
      The exit status, 0.

    Raises:
      CommandError: the data cannot be read, the augmentation is unknown or does not fit the images, or the picture
        cannot be written.
    """
    for name, number in (("--examples", options.examples), ("--copies", options.copies)):
        if number < 1:
            raise CommandError(f"{name} expects a number of at least 1, got {number}")
    if options.seed < 0:
        raise CommandError(f"--seed expects a number of at least 0, got {options.seed}")
    if options.output.suffix.lower() != ".png":
        raise CommandError(f"--output expects a file with the extension .png, got {shown(options.output)}")
    try:
        augment = parse_augment(options.augment)
    except ValueError as error:
        raise CommandError(f"--augment {error}") from error
    with reported(OSError):
        check_target(options.output)
    found = load_data(options.data, **object_reading(options))
    source: Source = found.get("train", next(iter(found.values()))) if isinstance(found, Mapping) else found
    count = min(options.examples, len(source))
    chosen = np.sort(np.random.default_rng(options.seed).permutation(len(source))[:count])
    originals = [_original(source, int(index)) for index in chosen]

    @jax.jit
    def change(key: jax.Array, example: dict[str, Any]) -> dict[str, Any]:
        return example if augment is None else augment(key, example)

    rows, keys = [], jax.random.split(jax.random.key(options.seed), (count, options.copies))
    with reported(ValueError, TypeError, ImportError):
        for index, original, row in zip(chosen, originals, keys, strict=True):
            # Some augmentations depend on the example and the epoch.
            copies = [
                change(key, original | {"index": np.int32(index), "epoch": np.int32(epoch)})
                for epoch, key in enumerate(row)
            ]
            rows.append([original, *jax.device_get(copies)])
        names = source.class_names
        titles = [names[int(one["label"])] for one in originals if names and np.shape(one.get("label", ())) == ()]
        titles = titles if len(titles) == len(rows) and "label" in source.spec else []
        subtitle = f"{options.data}, {options.augment}"
        figure = plots.augmented(rows, titles, ignore_index=IGNORED, subtitle=subtitle)
    with reported(OSError):
        plots.save(figure, options.output)
    say(f"{count} example{'s' if count > 1 else ''} in {shown(options.output)}")
    return 0


def _original(source: Source, index: int) -> dict[str, Any]:
    """Reads an example; its image becomes float32 in [0, 1]."""
    with reported(ValueError, OSError):
        example = dict(source[index])
    if "image" not in example:
        raise CommandError(f"expected examples with 'image', got {', '.join(map(repr, example))}")
    if example["image"].dtype == np.uint8:
        example["image"] = np.divide(example["image"], 255, dtype=np.float32)
    return example
