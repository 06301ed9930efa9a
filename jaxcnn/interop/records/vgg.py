"""VGG with and without batch norm: torchvision, timm, Keras.

timm's model has convolutions in place of the hidden dense layers: it is the same network for images of less than 256
pixels, whose last map is at most 7x7, and slides over larger ones. Keras' model is the same for images of 224 to 255
pixels, whose last map is 7x7, and takes no others.
"""

from jaxcnn.interop.preprocessing import keras_preprocessing, torchvision_preprocessing
from jaxcnn.interop.records.record import Record, Rules
from jaxcnn.models import vgg

_STAGES = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
_BUILD = {
    "vgg11": vgg.vgg11,
    "vgg13": vgg.vgg13,
    "vgg16": vgg.vgg16,
    "vgg19": vgg.vgg19,
    "vgg11_bn": vgg.vgg11_bn,
    "vgg13_bn": vgg.vgg13_bn,
    "vgg16_bn": vgg.vgg16_bn,
    "vgg19_bn": vgg.vgg19_bn,
}


def _features(name: str) -> tuple[tuple[str, str], ...]:
    """Numbers the layers as torch does: convolution, batch norm if there is one, ReLU, and a pooling for each stage."""
    rules, index, norms = [], 0, name.endswith("_bn")
    for stage, convolutions in enumerate(_STAGES[name.removesuffix("_bn")], start=1):
        for i in range(1, convolutions + 1):
            rules.append((f"stage{stage}/conv{i}", f"features.{index}"))
            if norms:
                rules.append((f"stage{stage}/norm{i}", f"features.{index + 1}"))
            index += 3 if norms else 2
        index += 1
    return tuple(rules)


_TORCHVISION_DENSE = (("dense1", "classifier.0"), ("dense2", "classifier.3"), ("head", "classifier.6"))
_TIMM_DENSE = (("dense1", "pre_logits.fc1"), ("dense2", "pre_logits.fc2"), ("head", "head.fc"))
_KERAS_RULES = (
    (r"stage(\d)/conv(\d)", r"block\1_conv\2"),
    (r"dense(\d)", r"fc\1"),
    ("head", "predictions"),
)
_FLATTENED = (("dense1", (7, 7, 512)),)

RECORDS = (
    *(
        Record(
            name,
            "torchvision",
            name,
            build,
            Rules("torchvision", (*_features(name), *_TORCHVISION_DENSE)),
            torchvision_preprocessing(256, 224),
            flattened=_FLATTENED,
        )
        for name, build in _BUILD.items()
    ),
    *(
        Record(
            name,
            "timm",
            name,
            build,
            Rules("timm", (*_features(name), *_TIMM_DENSE)),
            torchvision_preprocessing(256, 224),
            flattened=_FLATTENED,
            as_convolution=r"dense\d",
        )
        for name, build in _BUILD.items()
    ),
    *(
        Record(
            f"vgg{depth}",
            "keras",
            f"VGG{depth}",
            _BUILD[f"vgg{depth}"],
            Rules("keras", _KERAS_RULES),
            keras_preprocessing("caffe", 224),
        )
        for depth in (16, 19)
    ),
)
