"""torchvision's own detectors, eager, channels_last, with all cores."""

# Pyright also checks this file without the peer.
# pyright: reportMissingImports=false

import importlib
from functools import partial
from typing import Any

import torch
from torch import nn

from jaxcnn.benchmark.loading import import_torchvision
from jaxcnn.benchmark.peers.to_torch import TorchProgram
from jaxcnn.benchmark.program import Program, Unavailable, Untranslatable
from jaxcnn.benchmark.spec import Spec


def make_program(spec: Spec) -> Program:
    """Builds the program of torchvision's detector of the same name.

    Args:
      spec: what to measure.

    Returns:
      The program.

    Raises:
      Unavailable: several devices are requested, or torchvision has no compiled operators here, which inference and
        two-stage detectors need.
      Untranslatable: torchvision has no detector of this name.
    """
    torchvision = import_torchvision()
    detection = importlib.import_module("torchvision.models.detection")
    make = getattr(detection, spec.name, None)
    if spec.task is None or make is None:
        raise Untranslatable(f"has no detector {spec.name}")
    if (spec.mode == "infer" or "rcnn" in spec.name) and not torchvision.extension._has_ops():
        raise Unavailable(
            "its compiled operators, which suppress boxes and pool regions, do not fit this build of torch; "
            "install the builds that belong together (https://pytorch.org)"
        )
    return DetectorProgram(spec, partial(_build, make, spec))


def _build(make: Any, spec: Spec) -> nn.Module:
    (num_classes,) = spec.output_shape
    options = {"weights": None, "weights_backbone": None, "num_classes": num_classes + _first_class(spec.name)}
    if "ssd" in spec.name:
        model = make(**options)
    else:
        model = make(**options, min_size=min(spec.image_shape[:2]), max_size=max(spec.image_shape[:2]))
    # The images have the size already.
    model.transform._skip_resize = True
    return model


def _first_class(name: str) -> int:
    """Returns the class from which a detector counts: those with a softmax have the background as class 0."""
    return 0 if name.startswith(("retinanet", "fcos")) else 1


class DetectorProgram(TorchProgram):
    """A detector of torchvision, which takes lists of images and of objects.

    Args:
      spec: what to measure.
      make_model: builds the detector.
    """

    def __init__(self, spec: Spec, make_model: Any) -> None:
        self._first_class = _first_class(spec.name)
        super().__init__(spec, make_model)

    def infer(self, model: nn.Module, images: torch.Tensor) -> Any:
        """Computes the detections of a batch."""
        return model(list(images))

    def loss(self, model: nn.Module, images: torch.Tensor, labels: Any) -> torch.Tensor:
        """Computes the sum of the detector's losses."""
        targets = [
            {
                "boxes": labels["boxes"][i],
                "labels": labels["classes"][i].long() + self._first_class,
                **({"masks": labels["masks"][i].byte()} if "masks" in labels else {}),
            }
            for i in range(len(images))
        ]
        return torch.stack(list(model(list(images), targets).values())).sum()
