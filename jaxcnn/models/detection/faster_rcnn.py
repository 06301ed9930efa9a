"""Faster R-CNN: proposals of regions, and a head that classifies each region and corrects its box.

Source: Ren, He, Girshick & Sun, "Faster R-CNN: towards real-time object detection with region proposal networks", 2015;
Lin, Dollár, Girshick, He, Hariharan & Belongie, "Feature pyramid networks for object detection", 2017; the second
version: Li, Xie, Chen, Dollár, He & Girshick, "Benchmarking detection transfer learning with vision transformers",
2021. Layers, anchors and losses are those of torchvision, so that published weights fit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp

from jaxcnn.layers import (
    Backbone,
    BatchNorm,
    Composite,
    Dense,
    Function,
    Initializer,
    Run,
    Sequential,
    StackedConv,
    identity,
)
from jaxcnn.layers.initializers import he_normal_fan_out
from jaxcnn.models.blocks import Norm, relu
from jaxcnn.models.detection.detector import Detector
from jaxcnn.models.detection.feature_pyramid import feature_pyramid
from jaxcnn.models.detection.region_proposals import RegionProposals, Regions, region_proposals
from jaxcnn.models.detection.retinanet import small_normal
from jaxcnn.models.mobilenet import mobilenet_v3_large
from jaxcnn.models.resnet import basic_block, resnet, resnet50
from jaxcnn.ops.check import check_image
from jaxcnn.ops.matching import IGNORED, sample_balanced
from jaxcnn.ops.regions import pyramid_roi_align
from jaxcnn.tasks.region_detection import RegionDetection, empty_boxes
from jaxcnn.types import Layer

Sampling: TypeAlias = Literal["random", "first"]
"""How training chooses some of the anchors and regions: at random, or the first ones of each kind, for tests."""

_ANCHOR_POSITIVES, REGION_POSITIVES = 0.5, 0.25
"""Largest shares of anchors and regions with an object among the samples."""

_tiny_normal = Initializer(jax.nn.initializers.normal, stddev=0.001)


@dataclass(frozen=True, repr=False)
class RegionTower(Composite):
    """Layers that turn the maps of regions into features (Girshick 2015, "Fast R-CNN", section 2.1).

    Attributes:
      convs: layers on the maps of all regions, stacked into one tall image; see `StackedConv`.
      dense: layers on the flattened map of each region.
    """

    convs: Layer
    dense: Layer

    def forward(self, run: Run, x: jax.Array) -> jax.Array:
        """Computes features (regions, features) from maps (regions, height, width, channels)."""
        maps = run.convs(x.reshape(-1, *x.shape[2:]))
        return run.dense(maps.reshape(len(x), -1))


@dataclass(frozen=True, repr=False)
class RegionHead(Composite):
    """Two dense layers that classify regions and correct their boxes (Girshick 2015, "Fast R-CNN", section 2.1).

    Attributes:
      classes: with a logit for the background and one for each class.
      boxes: with four numbers for the background, which are not used, and for each class.
    """

    classes: Layer
    boxes: Layer

    def forward(self, run: Run, x: jax.Array) -> dict[str, jax.Array]:
        """Computes "classes" (regions, 1 + num_classes) and "boxes" (regions, 1 + num_classes, 4) from features."""
        return {"classes": run.classes(x), "boxes": run.boxes(x).reshape(len(x), -1, 4)}


@dataclass(frozen=True, repr=False)
class FasterRCNN(Detector):
    """A `Detector` that proposes regions, and classifies each.

    In evaluation it takes an image. In training it has to see the objects, on which the sampled regions depend: it
    takes {"image", "boxes", "valid"}, of which `RegionDetection.training_input` makes a batch. An image alone, in
    training, gives the outputs of all proposals.

    The outputs are "objectness" (anchors,) and "deltas" (anchors, 4) of the anchors of all levels; and of the regions
    "proposals" (regions, 4), two corners in pixels, at least float32, "valid" (regions,), "classes" (regions, 1 +
    num_classes), logits, the background first, and "boxes" (regions, 1 + num_classes, 4), relative to the proposals.
    With objects there are also "anchor_matches" and "region_matches": the index of an object, BACKGROUND, or IGNORED
    for what is not sampled.

    Attributes:
      rpn: proposes regions.
      tower: computes the features of regions, which `head` takes.
      strides: of the levels that regions take their features from, the first ones of the pyramid.
      canonical_size: a region of this size, in pixels, belongs to the level of stride 16.
      anchor_samples: anchors of an image that count in training, half of them with an object at most.
      region_samples: regions of an image that count in training, a quarter of them with an object at most.
      sampling: "random", or "first" for tests.
      score_threshold, iou_threshold, candidates, max_detections, agnostic: of the task; see `Detection`.
    """

    rpn: RegionProposals
    tower: RegionTower
    strides: tuple[int, ...] = (4, 8, 16, 32)
    canonical_size: float = 224.0
    anchor_samples: int = 256
    region_samples: int = 512
    sampling: Sampling = "random"
    score_threshold: float = 0.05
    iou_threshold: float = 0.5
    candidates: int = 2000
    max_detections: int = 100
    agnostic: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sampling not in get_args(Sampling):
            raise ValueError(
                f"{type(self).__name__} expects a sampling among {get_args(Sampling)}, got {self.sampling!r}"
            )

    def forward(self, run: Run, x: Any) -> dict[str, Any]:
        """Computes the outputs for one image (height, width, channels), or in training for an image with objects."""
        levels, _, outputs = self.proposed(run, x)
        return outputs | run.head(run.tower(self.region_features(levels, outputs["proposals"], 7)))

    def proposed(self, run: Run, x: Any) -> tuple[tuple[jax.Array, ...], tuple[int, int], dict[str, Any]]:
        """Proposes regions, and in training samples some of them.

        Args:
          run: applies the layers.
          x: the input of `forward`.

        Returns:
          The levels of the pyramid, (height, width) of the image, and the outputs without those of the heads.
        """
        image = x["image"] if isinstance(x, Mapping) else x
        check_image(type(self).__name__, image)
        levels = run.neck(run.backbone(image))
        size = (image.shape[0], image.shape[1])
        map_sizes = tuple((level.shape[0], level.shape[1]) for level in levels)
        outputs = run.rpn(levels)
        regions = self.rpn.propose(outputs, size, map_sizes, train=run.train)
        if run.train and isinstance(x, Mapping):
            keys = (run.key(), run.key()) if self.sampling == "random" else (None, None)
            boxes = empty_boxes(x["boxes"], x["valid"])
            regions, matches = self._sampled(self._task(size, map_sizes), regions, boxes, x["valid"], keys)
            outputs |= matches
        return levels, size, outputs | {"proposals": regions.boxes, "valid": regions.valid}

    def region_features(self, levels: tuple[jax.Array, ...], boxes: jax.Array, size: int) -> jax.Array:
        """Returns the features of regions.

        Args:
          levels: maps of the pyramid.
          boxes: shape (regions, 4), two corners in pixels.
          size: height and width of the result.

        Returns:
          Shape (regions, size, size, channels).
        """
        return pyramid_roi_align(
            levels[: len(self.strides)],
            boxes,
            size,
            spatial_scales=tuple(1 / stride for stride in self.strides),
            sampling_ratio=2,
            canonical_size=self.canonical_size,
        )

    def task(self, image_size: tuple[int, int], **options: Any) -> RegionDetection:
        """Returns the task for images of one size; see `Detector.task`."""
        return self._task(image_size, self.map_sizes(image_size), **options)

    def _task(
        self, image_size: tuple[int, int], map_sizes: tuple[tuple[int, int], ...], **options: Any
    ) -> RegionDetection:
        return RegionDetection(image_size, map_sizes, **{**self.task_options(), **options})

    def task_options(self) -> dict[str, Any]:
        """Returns the fields of the task that the model has."""
        names = ("score_threshold", "iou_threshold", "candidates", "max_detections", "agnostic")
        own = {name: getattr(self, name) for name in names}
        return {**own, "sizes": self.rpn.anchor_sizes, "aspect_ratios": self.rpn.aspect_ratios}

    def _sampled(
        self, task: RegionDetection, regions: Regions, boxes: jax.Array, valid: jax.Array, keys: Any
    ) -> tuple[Regions, dict[str, jax.Array]]:
        """Draws anchors and regions for the loss; the objects themselves are among the regions."""
        found = task.match_anchors(boxes, valid)
        sample = sample_balanced(found, self.anchor_samples, _ANCHOR_POSITIVES, key=keys[0])
        chosen = jnp.zeros(len(found), bool).at[sample.indices].max(sample.valid)
        anchor_matches = jnp.where(chosen, found, IGNORED)
        every = jnp.concatenate([regions.boxes, boxes.astype(regions.boxes.dtype)])
        exist = jnp.concatenate([regions.valid, valid])
        found = jnp.where(exist, task.match_regions(every, boxes, valid), IGNORED)
        sample = sample_balanced(found, self.region_samples, REGION_POSITIVES, key=keys[1])
        # Unused slots repeat the sample, so that the moments of batch norms are those of real regions.
        used = jnp.maximum(jnp.sum(sample.valid, dtype=jnp.int32), 1)
        indices = sample.indices[jnp.arange(self.region_samples, dtype=jnp.int32) % used]
        matches = {"anchor_matches": anchor_matches, "region_matches": jnp.where(sample.valid, found[indices], IGNORED)}
        return Regions(every[indices], sample.valid), matches


def fasterrcnn_resnet50_fpn(
    num_classes: int = 90, *, in_channels: int = 3, norm: Norm = BatchNorm, activation: Function = relu
) -> FasterRCNN:
    """Builds Faster R-CNN with ResNet-50 and the levels P2 to P6; 41,808,406 parameters.

    Args:
      num_classes: number of classes, without a background. The 90 are those of torchvision: class c is the category
        c + 1 of COCO, ten of which do not occur.
      in_channels: channels of the image.
      norm: makes the normalisations of the backbone. Published weights were trained with frozen ones: before
        fine-tuning with few images in a batch, freeze them.
      activation: the nonlinearity.

    Returns:
      The model: stem, stage1 to stage4, neck, head, rpn, tower. It takes images of any size.
    """
    body = resnet50(in_channels=in_channels, norm=norm, activation=activation)
    return resnet50_parts(FasterRCNN, body, num_classes, activation)


def fasterrcnn_resnet50_fpn_v2(
    num_classes: int = 90, *, in_channels: int = 3, norm: Norm = BatchNorm, activation: Function = relu
) -> FasterRCNN:
    """Builds the second version of `fasterrcnn_resnet50_fpn`; 43,712,278 parameters.

    The proposals come from two convolutions, the head has four convolutions and one dense layer, and the convolutions
    of pyramid and head have batch norms.

    Args:
      num_classes: as in `fasterrcnn_resnet50_fpn`.
      in_channels: channels of the image.
      norm: makes the normalisations.
      activation: the nonlinearity.

    Returns:
      The model, named as that of `fasterrcnn_resnet50_fpn`.
    """
    body = resnet50(in_channels=in_channels, norm=norm, activation=activation)
    return resnet50_parts(FasterRCNN, body, num_classes, activation, norm=norm)


def fasterrcnn_mobilenet_v3_large_fpn(
    num_classes: int = 90, *, in_channels: int = 3, norm: Norm = BatchNorm
) -> FasterRCNN:
    """Builds Faster R-CNN with MobileNetV3-Large; 19,410,754 parameters.

    Regions take their features from the first of two maps of stride 32.

    Args:
      num_classes: as in `fasterrcnn_resnet50_fpn`.
      in_channels: channels of the image.
      norm: makes the normalisations of the backbone; their epsilon is 1e-5, unlike that of MobileNetV3.

    Returns:
      The model: stem, stages from stage1 on, last, neck, head, rpn, tower. It takes images of any size.
    """
    return _mobilenet(num_classes, in_channels, norm, score_threshold=0.05)


def fasterrcnn_mobilenet_v3_large_320_fpn(
    num_classes: int = 90, *, in_channels: int = 3, norm: Norm = BatchNorm
) -> FasterRCNN:
    """Builds `fasterrcnn_mobilenet_v3_large_fpn` with 150 proposals, for images of about 320 pixels.

    Args:
      num_classes: as in `fasterrcnn_resnet50_fpn`.
      in_channels: channels of the image.
      norm: as in `fasterrcnn_mobilenet_v3_large_fpn`.

    Returns:
      The model, named as that of `fasterrcnn_mobilenet_v3_large_fpn`.
    """
    few: Any = {"candidates": (2000, 150), "slots": (2000, 150)}
    return _mobilenet(num_classes, in_channels, norm, score_threshold=0.05, **few)


def small_fasterrcnn(
    num_classes: int = 10, *, in_channels: int = 3, norm: Norm = BatchNorm, activation: Function = relu
) -> FasterRCNN:
    """Builds a small Faster R-CNN for objects of about 12 to 64 pixels, with strides 8 and 16; 2,253,141 parameters.

    The backbone is a ResNet with one basic block in each of its first three stages, as wide as ResNet-18.

    Args:
      num_classes: number of classes, without a background.
      in_channels: channels of the image.
      norm: makes the normalisations of the backbone.
      activation: the nonlinearity.

    Returns:
      The model: stem, stage1 to stage3, neck, head, rpn, tower. It takes images of any size.
    """
    return small_parts(FasterRCNN, num_classes, in_channels, norm, activation)


def region_tower(
    channels: int = 256, *, features: int = 1024, norm: Norm | None = None, activation: Function = relu
) -> RegionTower:
    """Builds the layers that compute the features of regions of 7x7.

    Args:
      channels: channels of the levels.
      features: size of the dense layers.
      norm: makes the normalisation after each of four convolutions, before one dense layer; None for two dense layers
        alone.
      activation: the nonlinearity.

    Returns:
      The tower: convs, dense.
    """
    dense: dict[str, Layer] = {"fc1": Dense(7 * 7 * channels, features), "relu1": activation}
    if norm is None:
        dense |= {"fc2": Dense(features, features), "relu2": activation}
    convs = identity if norm is None else stacked_convs(channels, 7, norm, activation)
    return RegionTower(convs, Sequential(**dense))


def region_head(num_classes: int, features: int = 1024) -> RegionHead:
    """Builds the head of Faster R-CNN.

    Args:
      num_classes: number of classes, without a background.
      features: of each region.

    Returns:
      The head: classes, boxes.
    """
    return RegionHead(
        Dense(features, 1 + num_classes, kernel_init=small_normal),
        Dense(features, 4 * (1 + num_classes), kernel_init=_tiny_normal),
    )


def stacked_convs(channels: int, height: int, norm: Norm | None, activation: Function) -> Sequential:
    """Builds four 3x3 convolutions of many small maps; see `StackedConv`.

    Args:
      channels: channels of all maps.
      height: of each map.
      norm: makes the normalisation after each convolution, which then has no bias; None for none.
      activation: the nonlinearity.

    Returns:
      The layers conv1, norm1, relu1 and so on.
    """
    layers: dict[str, Layer] = {}
    for i in range(1, 5):
        layers[f"conv{i}"] = StackedConv(
            channels, channels, padding=1, use_bias=norm is None, kernel_init=he_normal_fan_out, height=height
        )
        layers |= {} if norm is None else {f"norm{i}": norm(channels)}
        layers[f"relu{i}"] = activation
    return Sequential(**layers)


def resnet50_parts(
    kind: Any, body: Layer, num_classes: int, activation: Function, *, norm: Norm | None = None, **parts: Any
) -> Any:
    """Builds a two-stage detector with ResNet-50.

    Args:
      kind: its class, `FasterRCNN` or one derived from it.
      body: the ResNet-50.
      num_classes: number of classes, without a background.
      activation: the nonlinearity.
      norm: makes the normalisations of pyramid and head in the second version; None for the first version.
      **parts: other fields of the class.

    Returns:
      The model.
    """
    return kind(
        Backbone(body, at=["stage1", "stage2", "stage3", "stage4"]),
        feature_pyramid((256, 512, 1024, 2048), first=2, extra_input="pooled", norm=norm),
        region_head(num_classes),
        tower=region_tower(norm=norm, activation=activation),
        rpn=region_proposals(
            256,
            tuple((float(size),) for size in (32, 64, 128, 256, 512)),
            depth=1 if norm is None else 2,
            activation=activation,
        ),
        **parts,
    )


def small_parts(kind: Any, num_classes: int, in_channels: int, norm: Norm, activation: Function, **parts: Any) -> Any:
    """Builds a small two-stage detector; arguments as in `small_fasterrcnn` and `resnet50_parts`."""
    body = resnet(basic_block, (1, 1, 1, 1), in_channels=in_channels, norm=norm, activation=activation)
    few: Any = {"candidates": (500, 250), "slots": (500, 100)}
    return kind(
        Backbone(body, at=["stage2", "stage3"]),
        feature_pyramid((128, 256), 64),
        region_head(num_classes, 256),
        tower=region_tower(64, features=256, activation=activation),
        rpn=region_proposals(64, ((16.0, 24.0), (32.0, 48.0)), activation=activation, **few),
        strides=(8, 16),
        canonical_size=48.0,
        region_samples=128,
        **parts,
    )


def _mobilenet(num_classes: int, in_channels: int, norm: Norm, **options: Any) -> FasterRCNN:
    body = mobilenet_v3_large(in_channels=in_channels, norm=norm)
    sizes = ((32.0, 64.0, 128.0, 256.0, 512.0),) * 3
    return FasterRCNN(
        # torchvision takes the first block of the last stage, whose map has the stride of the last one.
        Backbone(body, at=["stage6/block0", "last"]),
        feature_pyramid((160, 960), first=5, extra_input="pooled"),
        region_head(num_classes),
        tower=region_tower(),
        rpn=region_proposals(256, sizes, **options),
        strides=(32,),
    )
