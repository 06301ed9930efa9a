"""EfficientNets: the weights of torchvision, timm and Keras give the outputs here that they give there.

Full comparison: B0 and V2-S of torchvision, of timm (B0 in both its forms) and of Keras, and B5 of torchvision, the
smallest with its batch norms; in float32 only B0, since deep networks with random weights amplify rounding. All those
of torchvision and timm are compared with modules on torch's meta device in names, shapes, and the options of their
norms and convolutions; the larger ones of Keras in names, shapes and the options of their norms.
"""

import math

import numpy as np
import pytest
from torchvision_peer import timm, torch, torchvision
from weights_peer import (
    LOGITS_TOLERANCE,
    changed,
    check_faults_are_seen,
    check_keras_facts,
    check_logits,
    check_options,
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

from jaxcnn.interop.records.efficientnet import keras_normalization
from jaxcnn.layers import Conv, count_parameters
from jaxcnn.models import catalog

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("float64")]

SIZES = (64, 75)
# Calibrated with few pixels a channel, the deep ones amplify rounding beyond the tolerance, in torch as here.
LARGER_SIZES = (128, 107)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
V1, V2 = tuple(f"b{i}" for i in range(8)), ("s", "m", "l")
TORCH = {
    **{f"torchvision/efficientnet_{name}": torchvision.models.get_model for name in V1},
    **{f"torchvision/efficientnet_v2_{name}": torchvision.models.get_model for name in V2},
    **{f"timm/efficientnet_{name}": timm.create_model for name in V1},
    **{f"timm/tf_efficientnet_{name}": timm.create_model for name in V1},
    **{f"timm/tf_efficientnetv2_{name}": timm.create_model for name in V2},
}


def test_weights_of_torchvision_give_its_logits(tmp_path):
    module = torchvision.models.efficientnet_b0(num_classes=10)
    check_torch_weights("torchvision/efficientnet_b0", module, tmp_path, SIZES)


@pytest.mark.parametrize("name", ["efficientnet_b0", "tf_efficientnet_b0"])
def test_weights_of_timm_give_its_logits(name, tmp_path):
    check_torch_weights(f"timm/{name}", timm.create_model(name, num_classes=10), tmp_path, SIZES)


@pytest.mark.parametrize(
    "name", ["torchvision/efficientnet_b5", "torchvision/efficientnet_v2_s", "timm/tf_efficientnetv2_s"]
)
def test_weights_of_deep_ones_give_the_same_logits(name, tmp_path):
    module = TORCH[name](name.split("/")[1], num_classes=10)
    # With these weights torch's own logits change by less than 1e-11 where the images change by 1e-15.
    weights = torch_weights(name, module, tmp_path, LARGER_SIZES[0], seed=2)
    for size in LARGER_SIZES:
        assert error(our_logits(weights, images(size)), torch_logits(module, images(size))) < LOGITS_TOLERANCE


@pytest.mark.parametrize("name", TORCH)
def test_names_shapes_and_options_are_all_those_of_torch(name):
    with torch.device("meta"):
        module = TORCH[name](name.split("/")[1])
    model = check_options(name, module)
    assert count_parameters(model) == sum(parameter.numel() for parameter in module.parameters())


def test_a_training_step_is_that_of_torchvision(tmp_path):
    module = torchvision.models.efficientnet_b0(num_classes=10)
    check_torch_training("torchvision/efficientnet_b0", module, tmp_path, 64)


def test_planted_faults_are_seen(tmp_path):
    module = torchvision.models.efficientnet_b0(num_classes=10)
    weights = torch_weights("torchvision/efficientnet_b0", module, tmp_path, 64)
    batch = images(64)
    check_faults_are_seen(
        weights,
        batch,
        torch_logits(module, batch),
        kernel="stage5/block1/depthwise/conv/kernel",
        bias="stage2/block0/squeeze_excite/expand/bias",
    )


def test_symmetric_padding_for_that_of_tensorflow_is_seen(tmp_path):
    module = timm.create_model("tf_efficientnet_b0", num_classes=10)
    weights = torch_weights("timm/tf_efficientnet_b0", module, tmp_path, 64)
    batch, symmetric = images(64), changed(weights.model, Conv, padding=lambda conv: conv.kernel_size[0] // 2)
    assert error(our_logits(weights, batch, model=symmetric), torch_logits(module, batch)) > 1e4 * LOGITS_TOLERANCE


def normalized(preprocessing, image):
    """Does to images of 0 to 255 what Keras' model does to them, in float64."""
    assert preprocessing.scale == 1
    return (image / 255 - np.array(preprocessing.mean)) / np.array(preprocessing.std)


def test_weights_of_keras_give_its_logits(tmp_path):
    weights, expected = keras_weights("keras/EfficientNetB0", tmp_path, SIZES)
    check_logits(weights, [normalized(weights.preprocessing, images(size)) for size in SIZES], expected)


def test_weights_of_keras_for_the_second_version_give_its_logits(tmp_path):
    weights, expected = keras_weights("keras/EfficientNetV2S", tmp_path, LARGER_SIZES, include_preprocessing=False)
    for size, logits in zip(LARGER_SIZES, expected, strict=True):
        assert error(our_logits(weights, images(size)), logits) < LOGITS_TOLERANCE


KERAS = {f"EfficientNet{name.upper()}": f"efficientnet_{name}" for name in V1[1:]}
KERAS |= {f"EfficientNetV2{name.upper()}": f"efficientnet_v2_{name}" for name in V2[1:]}


@pytest.fixture(scope="module")
def facts():
    return keras_facts(KERAS)


@pytest.mark.parametrize("name", KERAS)
def test_names_shapes_and_norms_are_all_those_of_keras(name, facts):
    model = check_keras_facts(f"keras/{name}", facts[name])
    assert count_parameters(model) == count_parameters(catalog.build(KERAS[name], 1000, (224, 224, 3)))


def keras_arrays(mean, variance):
    return {
        "normalization_1/mean": np.array(mean, np.float32),
        "normalization_1/variance": np.array(variance, np.float32),
        "normalization_1/count": np.array(0),
        "stem_conv/kernel": np.zeros((3, 3, 3, 32)),
    }


def test_published_files_of_keras_hold_deviations_in_the_place_of_variances():
    # What the model does to an image of 0 to 255 when it is built with the published weights.
    image = np.array([0.0, 100.0, 255.0])
    by_the_layer = (image / 255 - IMAGENET_MEAN) / np.sqrt(IMAGENET_STD)
    expected = by_the_layer * [1 / math.sqrt(deviation) for deviation in IMAGENET_STD]
    found = keras_normalization(keras_arrays(IMAGENET_MEAN, IMAGENET_STD), 300)
    np.testing.assert_allclose(normalized(found, image), expected, rtol=1e-6)
    assert found.resize_size == (300, 300)


def test_other_files_of_keras_hold_variances():
    found = keras_normalization(keras_arrays([0.1, 0.2, 0.3], [4.0, 9.0, 0.25]), 224)
    np.testing.assert_allclose(found.mean, [0.1, 0.2, 0.3], rtol=1e-6)
    np.testing.assert_allclose(found.std, [2.0, 3.0, 0.5])


def test_a_file_of_keras_without_moments_is_refused():
    with pytest.raises(
        ValueError, match=r"expected the arrays normalization/mean and normalization/variance .* got \[\]"
    ):
        keras_normalization({"stem_conv/kernel": np.zeros((3, 3, 3, 32))}, 224)
