"""FCN, DeepLabV3 and Lite R-ASPP: torchvision, those with auxiliary heads also without them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxcnn.interop.preprocessing import Preprocessing
from jaxcnn.interop.records import mobilenet, resnet
from jaxcnn.interop.records.numbered import NumberedRules
from jaxcnn.interop.records.record import Names, Record, Replacement, Rules
from jaxcnn.models import mobilenet_v3_large
from jaxcnn.models.segmentation import deeplab, fcn, lraspp
from jaxcnn.types import Layer
from jaxcnn.values import Partial, Value

_AUX = (
    (r"aux/conv", "aux_classifier.0"),
    (r"aux/norm", "aux_classifier.1"),
    (r"aux/head", "aux_classifier.4"),
)
_FCN = (
    (r"decoder/conv", "classifier.0"),
    (r"decoder/norm", "classifier.1"),
    (r"head", "classifier.4"),
    *_AUX,
)
_DEEPLAB = (
    (r"decoder/pyramid/conv1x1/conv", "classifier.0.convs.0.0"),
    (r"decoder/pyramid/conv1x1/norm", "classifier.0.convs.0.1"),
    (r"decoder/pyramid/rate(\d)/conv", r"classifier.0.convs.\1.0"),
    (r"decoder/pyramid/rate(\d)/norm", r"classifier.0.convs.\1.1"),
    (r"decoder/pyramid/image/conv", "classifier.0.convs.4.1"),
    (r"decoder/pyramid/image/norm", "classifier.0.convs.4.2"),
    (r"decoder/project/conv", "classifier.0.project.0"),
    (r"decoder/project/norm", "classifier.0.project.1"),
    (r"decoder/last/conv", "classifier.1"),
    (r"decoder/last/norm", "classifier.2"),
    (r"head", "classifier.4"),
    *_AUX,
)
_LRASPP = (
    (r"conv/conv", "classifier.cbr.0"),
    (r"conv/norm", "classifier.cbr.1"),
    (r"gate/conv", "classifier.scale.1"),
    (r"head/fine", "classifier.low_classifier"),
    (r"head/coarse", "classifier.high_classifier"),
)

RESNET = Rules("torchvision", resnet.TORCH_RULES)
MOBILENET_V3 = NumberedRules(Rules("torchvision", mobilenet.TORCHVISION_V3), mobilenet_v3_large)


@dataclass(frozen=True, repr=False)
class WithBackbone(Value):
    """Names layers of the classifier as its own record does, within "backbone", and the others by rules.

    Attributes:
      classifier: names the layers of the classifier.
      rules: pairs of a regular expression and its replacement for the other layers.
      prefix: of the names of the classifier.
    """

    classifier: Names
    rules: tuple[tuple[str, Replacement], ...]
    prefix: str = "backbone"

    def __call__(self, path: str, layer: Layer, leaf: str) -> str:
        """Names a leaf; see `Rules`."""
        if path.partition("/")[0] in ("decoder", "conv", "gate", "head", "aux", "neck", "rpn", "tower", "mask_tower"):
            return Rules("torchvision", self.rules)(path, layer, leaf)
        return f"{self.prefix}.{self.classifier(path, layer, leaf).removeprefix('features.')}"


def _record(build: Callable[..., Any], names: WithBackbone, *, gates: str = "", **options: Any) -> Record:
    return Record(
        build.__name__,
        "torchvision",
        build.__name__,
        Partial(build, **options) if options else build,
        names,
        # torchvision crops nothing: the mask has the size of the resized image.
        Preprocessing(520, None),
        as_convolution="|".join(filter(None, (r"decoder/pyramid/image/conv|gate/conv", gates))),
        head="head/fine" if names.rules == _LRASPP else "head",
    )


RECORDS = (
    *(
        _record(build, WithBackbone(classifier, rules), gates=gates, aux_heads=aux_heads)
        for build, classifier, rules, gates in (
            (fcn.fcn_resnet50, RESNET, _FCN, ""),
            (fcn.fcn_resnet101, RESNET, _FCN, ""),
            (deeplab.deeplabv3_resnet50, RESNET, _DEEPLAB, ""),
            (deeplab.deeplabv3_resnet101, RESNET, _DEEPLAB, ""),
            (deeplab.deeplabv3_mobilenet_v3_large, MOBILENET_V3, _DEEPLAB, mobilenet.GATES),
        )
        for aux_heads in (True, False)
    ),
    _record(lraspp.lraspp_mobilenet_v3_large, WithBackbone(MOBILENET_V3, _LRASPP), gates=mobilenet.GATES),
)
