"""Mask R-CNN: Faster R-CNN with a mask of 28x28 pixels for each object.

Source: He, Gkioxari, Dollár & Girshick, "Mask R-CNN", 2017; the second version: Li, Xie, Chen, Dollár, He & Girshick,
"Benchmarking detection transfer learning with vision transformers", 2021. Layers, anchors and losses are those of
torchvision, so that published weights fit.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.layers import BatchNorm, Composite, Conv, ConvTranspose, Function, Run, Sequential, identity
from jaxcnn.layers.initializers import he_normal_fan_out
from jaxcnn.models.blocks import Norm, relu
from jaxcnn.models.detection.faster_rcnn import (
    REGION_POSITIVES,
    FasterRCNN,
    RegionHead,
    resnet50_parts,
    small_parts,
    stacked_convs,
)
from jaxcnn.models.resnet import resnet50
from jaxcnn.tasks.region_detection import MaskDetection
from jaxcnn.types import Layer

_MAP = 14
"""Height and width of the maps of regions that masks are computed from; masks are twice as large."""


@dataclass(frozen=True, repr=False)
class MaskHead(Composite):
    """A `RegionHead` with a convolution for masks (He et al. 2017, figure 4, right).

    Attributes:
      regions: classes and boxes.
      masks: 1x1 convolution with a logit for the background, which is not used, and for each class.
    """

    regions: RegionHead
    masks: Layer

    def forward(self, run: Run, x: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Computes what the input allows.

        Args:
          run: applies the layers.
          x: "features" (regions, features), for "classes" and "boxes"; "maps" (masks, height, width, channels), for
            "masks", logits of shape (masks, height, width, 1 + num_classes).

        Returns:
          The results by name.
        """
        results = run.regions(x["features"]) if "features" in x else {}
        if "maps" not in x:
            return results
        maps = x["maps"]
        logits = run.masks(maps.reshape(-1, *maps.shape[2:]))
        return {**results, "masks": logits.reshape(*maps.shape[:3], -1)}


@dataclass(frozen=True, repr=False)
class MaskRCNN(FasterRCNN):
    """A `FasterRCNN` with masks.

    Its outputs have "masks" too. In training they are logits of the first quarter of the regions, among which all those
    with an object are, shape (regions / 4, 28, 28, 1 + num_classes). In evaluation the model chooses the detections
    itself, and gives "detections", as `Detection.decode` does, and the logits of their masks, shape (max_detections,
    28, 28).

    Attributes:
      mask_tower: layers on the maps of 14x14 of all regions, stacked into one tall image; `mask_tower`
        doubles them.
    """

    mask_tower: Layer = identity

    def forward(self, run: Run, x: Any) -> dict[str, Any]:
        """Computes the outputs for one image (height, width, channels), or in training for an image with objects."""
        levels, size, outputs = self.proposed(run, x)
        features = run.tower(self.region_features(levels, outputs["proposals"], 7))
        if run.train:
            count = max(int(len(outputs["valid"]) * REGION_POSITIVES), 1)
            return outputs | run.head(
                {"features": features, "maps": self._mask_maps(run, levels, outputs["proposals"][:count])}
            )
        outputs |= run.head({"features": features})
        map_sizes = tuple((level.shape[0], level.shape[1]) for level in levels)
        found = self._task(size, map_sizes).chosen(outputs)
        logits = run.head({"maps": self._mask_maps(run, levels, found["boxes"])})["masks"]
        own = jnp.take_along_axis(logits, (1 + found["classes"])[:, None, None, None], axis=3)[..., 0]
        return {**outputs, "detections": found, "masks": own}

    def task(self, image_size: tuple[int, int], **options: Any) -> MaskDetection:
        """Returns the task for images of one size; see `Detector.task`.

        The model chooses the detections, since their masks depend on them.

        Raises:
          ValueError: an option of the choice differs from that of the model.
        """
        for name, value in options.items():
            own = getattr(self, name, value)
            if own != value:
                raise ValueError(
                    f"{type(self).__name__} chooses the detections itself and expects {name}={own!r} of its task, got "
                    f"{value!r}; make a model with it: dataclasses.replace(model, {name}={value!r})"
                )
        return self._task(image_size, self.map_sizes(image_size), **options)

    def _task(
        self, image_size: tuple[int, int], map_sizes: tuple[tuple[int, int], ...], **options: Any
    ) -> MaskDetection:
        return MaskDetection(image_size, map_sizes, **{**self.task_options(), **options})

    def _mask_maps(self, run: Run, levels: tuple[jax.Array, ...], boxes: jax.Array) -> jax.Array:
        maps = self.region_features(levels, boxes, _MAP)
        maps = run.mask_tower(maps.reshape(-1, *maps.shape[2:]))
        return maps.reshape(len(boxes), -1, *maps.shape[1:])


