"""ResNet, ResNeXt, Wide ResNet: the weights of torchvision, timm and Keras give the outputs here that they give there.

Full comparison: resnet18, resnet50, resnext50_32x4d of torchvision, resnet34 of timm, ResNet50 and ResNet50V2 of Keras.
The others, which repeat the same blocks, are compared in names, shapes and counts with modules on torch's meta device.
"""

import pytest
from torchvision_peer import timm, torch, torchvision
from weights_peer import (
    check_faults_are_seen,
    check_keras_weights,
    check_names,
    check_torch_training,
    check_torch_weights,
    images,
    torch_logits,
    torch_weights,
)

from jaxcnn.layers import count_parameters

pytestmark = pytest.mark.usefixtures("float64")

FULL = ("resnet18", "resnet50", "resnext50_32x4d")
OTHERS = {
    "resnet34": 21_797_672,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnext101_32x8d": 88_791_336,
    "resnext101_64x4d": 83_455_272,
    "wide_resnet50_2": 68_883_240,
    "wide_resnet101_2": 126_886_696,
}
SIZES = (64, 75)


@pytest.mark.parametrize("name", FULL)
def test_weights_of_torchvision_give_its_logits(name, tmp_path):
    module = torchvision.models.get_model(name, weights=None, num_classes=10)
    check_torch_weights(f"torchvision/{name}", module, tmp_path, SIZES)


def test_weights_of_timm_give_its_logits(tmp_path):
    check_torch_weights("timm/resnet34", timm.create_model("resnet34", num_classes=10), tmp_path, SIZES)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("origin", ["torchvision", "timm"])
def test_names_and_shapes_are_all_those_of_torch(origin, name):
    with torch.device("meta"):
        module = torchvision.models.get_model(name) if origin == "torchvision" else timm.create_model(name)
    model = check_names(f"{origin}/{name}", module.state_dict())
    assert count_parameters(model) == OTHERS[name] == sum(p.numel() for p in module.parameters())


def test_a_training_step_is_that_of_torchvision(tmp_path):
    module = torchvision.models.resnet18(num_classes=10)
    check_torch_training("torchvision/resnet18", module, tmp_path, 64)


def test_planted_faults_are_seen(tmp_path):
    module = torchvision.models.resnet18(num_classes=10)
    weights = torch_weights("torchvision/resnet18", module, tmp_path, 64)
    batch = images(64)
    check_faults_are_seen(
        weights, batch, torch_logits(module, batch), kernel="stage2/block1/conv1/kernel", bias="head/bias"
    )


@pytest.mark.parametrize("name", ["ResNet50", "ResNet50V2"])
@pytest.mark.heavy
def test_weights_of_keras_give_its_logits(name, tmp_path):
    check_keras_weights(f"keras/{name}", tmp_path, SIZES)
