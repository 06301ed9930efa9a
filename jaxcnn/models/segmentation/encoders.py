"""Encoders: classifiers whose maps, from half the size of the image on, are the way down of a segmentation model.

The encoders return the same maps as in segmentation_models_pytorch (Iakubovskii 2019), so its weights fit.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from jaxcnn.layers import Backbone, Conv, pyramid_paths
from jaxcnn.layers.composite import Composite, layer_paths
from jaxcnn.types import Layer

_STAGES = tuple(f"stage{i}" for i in range(1, 5))
_PATHS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"efficientnet_b\d", ("stem", "stage2", "stage3", "stage5", "stage7")),
    (r"densenet\d+", ("stem/relu", *(f"stage{i}/transition/relu" for i in (2, 3, 4)), "norm")),
)
"""Paths by the name of the classifier, where they are not those of `pyramid_paths`."""

Strided: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]
"""Paths of the layers that make maps of the strides 16 and 32."""

_STRIDED: tuple[tuple[str, Strided], ...] = (
    (r"(wide_)?resnet\d+.*|resnext.*", (("stage3",), ("stage4",))),
    (r"mobilenet_v2|efficientnet_b\d", (("stage4", "stage5"), ("stage6", "stage7"))),
)
"""Of the classifiers whose strides can be replaced by dilations."""


def encoder(
    name: str,
    *,
    depth: int = 5,
    in_channels: int = 3,
    output_stride: int = 32,
    build: Callable[..., Any] | None = None,
    at: Sequence[str] | None = None,
    strided: Strided | None = None,
) -> Backbone:
    """Builds a classifier of the catalog as an encoder.

    Args:
      name: name of the classifier, such as "resnet34".
      depth: how often the encoder halves the image, from 3 to 5.
      in_channels: channels of the image.
      output_stride: stride of the last map, in pixels: 32, or 16 or 8, where the convolutions of the last stages are
        dilated instead of strided (Chen et al. 2017, section 3.1); of ResNets, MobileNetV2 and EfficientNets.
      build: builds a variant of the classifier, called with `in_channels=`; None for that of the catalog.
      at: paths of the layers whose maps it returns, for a depth of 5; None for those of segmentation_models_pytorch.
      strided: paths of the layers that make the maps of the strides 16 and 32; None for the stages that do.

    Returns:
      The encoder. Its maps have the strides 2, 4 and so on, those of a ConvNeXt 4, 8 and so on; the finest comes first.

    Raises:
      ValueError: there is no such classifier, it has no such maps, or a number is none of those above.
    """
    # Imported here, since the models of the catalog include those built from encoders.
    from jaxcnn import models

    if build is None:
        build = getattr(models, name, None) if name in models.__all__ else None
        if build is None:
            raise ValueError(f"encoder expects the name of a classifier, such as 'resnet34', got {name!r}")
    if depth not in (3, 4, 5):
        raise ValueError(f"encoder expects a depth of 3, 4 or 5, got {depth!r}")
    model = build(in_channels=in_channels)
    if at is None:
        at = _paths(name, model, in_channels)
    if output_stride != 32:
        model = _with_output_stride(name, model, output_stride, strided)
    # The encoders that begin with 4x4 patches have no map of stride 2.
    return Backbone(model, tuple(at)[: depth - 5 or None])


def _paths(name: str, model: Layer, in_channels: int) -> tuple[str, ...]:
    if name.startswith("vgg"):
        return _vgg_paths(model)
    for pattern, paths in _PATHS:
        if re.fullmatch(pattern, name):
            return paths
    found = pyramid_paths(model, in_channels)
    paths = tuple(found[stride] for stride in (2, 4, 8, 16, 32) if stride in found)
    if len(paths) < 4 or 32 not in found:
        raise ValueError(
            f"encoder expects a classifier with maps of the strides 4, 8, 16 and 32, got {name} with {sorted(found)}"
        )
    return paths


def _vgg_paths(model: Any) -> tuple[str, ...]:
    """Returns the maps before the poolings from the second on, and that after the last one."""
    before = [f"stage{i}/{model[f'stage{i}'].names[-2]}" for i in (2, 3, 4, 5)]
    return (*before, "stage5")


def _with_output_stride(name: str, model: Any, output_stride: int, strided: Strided | None) -> Any:
    if output_stride not in (8, 16):
        raise ValueError(f"encoder expects an output_stride of 8, 16 or 32, got {output_stride!r}")
    strided = strided or next((layers for pattern, layers in _STRIDED if re.fullmatch(pattern, name)), None)
    if strided is None:
        raise ValueError(
            f"encoder expects an output_stride of 32 with {name}, got {output_stride}; ResNets, MobileNetV2 and "
            "EfficientNets have others"
        )
    for stride, paths in zip((16, 32), strided, strict=True):
        if stride > output_stride:
            model = model.replace({path: without_strides(model[path], stride // output_stride) for path in paths})
    return model


def without_strides(layer: Layer, rate: int) -> Any:
    """Replaces all strides within a layer by dilations, in its first block too, as segmentation_models_pytorch does.

    Args:
      layer: a layer made of layers, such as a stage.
      rate: dilation of its convolutions.

    Returns:
      The layer, whose maps have the size of its input.
    """
    assert isinstance(layer, Composite)
    convolutions = {path: layer[path] for path in layer_paths(layer) if isinstance(layer[path], Conv)}
    return layer.replace(
        {
            path: replace(conv, strides=1, dilation=rate, padding=conv.kernel_size[0] // 2 * rate)  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]
            for path, conv in convolutions.items()
        }
    )