def maskrcnn_resnet50_fpn(
    num_classes: int = 90, *, in_channels: int = 3, norm: Norm = BatchNorm, activation: Function = relu
) -> MaskRCNN:
    """Builds Mask R-CNN with ResNet-50 and the levels P2 to P6; 44,454,513 parameters.

    Args:
      num_classes: number of classes, without a background. The 90 are those of torchvision: class c is the category
        c + 1 of COCO, ten of which do not occur.
      in_channels: channels of the image.
      norm: makes the normalisations of the backbone. Published weights were trained with frozen ones: before
        fine-tuning with few images in a batch, freeze them.
      activation: the nonlinearity.

    Returns:
      The model: stem, stage1 to stage4, neck, head, rpn, tower, mask_tower. It takes images of any size.
    """
    body = resnet50(in_channels=in_channels, norm=norm, activation=activation)
    return _with_masks(resnet50_parts(FasterRCNN, body, num_classes, activation), num_classes, 256, None, activation)


def maskrcnn_resnet50_fpn_v2(
    num_classes: int = 90, *, in_channels: int = 3, norm: Norm = BatchNorm, activation: Function = relu
) -> MaskRCNN:
    """Builds the second version of `maskrcnn_resnet50_fpn`; 46,359,409 parameters.

    It differs as `fasterrcnn_resnet50_fpn_v2` does, and the convolutions of the masks have batch norms.

    Args:
      num_classes: as in `maskrcnn_resnet50_fpn`.
      in_channels: channels of the image.
      norm: makes the normalisations.
      activation: the nonlinearity.

    Returns:
      The model, named as that of `maskrcnn_resnet50_fpn`.
    """
    body = resnet50(in_channels=in_channels, norm=norm, activation=activation)
    boxes = resnet50_parts(FasterRCNN, body, num_classes, activation, norm=norm)
    return _with_masks(boxes, num_classes, 256, norm, activation)


def small_maskrcnn(
    num_classes: int = 10, *, in_channels: int = 3, norm: Norm = BatchNorm, activation: Function = relu
) -> MaskRCNN:
    """Builds a small Mask R-CNN: `small_fasterrcnn` with masks; 2,418,016 parameters.

    Args:
      num_classes: number of classes, without a background.
      in_channels: channels of the image.
      norm: makes the normalisations of the backbone.
      activation: the nonlinearity.

    Returns:
      The model: stem, stage1 to stage3, neck, head, rpn, tower, mask_tower. It takes images of any size.
    """
    boxes = small_parts(FasterRCNN, num_classes, in_channels, norm, activation, max_detections=30)
    return _with_masks(boxes, num_classes, 64, None, activation)


def mask_tower(channels: int, *, norm: Norm | None = None, activation: Function = relu) -> Sequential:
    """Builds the layers before the masks: four convolutions, and a transposed one that doubles the maps.

    Args:
      channels: channels of all maps.
      norm: makes the normalisation after each of the four; None for none.
      activation: the nonlinearity.

    Returns:
      The layers convs, up, relu.
    """
    return Sequential(
        convs=stacked_convs(channels, _MAP, norm, activation),
        up=ConvTranspose(channels, channels, 2, 2, kernel_init=he_normal_fan_out),
        relu=activation,
    )


def _with_masks(
    detector: FasterRCNN, num_classes: int, channels: int, norm: Norm | None, activation: Function
) -> MaskRCNN:
    fields = {field.name: getattr(detector, field.name) for field in dataclasses.fields(detector)}
    masks = Conv(channels, 1 + num_classes, 1, kernel_init=he_normal_fan_out)
    return MaskRCNN(
        **{**fields, "head": MaskHead(fields["head"], masks)},
        mask_tower=mask_tower(channels, norm=norm, activation=activation),
    )
