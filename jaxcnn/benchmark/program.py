"""The program that a worker runs: one step of one contestant, compiled and ready."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from jaxcnn.benchmark.spec import Spec
from jaxcnn.models.detection.mask_rcnn import MaskRCNN

LEARNING_RATE = 1e-3
MOMENTUM = 0.9
OBJECTS = 8
"""Objects in each image that a detector is given."""
COLD_START = ("process", "import", "build", "trace", "lower", "compile", "first_step")


class Program(Protocol):
    """A model in training or in inference, on the device, with a fixed batch.

    Attributes:
      parameters: number of trained numbers.
      cold_start: seconds of "build", and of "trace", "lower" and "compile" if the contestant has them separately.
      facts: other entries of the record: "device", "compiler_options", "temporary_bytes", "folded_batch_norms" ...
    """

    parameters: int
    cold_start: dict[str, float | None]
    facts: dict[str, Any]

    def step(self) -> None:
        """Starts a step; in training it changes the parameters."""
        ...

    def wait(self) -> None:
        """Waits until the device has finished every started step."""
        ...

    def peak_device_bytes(self) -> int | None:
        """Returns the most memory used on one device so far; None on CPU, where that of the process counts."""
        ...


class Unavailable(Exception):
    """A contestant that cannot run here, for a reason that the table tells."""


class Untranslatable(TypeError):
    """A layer that a peer has no translation for."""


class Stopwatch:
    """Seconds of named parts of the cold start."""

    def __init__(self) -> None:
        self.seconds: dict[str, float | None] = dict.fromkeys(COLD_START)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Times the block.

        Args:
          name: one of `COLD_START`.
        """
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started


def draw_batch(spec: Spec) -> tuple[np.ndarray, Any]:
    """Draws the one batch that all steps of all contestants use.

    Args:
      spec: says how many images of which shape.

    Returns:
      Images (batch, height, width, channels), standard normal, float32; and labels, one for each logit vector of the
      model's result, int32: (batch,), or (batch, height, width) for a map. For a detector a dict of `OBJECTS` objects
      in each image, as its task takes them: "boxes", "classes" and "valid", for one of masks also "masks".
    """
    rng = np.random.default_rng(0)
    *places, num_classes = spec.output_shape
    images = rng.standard_normal((spec.batch_size, *spec.image_shape), dtype=np.float32)
    if spec.task is None:
        return images, rng.integers(num_classes, size=(spec.batch_size, *places), dtype=np.int32)
    slots = spec.batch_size, OBJECTS
    height, width = spec.image_shape[:2]
    corners = rng.uniform(0, 0.6, (*slots, 2))
    sizes = rng.uniform(0.05, 0.4, (*slots, 2))
    boxes = np.concatenate([corners, corners + sizes], axis=-1) * (width, height, width, height)
    objects = {
        "boxes": boxes.astype(np.float32),
        "classes": rng.integers(num_classes, size=slots, dtype=np.int32),
        "valid": np.ones(slots, bool),
    }
    if isinstance(spec.model, MaskRCNN):
        x1, y1, x2, y2 = np.moveaxis(boxes[..., None, None], 2, 0)
        rows, columns = np.mgrid[:height, :width]
        objects["masks"] = (x1 <= columns) & (columns < x2) & (y1 <= rows) & (rows < y2)
    return images, objects
