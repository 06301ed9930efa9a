"""RegNet X and Y: the weights of torchvision and timm give the outputs here that they give there.

Full comparison: regnet_x_400mf and regnet_y_400mf of torchvision, regnetx_004 (whose widths are those of the paper, not
of torchvision) and regnety_004 of timm; gradients and new moments: regnet_y_400mf of torchvision. The others, which
repeat the same blocks, are compared in names, shapes and counts with modules whose weights are never drawn.
"""

import jax
import pytest
from torchvision_peer import timm, torch, torchvision
from weights_peer import (
    LOGITS_TOLERANCE,
    changed,
    check_faults_are_seen,
    check_options,
    check_torch_training,
    check_torch_weights,
    error,
    images,
    our_logits,
    torch_logits,
    torch_weights,
)

from jaxcnn import models
from jaxcnn.interop.records.regnet import RECORDS
from jaxcnn.interop.weights import load_weights
from jaxcnn.layers import Function, Gate, count_parameters

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("float64")]

SIZES = (64, 75)
TIMM = [record.architecture for record in RECORDS if record.origin == "timm"]
TORCHVISION = [record.architecture for record in RECORDS if record.origin == "torchvision"]


@pytest.fixture
def nothing_is_drawn(monkeypatch):
    """Builds modules whose parameters are never written: the memory of the largest is not even taken."""
    for name in dir(torch.nn.init):
        if name.endswith("_") and not name.startswith("_"):
            monkeypatch.setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)


@pytest.mark.parametrize("name", ["regnet_x_400mf", "regnet_y_400mf"])
def test_weights_of_torchvision_give_its_logits(name, tmp_path):
    module = torchvision.models.get_model(name, num_classes=10)
    check_torch_weights(f"torchvision/{name}", module, tmp_path, SIZES)


@pytest.mark.parametrize("name", ["regnetx_004", "regnety_004"])
def test_weights_of_timm_give_its_logits(name, tmp_path):
    check_torch_weights(f"timm/{name}", timm.create_model(name, num_classes=10), tmp_path, SIZES)


@pytest.mark.parametrize("name", TORCHVISION)
def test_names_and_shapes_are_all_those_of_torchvision(name, nothing_is_drawn):
    module = torchvision.models.get_model(name)
    model = check_options(f"torchvision/{name}", module)
    assert model == getattr(models, name)()
    assert count_parameters(model) == sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", TIMM)
def test_names_and_shapes_are_all_those_of_timm(name, nothing_is_drawn):
    module = timm.create_model(name)
    model = check_options(f"timm/{name}", module)
    assert count_parameters(model) == sum(parameter.numel() for parameter in module.parameters())


def test_widths_tell_which_variant_a_file_is_of(tmp_path, nothing_is_drawn):
    for name, paper in (("regnetx_004", True), ("regnetx_004_tv", False)):
        torch.save(timm.create_model(name).state_dict(), tmp_path / "weights.pth")
        model = load_weights("regnet_x_400mf", tmp_path / "weights.pth").model
        assert (model == models.regnet_x_400mf()) is not paper
        assert model["head"].in_features == (384 if paper else 400)


def test_a_training_step_is_that_of_torchvision(tmp_path):
    module = torchvision.models.regnet_y_400mf(num_classes=10)
    check_torch_training("torchvision/regnet_y_400mf", module, tmp_path, 64)


def test_planted_faults_are_seen(tmp_path):
    module = torchvision.models.regnet_y_400mf(num_classes=10)
    weights = torch_weights("torchvision/regnet_y_400mf", module, tmp_path, 64)
    batch = images(64)
    expected = torch_logits(module, batch)
    check_faults_are_seen(weights, batch, expected, kernel="stage3/block2/conv2/kernel", bias="head/bias")
    # The hard sigmoid of MobileNetV3's squeeze-and-excitation.
    hard = Function(jax.nn.hard_sigmoid)
    model = changed(weights.model, Gate, body=lambda gate: gate.body.replace(gate=hard))
    assert error(our_logits(weights, batch, model=model), expected) > 1e4 * LOGITS_TOLERANCE
