"""AlexNet: the weights of torchvision give the outputs here that they give there.

Numbers are compared with 24 hidden units in each dense layer instead of 4,096; names, shapes and counts at full width,
with a module on torch's meta device.
"""

import pytest
from torchvision_peer import torch, torchvision
from weights_peer import (
    check_faults_are_seen,
    check_names,
    check_torch_training,
    check_torch_weights,
    images,
    narrow,
    torch_logits,
    torch_weights,
)

from jaxcnn.layers import count_parameters

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def module(monkeypatch):
    """torchvision's AlexNet with few hidden units, as ours is then."""
    narrow(monkeypatch, 24)
    with torch.device("meta"):
        module = torchvision.models.alexnet(num_classes=10)
    for place, sizes in ((1, (6 * 6 * 256, 24)), (4, (24, 24)), (6, (24, 10))):
        module.classifier[place] = torch.nn.Linear(*sizes)
    return module.to_empty(device="cpu")


def test_weights_of_torchvision_give_its_logits(module, tmp_path):
    # Last maps of 3x3 and 6x7, and 6x6 is what the model was made for: the pooling both enlarges and shrinks.
    check_torch_weights("torchvision/alexnet", module, tmp_path, (128, (229, 255)))


def test_names_and_shapes_are_all_those_of_torchvision():
    with torch.device("meta"):
        module = torchvision.models.alexnet()
    assert count_parameters(check_names("torchvision/alexnet", module.state_dict())) == 61_100_840


def test_a_training_step_is_that_of_torchvision(module, tmp_path):
    check_torch_training("torchvision/alexnet", module, tmp_path, 128)


def test_planted_faults_are_seen(module, tmp_path):
    weights, batch = torch_weights("torchvision/alexnet", module, tmp_path, 128), images(128)
    check_faults_are_seen(
        weights,
        batch,
        torch_logits(module, batch),
        kernel="conv2/kernel",
        bias="conv3/bias",
        flattened=("dense1/kernel", (6, 6, 256)),
    )
