"""VGG: the weights of torchvision, timm and Keras give the outputs here that they give there.

Full comparison: vgg11, vgg13_bn and vgg16 of torchvision, vgg11_bn and vgg19 of timm, with 24 hidden units in each
dense layer instead of 4,096; and VGG16 of Keras at full width, since Keras builds no other. Names, shapes and counts of
all are compared at full width with modules on torch's meta device, and those of Keras' VGG19 with Keras.
"""

import pytest
from torchvision_peer import timm, torch, torchvision
from weights_peer import (
    check_faults_are_seen,
    check_keras_names,
    check_keras_weights,
    check_names,
    check_torch_training,
    check_torch_weights,
    images,
    narrow,
    torch_logits,
    torch_weights,
)

from jaxcnn.layers import count_parameters

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("float64")]

COUNTS = {
    "vgg11": 132_863_336,
    "vgg13": 133_047_848,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "vgg11_bn": 132_868_840,
    "vgg13_bn": 133_053_736,
    "vgg16_bn": 138_365_992,
    "vgg19_bn": 143_678_248,
}


@pytest.fixture
def build(monkeypatch):
    """Builds VGG networks of torchvision and timm with few hidden units, as ours are then."""
    narrow(monkeypatch, 24)

    def build(name):
        origin, _, architecture = name.partition("/")
        with torch.device("meta"):
            if origin == "torchvision":
                module = torchvision.models.get_model(architecture, num_classes=10)
            else:
                module = timm.create_model(architecture, num_classes=10)
        if origin == "torchvision":
            for place, sizes in ((0, (7 * 7 * 512, 24)), (3, (24, 24)), (6, (24, 10))):
                module.classifier[place] = torch.nn.Linear(*sizes)
        else:
            module.pre_logits.fc1 = torch.nn.Conv2d(512, 24, 7)
            module.pre_logits.fc2 = torch.nn.Conv2d(24, 24, 1)
            module.head.fc = torch.nn.Linear(24, 10)
        return module.to_empty(device="cpu")

    return build


@pytest.mark.parametrize(
    "name", ["torchvision/vgg11", "torchvision/vgg13_bn", "torchvision/vgg16", "timm/vgg11_bn", "timm/vgg19"]
)
def test_weights_of_torch_give_its_logits(build, name, tmp_path):
    # Last maps of 2x2 and 3x3, which are pooled up to 7x7; see the next test for one that is pooled down.
    check_torch_weights(name, build(name), tmp_path, (64, (97, 111)))


def test_large_images_are_pooled_as_in_torchvision(build, tmp_path):
    module = build("torchvision/vgg11")
    weights, batch = torch_weights("torchvision/vgg11", module, tmp_path, 64), images((64, 290), batch=1)
    check_faults_are_seen(
        weights,
        batch,
        torch_logits(module, batch),
        kernel="stage3/conv2/kernel",
        bias="stage5/conv1/bias",
        same=False,
        flattened=("dense1/kernel", (7, 7, 512)),
    )


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("origin", ["torchvision", "timm"])
def test_names_and_shapes_are_all_those_of_torch(origin, name):
    with torch.device("meta"):
        module = torchvision.models.get_model(name) if origin == "torchvision" else timm.create_model(name)
    model = check_names(f"{origin}/{name}", module.state_dict())
    assert count_parameters(model) == COUNTS[name] == sum(p.numel() for p in module.parameters())


def test_a_training_step_is_that_of_torchvision(build, tmp_path):
    check_torch_training("torchvision/vgg11_bn", build("torchvision/vgg11_bn"), tmp_path, 64)


def test_a_wrong_epsilon_is_seen(build, tmp_path):
    module = build("torchvision/vgg11_bn")
    weights, batch = torch_weights("torchvision/vgg11_bn", module, tmp_path, 64), images(64)
    check_faults_are_seen(weights, batch, torch_logits(module, batch), bias="stage4/norm1/bias", same=False)


def test_weights_of_keras_give_its_logits(tmp_path):
    # Keras flattens the last map: these are the sizes that leave 7x7 of it.
    check_keras_weights("keras/VGG16", tmp_path, (224, (225, 239)))


def test_names_and_shapes_are_all_those_of_keras(tmp_path):
    assert count_parameters(check_keras_names("keras/VGG19", tmp_path)) == COUNTS["vgg19"]
