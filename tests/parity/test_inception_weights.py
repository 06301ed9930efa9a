"""Inception v3: the weights of torchvision, timm and Keras give the outputs here that they give there.

Full comparison: torchvision, in training with its auxiliary head at 299 pixels, the least that it takes there; and
Keras. timm's, which has torchvision's names and layers, is compared in names, shapes and counts on torch's meta device.
"""

import numpy as np
import pytest
from torchvision_peer import timm, torch, torchvision
from weights_peer import (
    changed,
    check_faults_are_seen,
    check_keras_weights,
    check_torch_training,
    check_torch_weights,
    error,
    images,
    our_logits,
    record_of,
    torch_logits,
    torch_weights,
)

from jaxcnn.interop import conversion
from jaxcnn.interop.records import RECORDS
from jaxcnn.layers import AvgPool, count_parameters

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("float64")]


def inception_v3():
    """torchvision's model; in training it returns the logits of both heads stacked, as ours does."""
    module = torchvision.models.inception_v3(num_classes=10, init_weights=False)
    module.eager_outputs = lambda x, aux: torch.stack([x, aux], 1) if module.training else x
    return module


def test_weights_of_torchvision_give_its_logits(tmp_path):
    check_torch_weights("torchvision/inception_v3", inception_v3(), tmp_path, (107, (139, 111)))


@pytest.mark.parametrize("origin", ["torchvision", "timm"])
@pytest.mark.parametrize(("aux_heads", "count"), [(True, 27_161_264), (False, 23_834_568)])
def test_names_and_shapes_are_all_those_of_torch(origin, aux_heads, count):
    with torch.device("meta"):
        if origin == "torchvision":
            module = torchvision.models.inception_v3(init_weights=False, aux_logits=aux_heads)
        else:
            module = timm.create_model("inception_v3", aux_logits=aux_heads)
    [record] = [
        record
        for record in RECORDS
        if record.name == f"{origin}/inception_v3" and hasattr(record.build(1000), "heads") == aux_heads
    ]
    model, given = record.build(1000), conversion.usable(record, module.state_dict())
    assert list(conversion.differences(conversion.targets(record, model), given)) == []
    assert count_parameters(model) == count == sum(p.numel() for p in module.parameters())


def test_a_training_step_of_both_heads_is_that_of_torchvision(tmp_path):
    check_torch_training("torchvision/inception_v3", inception_v3(), tmp_path, 299, batch=3)


def test_planted_faults_are_seen(tmp_path):
    module = inception_v3()
    weights, batch = torch_weights("torchvision/inception_v3", module, tmp_path, 107), images(107)
    expected = torch_logits(module, batch)
    check_faults_are_seen(
        weights,
        batch,
        expected,
        kernel="mixed5b/branch5x5/conv2/conv/kernel",
        bias="mixed7c/branch3x3/split/conv1x3/norm/bias",
    )
    uncounted = changed(weights.model, AvgPool, count_include_pad=False)
    assert error(our_logits(weights, batch, model=uncounted), expected) > 1e-6


def test_weights_of_keras_give_its_logits(tmp_path):
    weights, expected = check_keras_weights("keras/InceptionV3", tmp_path, (107, (139, 111)))
    counted = changed(weights.model, AvgPool, count_include_pad=True)
    assert error(our_logits(weights, images(107), model=counted), expected[0]) > 1e-6


def test_only_the_order_of_keras_numbers_counts():
    record = record_of("keras/InceptionV3")
    wanted = conversion.targets(record, record.build(10))
    assert {"conv2d_0/kernel", "conv2d_93/kernel", "batch_normalization_93/beta"} < set(wanted)
    assert "batch_normalization_0/gamma" not in wanted
    arrays = {name: np.broadcast_to(np.float32(0), target.stored) for name, target in wanted.items()}

    def renamed(name, shift):
        layer, _, leaf = name.partition("/")
        kind, _, number = layer.rpartition("_")
        if not number.isdigit():
            return name
        number = int(number) + shift
        return f"{kind}_{number}/{leaf}" if number else f"{kind}/{leaf}"

    for shift in (0, 1, 188):
        file = {renamed(name, shift): array for name, array in arrays.items()}
        assert len(file) == len(arrays)
        assert conversion.usable(record, file) == arrays
