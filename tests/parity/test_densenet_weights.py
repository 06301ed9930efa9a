"""DenseNet: the weights of torchvision, timm and Keras give the outputs here that they give there.

Full comparison: densenet121 of torchvision and of Keras, densenet169 of timm; gradients and new moments: densenet121 of
torchvision. The others, which repeat the same layers, are compared in names, shapes and counts: with modules on
torch's meta device, and with the layers of Keras' other models.
"""

import re

import pytest
from torchvision_peer import timm, torch, torchvision
from weights_peer import (
    check_faults_are_seen,
    check_keras_facts,
    check_keras_weights,
    check_options,
    check_torch_training,
    check_torch_weights,
    images,
    keras_facts,
    our_logits,
    torch_logits,
    torch_weights,
)

from jaxcnn.interop.weights import load_weights
from jaxcnn.layers import count_parameters

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("float64")]

PARAMETERS = {
    "densenet121": 7_978_856,
    "densenet161": 28_681_000,
    "densenet169": 14_149_480,
    "densenet201": 20_013_928,
}
SIZES = (64, 75)


def test_weights_of_torchvision_give_its_logits(tmp_path):
    module = torchvision.models.densenet121(num_classes=10)
    check_torch_weights("torchvision/densenet121", module, tmp_path, SIZES)


def test_weights_of_timm_give_its_logits(tmp_path):
    check_torch_weights("timm/densenet169", timm.create_model("densenet169", num_classes=10), tmp_path, SIZES)


def test_weights_of_keras_give_its_logits(tmp_path):
    check_keras_weights("keras/DenseNet121", tmp_path, SIZES)


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("origin", ["torchvision", "timm"])
def test_names_and_shapes_are_all_those_of_torch(origin, name):
    with torch.device("meta"):
        module = torchvision.models.get_model(name) if origin == "torchvision" else timm.create_model(name)
    model = check_options(f"{origin}/{name}", module)
    assert count_parameters(model) == PARAMETERS[name] == sum(p.numel() for p in module.parameters())


def test_names_and_shapes_are_all_those_of_keras():
    for architecture, facts in keras_facts(["DenseNet121", "DenseNet169", "DenseNet201"]).items():
        model = check_keras_facts(f"keras/{architecture}", facts)
        assert count_parameters(model) == PARAMETERS[architecture.lower()]


def test_the_older_names_of_published_files_are_read(tmp_path):
    weights = torch_weights("torchvision/densenet121", torchvision.models.densenet121(num_classes=10), tmp_path, 64)
    now = torch.load(tmp_path / "weights.pth", weights_only=True)
    older = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name): array for name, array in now.items()}
    assert "features.denseblock4.denselayer16.conv.2.weight" in older
    torch.save(older, tmp_path / "older.pth")
    params, state = load_weights("densenet121", tmp_path / "older.pth")[1:3]
    batch = images(64)
    assert (our_logits(weights, batch) == our_logits(weights._replace(params=params, state=state), batch)).all()


def test_a_training_step_is_that_of_torchvision(tmp_path):
    module = torchvision.models.densenet121(num_classes=10)
    check_torch_training("torchvision/densenet121", module, tmp_path, 64)


def test_planted_faults_are_seen(tmp_path):
    module = torchvision.models.densenet121(num_classes=10)
    weights = torch_weights("torchvision/densenet121", module, tmp_path, 64)
    batch = images(64)
    check_faults_are_seen(
        weights, batch, torch_logits(module, batch), kernel="stage3/layer5/new/conv2/kernel", bias="head/bias"
    )
