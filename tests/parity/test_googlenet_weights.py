"""GoogLeNet: the weights of torchvision give the outputs here that they give there, auxiliary heads included."""

import numpy as np
import pytest
from torchvision_peer import torch, torchvision
from weights_peer import (
    LOGITS_TOLERANCE,
    changed,
    channels_first,
    check_faults_are_seen,
    check_names,
    check_torch_training,
    check_torch_weights,
    error,
    images,
    our_logits,
    torch_logits,
    torch_weights,
)

from jaxcnn.interop.preprocessing import torchvision_preprocessing
from jaxcnn.interop.records import RECORDS
from jaxcnn.interop.weights import load_weights
from jaxcnn.layers import AuxiliaryHeads, MaxPool, Sequential, count_parameters

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("float64")]


def googlenet(**options):
    """torchvision's model; in training it returns the logits of all heads stacked."""
    module = torchvision.models.googlenet(num_classes=10, init_weights=False, **options)
    module.eager_outputs = lambda x, aux2, aux1: torch.stack([x, aux1, aux2], 1) if module.training else x
    return module


def test_weights_of_torchvision_give_its_logits(tmp_path):
    check_torch_weights("torchvision/googlenet", googlenet(), tmp_path, (64, (75, 90)))


@pytest.mark.parametrize(("aux_heads", "count"), [(True, 13_004_888), (False, 6_624_904)])
def test_weights_fit_with_and_without_auxiliary_heads(aux_heads, count, tmp_path):
    module = torchvision.models.googlenet(init_weights=False, aux_logits=aux_heads)
    if aux_heads:
        check_names("torchvision/googlenet", module.state_dict())
    torch.save(module.state_dict(), tmp_path / "weights.pth")
    model, params, *_ = load_weights("googlenet", tmp_path / "weights.pth")
    assert isinstance(model, AuxiliaryHeads if aux_heads else Sequential)
    assert count_parameters(model) == count == sum(p.numel() for p in module.parameters())
    assert params["inception3b"]["branch5x5"]["conv"]["conv"]["kernel"].shape == (3, 3, 32, 96)


def test_a_training_step_of_all_heads_is_that_of_torchvision(tmp_path):
    check_torch_training("torchvision/googlenet", googlenet(), tmp_path, 64)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_the_change_of_moments_in_torchvisions_model_is_part_of_the_preprocessing(name):
    module = torchvision.models.get_model(name, init_weights=False, transform_input=True)
    usual = torchvision_preprocessing(256, 224)
    for record in [record for record in RECORDS if record.name == f"torchvision/{name}"]:
        preprocessing = record.preprocessing
        pixels = channels_first(np.random.default_rng(0).uniform(size=(2, 5, 4, 3)))
        imagenet = torchvision.transforms.functional.normalize(pixels, usual.mean, usual.std)
        expected = torchvision.transforms.functional.normalize(pixels, preprocessing.mean, preprocessing.std)
        assert error(module._transform_input(imagenet), expected) < LOGITS_TOLERANCE


def test_planted_faults_are_seen(tmp_path):
    module = googlenet()
    weights, batch = torch_weights("torchvision/googlenet", module, tmp_path, 70), images(70)
    expected = torch_logits(module, batch)
    check_faults_are_seen(
        weights,
        batch,
        expected,
        kernel="inception4b/branch5x5/conv/conv/kernel",
        bias="inception5a/branch_pool/project/norm/bias",
    )
    floor = changed(weights.model, MaxPool, ceil_mode=False)
    assert error(our_logits(weights, batch, model=floor), expected) > 1e-6
