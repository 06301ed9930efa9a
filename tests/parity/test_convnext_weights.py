"""ConvNeXt: the weights of torchvision, timm and Keras give the outputs here that they give there.

Full comparison: convnext_tiny of all three; gradients: convnext_tiny of torchvision. The others, which have more blocks
or wider ones, are compared in names, shapes and counts: with modules on torch's meta device, and with the layers of
Keras' other models.
"""

import jax
import numpy as np
import pytest
from torchvision_peer import timm, torch, torchvision
from weights_peer import (
    LOGITS_TOLERANCE,
    changed,
    check_faults_are_seen,
    check_keras_facts,
    check_logits,
    check_names,
    check_torch_training,
    check_torch_weights,
    error,
    images,
    keras_facts,
    keras_weights,
    our_logits,
    torch_logits,
    torch_weights,
)

from jaxcnn import ops
from jaxcnn.layers import Function, LayerNorm, count_parameters

pytestmark = pytest.mark.usefixtures("float64")

PARAMETERS = {
    "convnext_tiny": 28_589_128,
    "convnext_small": 50_223_688,
    "convnext_base": 88_591_464,
    "convnext_large": 197_767_336,
}
SIZES = (32, 51)


def test_weights_of_torchvision_give_its_logits(tmp_path):
    module = torchvision.models.convnext_tiny(num_classes=10)
    check_torch_weights("torchvision/convnext_tiny", module, tmp_path, SIZES)


def test_weights_of_timm_give_its_logits(tmp_path):
    check_torch_weights("timm/convnext_tiny", timm.create_model("convnext_tiny", num_classes=10), tmp_path, SIZES)


@pytest.mark.heavy
def test_weights_of_keras_give_its_logits_once_the_preprocessing_has_normalised_the_pixels(tmp_path):
    # The model of Keras takes pixels from 0 to 255, and normalises them itself.
    weights, expected = keras_weights("keras/ConvNeXtTiny", tmp_path, SIZES)
    scale, mean, std = (np.array(getattr(weights.preprocessing, name)) for name in ("scale", "mean", "std"))
    check_logits(weights, [(images(size) / 255 * scale - mean) / std for size in SIZES], expected)


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("origin", ["torchvision", "timm"])
def test_names_and_shapes_are_all_those_of_torch(origin, name):
    with torch.device("meta"):
        module = torchvision.models.get_model(name) if origin == "torchvision" else timm.create_model(name)
    model = check_names(f"{origin}/{name}", module.state_dict())
    assert count_parameters(model) == PARAMETERS[name] == sum(p.numel() for p in module.parameters())
    assert {part.eps for part in module.modules() if isinstance(part, torch.nn.LayerNorm)} == {1e-6}


def test_names_and_shapes_are_all_those_of_keras():
    for architecture, facts in keras_facts([f"ConvNeXt{size}" for size in ("Tiny", "Small", "Base", "Large")]).items():
        model = check_keras_facts(f"keras/{architecture}", facts)
        assert count_parameters(model) == PARAMETERS[architecture.lower().replace("convnext", "convnext_")]


def test_a_training_step_is_that_of_torchvision(tmp_path):
    module = torchvision.models.convnext_tiny(num_classes=10)
    check_torch_training("torchvision/convnext_tiny", module, tmp_path, 32, batch=2)


def test_planted_faults_are_seen(tmp_path):
    module = torchvision.models.convnext_tiny(num_classes=10)
    weights = torch_weights("torchvision/convnext_tiny", module, tmp_path, 51)
    batch = images(51)
    expected = torch_logits(module, batch)
    kernel, bias = "stage3/block4/conv/kernel", "stage2/block1/project/bias"
    check_faults_are_seen(weights, batch, expected, kernel=kernel, bias=bias, same=True)

    def tanh_for_erf(layer):
        return jax.nn.gelu if layer.function is ops.gelu else layer.function

    for model in (
        changed(weights.model, LayerNorm, epsilon=1e-5),
        changed(weights.model, Function, function=tanh_for_erf),
    ):
        assert error(our_logits(weights, batch, model=model), expected) > 1e4 * LOGITS_TOLERANCE
