"""AlexNet: torchvision."""

from jaxcnn.interop.preprocessing import torchvision_preprocessing
from jaxcnn.interop.records.record import Record, Rules
from jaxcnn.models.alex_net import alexnet

_RULES = (
    ("conv1", "features.0"),
    ("conv2", "features.3"),
    ("conv3", "features.6"),
    ("conv4", "features.8"),
    ("conv5", "features.10"),
    ("dense1", "classifier.1"),
    ("dense2", "classifier.4"),
    ("head", "classifier.6"),
)

RECORDS = (
    Record(
        "alexnet",
        "torchvision",
        "alexnet",
        alexnet,
        Rules("torchvision", _RULES),
        torchvision_preprocessing(256, 224),
        flattened=(("dense1", (6, 6, 256)),),
    ),
)
