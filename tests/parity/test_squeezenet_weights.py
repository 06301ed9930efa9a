"""SqueezeNet: the weights of torchvision give the outputs here that they give there, in full for both versions."""

import pytest
from torchvision_peer import torchvision
from weights_peer import (
    changed,
    check_faults_are_seen,
    check_torch_training,
    check_torch_weights,
    error,
    images,
    our_logits,
    torch_logits,
    torch_weights,
)

from jaxcnn.layers import MaxPool

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("float64")]


@pytest.mark.parametrize("name", ["squeezenet1_0", "squeezenet1_1"])
def test_weights_of_torchvision_give_its_logits(name, tmp_path):
    module = torchvision.models.get_model(name, num_classes=10)
    check_torch_weights(f"torchvision/{name}", module, tmp_path, (64, (75, 90)))


def test_a_training_step_is_that_of_torchvision(tmp_path):
    module = torchvision.models.squeezenet1_1(num_classes=10)
    check_torch_training("torchvision/squeezenet1_1", module, tmp_path, 64)


def test_planted_faults_are_seen(tmp_path):
    module = torchvision.models.squeezenet1_1(num_classes=10)
    weights, batch = torch_weights("torchvision/squeezenet1_1", module, tmp_path, 70), images(70)
    expected = torch_logits(module, batch)
    check_faults_are_seen(weights, batch, expected, kernel="fire5/expand/conv3x3/kernel", bias="fire9/squeeze/bias")
    floor = changed(weights.model, MaxPool, ceil_mode=False)
    assert error(our_logits(weights, batch, model=floor), expected) > 1e-6
