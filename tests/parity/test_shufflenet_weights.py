"""ShuffleNet V2: the weights of torchvision give the outputs here that they give there.

Full comparison: shufflenet_v2_x0_5 and shufflenet_v2_x1_0; gradients and new moments: shufflenet_v2_x0_5. The others,
which are wider, are compared in names, shapes and counts with modules on torch's meta device.
"""

import jax.numpy as jnp
import pytest
from torchvision_peer import torch, torchvision
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

from jaxcnn import ops
from jaxcnn.layers import Function, count_parameters

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("float64")]

PARAMETERS = {
    "shufflenet_v2_x0_5": 1_366_792,
    "shufflenet_v2_x1_0": 2_278_604,
    "shufflenet_v2_x1_5": 3_503_624,
    "shufflenet_v2_x2_0": 7_393_996,
}
SIZES = (64, 75)


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "shufflenet_v2_x1_0"])
def test_weights_of_torchvision_give_its_logits(name, tmp_path):
    module = torchvision.models.get_model(name, num_classes=10)
    check_torch_weights(f"torchvision/{name}", module, tmp_path, SIZES)


@pytest.mark.parametrize("name", PARAMETERS)
def test_names_and_shapes_are_all_those_of_torchvision(name):
    with torch.device("meta"):
        module = torchvision.models.get_model(name)
    model = check_options(f"torchvision/{name}", module)
    assert count_parameters(model) == PARAMETERS[name] == sum(p.numel() for p in module.parameters())


def test_a_training_step_is_that_of_torchvision(tmp_path):
    module = torchvision.models.shufflenet_v2_x0_5(num_classes=10)
    check_torch_training("torchvision/shufflenet_v2_x0_5", module, tmp_path, 64)


def shuffled_back(x, groups):
    """Undoes a shuffle of as many groups."""
    return ops.channel_shuffle(x, x.shape[-1] // groups)


def halves_exchanged(x, start, stop):
    """Takes the first half of the channels for the second, and the other way round."""
    return ops.channel_slice(jnp.roll(x, x.shape[-1] // 2, -1), start, stop)


def test_planted_faults_are_seen(tmp_path):
    module = torchvision.models.shufflenet_v2_x0_5(num_classes=10)
    weights = torch_weights("torchvision/shufflenet_v2_x0_5", module, tmp_path, 64)
    batch = images(64)
    expected = torch_logits(module, batch)
    check_faults_are_seen(weights, batch, expected, kernel="stage2/block3/join/right/conv2/kernel", bias="head/bias")
    for right, wrong in ((ops.channel_shuffle, shuffled_back), (ops.channel_slice, halves_exchanged)):

        def other(layer, right=right, wrong=wrong):
            return wrong if layer.function is right else layer.function

        model = changed(weights.model, Function, function=other)
        assert model != weights.model
        assert error(our_logits(weights, batch, model=model), expected) > 1e4 * LOGITS_TOLERANCE
