"""Inception v3: torchvision and timm, each with and without the auxiliary head, and Keras.

With published weights, torchvision's own model changes the moments of its input from those of ImageNet to 0.5
(`transform_input`); here this is part of the preprocessing. Keras numbers its layers within a session, so only the
order of the numbers in a file matters; its batch norms have no scale.
"""

from jaxcnn.interop.preprocessing import keras_preprocessing, torchvision_preprocessing
from jaxcnn.interop.records.record import Origin, Record, Rules
from jaxcnn.layers import BatchNorm
from jaxcnn.models.inception import inception_v3
from jaxcnn.values import Partial

_BLOCKS = (
    ("stem/conv1", "Conv2d_1a_3x3"),
    ("stem/conv2", "Conv2d_2a_3x3"),
    ("stem/conv3", "Conv2d_2b_3x3"),
    ("stem/conv4", "Conv2d_3b_1x1"),
    ("stem/conv5", "Conv2d_4a_3x3"),
    (r"mixed(..)/branch1x1", r"Mixed_\1.branch1x1"),
    (r"mixed(..)/branch_pool/conv", r"Mixed_\1.branch_pool"),
    (r"mixed(5.)/branch5x5/conv(\d)", r"Mixed_\1.branch5x5_\2"),
    (r"mixed(5.)/branch3x3/conv(\d)", r"Mixed_\1.branch3x3dbl_\2"),
    (r"mixed(6a)/branch3x3", r"Mixed_\1.branch3x3"),
    (r"mixed(6[b-e])/branch7x7/conv(\d)", r"Mixed_\1.branch7x7_\2"),
    (r"mixed(6[b-e])/branch7x7_double/conv(\d)", r"Mixed_\1.branch7x7dbl_\2"),
    (r"mixed(7a)/branch7x7/conv(\d)", r"Mixed_\1.branch7x7x3_\2"),
    (r"mixed(7.)/branch3x3/conv(\d)", r"Mixed_\1.branch3x3_\2"),
    (r"mixed(7.)/branch3x3/split/conv1x3", r"Mixed_\1.branch3x3_2a"),
    (r"mixed(7.)/branch3x3/split/conv3x1", r"Mixed_\1.branch3x3_2b"),
    (r"mixed(..)/branch3x3_double/conv(\d)", r"Mixed_\1.branch3x3dbl_\2"),
    (r"mixed(7.)/branch3x3_double/split/conv1x3", r"Mixed_\1.branch3x3dbl_3a"),
    (r"mixed(7.)/branch3x3_double/split/conv3x1", r"Mixed_\1.branch3x3dbl_3b"),
    ("aux/conv1", "AuxLogits.conv0"),
    ("aux/conv2", "AuxLogits.conv1"),
)
"""Convolutions with their batch norms."""

_TORCH_RULES = (
    *((f"{ours}/conv", f"{theirs}.conv") for ours, theirs in _BLOCKS),
    *((f"{ours}/norm", f"{theirs}.bn") for ours, theirs in _BLOCKS),
    ("aux/head", "AuxLogits.fc"),
    ("head", "fc"),
)
_HALF = (0.5, 0.5, 0.5)
_ORIGINS: tuple[Origin, ...] = ("torchvision", "timm")

_MODULE_A = (
    "branch1x1",
    *(f"branch5x5/conv{i}" for i in (1, 2)),
    *(f"branch3x3/conv{i}" for i in (1, 2, 3)),
    "branch_pool/conv",
)
_REDUCTION_A = ("branch3x3", *(f"branch3x3_double/conv{i}" for i in (1, 2, 3)))
_MODULE_B = (
    "branch1x1",
    *(f"branch7x7/conv{i}" for i in (1, 2, 3)),
    *(f"branch7x7_double/conv{i}" for i in (1, 2, 3, 4, 5)),
    "branch_pool/conv",
)
_REDUCTION_B = (*(f"branch3x3/conv{i}" for i in (1, 2)), *(f"branch7x7/conv{i}" for i in (1, 2, 3, 4)))
_MODULE_C = (
    "branch1x1",
    "branch3x3/conv1",
    "branch3x3/split/conv1x3",
    "branch3x3/split/conv3x1",
    "branch3x3_double/conv1",
    "branch3x3_double/conv2",
    "branch3x3_double/split/conv1x3",
    "branch3x3_double/split/conv3x1",
    "branch_pool/conv",
)
_KERAS_ORDER = (
    *(f"stem/conv{i}" for i in (1, 2, 3, 4, 5)),
    *(f"mixed5{name}/{path}" for name in "bcd" for path in _MODULE_A),
    *(f"mixed6a/{path}" for path in _REDUCTION_A),
    *(f"mixed6{name}/{path}" for name in "bcde" for path in _MODULE_B),
    *(f"mixed7a/{path}" for path in _REDUCTION_B),
    *(f"mixed7{name}/{path}" for name in "bc" for path in _MODULE_C),
)
"""The convolutions with their batch norms in the order in which Keras makes them."""

_KERAS_RULES = (
    *((f"{path}/conv", f"conv2d_{i}") for i, path in enumerate(_KERAS_ORDER)),
    *((f"{path}/norm", f"batch_normalization_{i}") for i, path in enumerate(_KERAS_ORDER)),
    ("head", "predictions"),
)
_keras_norm = Partial(BatchNorm, decay=0.99, epsilon=1e-3, use_scale=False, unbiased=False)

RECORDS = (
    *(
        Record(
            "inception_v3",
            origin,
            "inception_v3",
            Partial(inception_v3, aux_heads=aux_heads),
            Rules(origin, _TORCH_RULES),
            torchvision_preprocessing(342, 299, "bilinear", _HALF, _HALF),
        )
        for origin in _ORIGINS
        for aux_heads in (True, False)
    ),
    Record(
        "inception_v3",
        "keras",
        "InceptionV3",
        Partial(inception_v3, aux_heads=False, norm=_keras_norm, padding="same"),
        Rules("keras", _KERAS_RULES),
        keras_preprocessing("tf", 299),
        auto_numbered=("conv2d", "batch_normalization"),
    ),
)
