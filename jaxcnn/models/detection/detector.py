"""What detectors share: a backbone, a neck and a head, and the task that gives the outputs their meaning."""

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxcnn.layers import Composite, Run
from jaxcnn.layers.flow import structure
from jaxcnn.ops.check import as_pair, check_image
from jaxcnn.tasks.detection import Detection
from jaxcnn.types import Layer


@dataclass(frozen=True, repr=False)
class Detector(Composite):
    """A backbone, a neck and a head, one after the other. Parameters of the backbone have the names of its classifier.

    The outputs are a dict of arrays with one row for each anchor, or each place, of all levels: "classes", shape
    (anchors, num_classes), logits; "boxes", shape (anchors, 4), relative to the anchors; and others of the family. They
    belong to the objects in the image by what `task` returns.

    Attributes:
      backbone: gives a tuple of maps, the finest first; a `Backbone`.
      neck: turns them into the maps of the levels.
      head: turns these into the outputs.
    """

    inlined: ClassVar[str | None] = "backbone"

    backbone: Layer
    neck: Layer
    head: Layer

    def forward(self, run: Run, x: jax.Array) -> Any:
        """Computes the outputs for one image (height, width, channels)."""
        check_image(type(self).__name__, x)
        return run.head(run.neck(run.backbone(x)))

    def map_sizes(self, image_size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """Returns (height, width) of the maps of all levels, without computing them.

        Args:
          image_size: (height, width) of the image, in pixels.
        """
        return _map_sizes(self, as_pair("image_size", image_size))

    def task(self, image_size: tuple[int, int], **options: Any) -> Detection:
        """Returns the task of the detector for images of one size: anchors, loss, metrics and decoding.

            model = retinanet_resnet50_fpn(10)
            step = make_train_step(model, optimizer, model.task((512, 512)))

        Args:
          image_size: (height, width) of the images, in pixels.
          **options: those of the task, such as `score_threshold=`.

        Returns:
          The task.
        """
        raise NotImplementedError(f"{type(self).__name__} expects a method task(self, image_size, **options)")


@functools.lru_cache(maxsize=128)
def _map_sizes(model: Detector, image_size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    def levels(params: Any, state: Any, x: Any) -> Any:
        params, state = model.parts("parameters", params), model.parts("state", state)
        maps, _ = model.backbone.apply(params["backbone"], state["backbone"], x, train=False)
        return model.neck.apply(params["neck"], state["neck"], maps, train=False)[0]

    first = next(layer for layer in _leaves(model) if hasattr(layer, "in_channels"))
    image = jax.ShapeDtypeStruct((*image_size, first.in_channels), jnp.float32)
    return tuple(level.shape[:2] for level in jax.eval_shape(levels, *structure(model), image))


def _leaves(layer: Any) -> Any:
    children = layer.children().values() if isinstance(layer, Composite) else ()
    yield from (leaf for child in children for leaf in _leaves(child))
    if not children:
        yield layer


def per_anchor(x: jax.Array, size: int) -> jax.Array:
    """Reshapes a map so that each anchor has a row.

    Args:
      x: shape (height, width, anchors * size).
      size: numbers of each anchor.

    Returns:
      Shape (height * width * anchors, size): the places row by row, and the anchors of a place one after the other.
    """
    return x.reshape(-1, size)
