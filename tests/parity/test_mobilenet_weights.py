"""MobileNet v1 to v3: the weights of torchvision, timm and Keras give the outputs here that they give there.

Full comparison of all, but for timm's mobilenetv3_large_100 and tf_mobilenetv3_large_100, which are compared in names,
shapes, and the options of their norms and convolutions, and whose blocks are those of the small ones.
"""

import pytest
from torchvision_peer import timm, torch, torchvision, with_exact_hard_sigmoid
from weights_peer import (
    LOGITS_TOLERANCE,
    changed,
    check_faults_are_seen,
    check_keras_weights,
    check_options,
    check_torch_training,
    check_torch_weights,
    error,
    images,
    our_logits,
    torch_logits,
    torch_weights,
)

from jaxcnn.layers import Conv

pytestmark = pytest.mark.usefixtures("float64")

SIZES = (64, 75)
TORCHVISION = ("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large")
TIMM = ("mobilenetv2_100", "mobilenetv3_small_100", "tf_mobilenetv3_small_100")


@pytest.mark.parametrize("name", TORCHVISION)
def test_weights_of_torchvision_give_its_logits(name, tmp_path):
    module = torchvision.models.get_model(name, weights=None, num_classes=10)
    check_torch_weights(f"torchvision/{name}", module, tmp_path, SIZES)


@pytest.mark.parametrize("name", TIMM)
def test_weights_of_timm_give_its_logits(name, tmp_path):
    check_torch_weights(f"timm/{name}", timm.create_model(name, num_classes=10), tmp_path, SIZES)


@pytest.mark.parametrize("name", [*TIMM, "mobilenetv3_large_100", "tf_mobilenetv3_large_100"])
def test_names_shapes_and_options_are_those_of_timm(name):
    with torch.device("meta"):
        check_options(f"timm/{name}", timm.create_model(name))


@pytest.mark.parametrize("name", TORCHVISION)
def test_names_shapes_and_options_are_those_of_torchvision(name):
    with torch.device("meta"):
        check_options(f"torchvision/{name}", torchvision.models.get_model(name))


def test_a_training_step_is_that_of_torchvision(tmp_path):
    module = with_exact_hard_sigmoid(torchvision.models.mobilenet_v3_small(num_classes=10))
    check_torch_training("torchvision/mobilenet_v3_small", module, tmp_path, 64)


def test_planted_faults_are_seen(tmp_path):
    module = torchvision.models.mobilenet_v3_small(num_classes=10)
    weights = torch_weights("torchvision/mobilenet_v3_small", module, tmp_path, 64)
    batch = images(64)
    check_faults_are_seen(
        weights,
        batch,
        torch_logits(module, batch),
        kernel="stage4/block1/depthwise/conv/kernel",
        bias="stage3/block2/squeeze_excite/reduce/bias",
    )


def test_symmetric_padding_for_that_of_tensorflow_is_seen(tmp_path):
    module = timm.create_model("tf_mobilenetv3_small_100", num_classes=10)
    weights = torch_weights("timm/tf_mobilenetv3_small_100", module, tmp_path, 64)
    batch, symmetric = images(64), changed(weights.model, Conv, padding=lambda conv: conv.kernel_size[0] // 2)
    assert error(our_logits(weights, batch, model=symmetric), torch_logits(module, batch)) > 1e4 * LOGITS_TOLERANCE


@pytest.mark.parametrize("name", ["MobileNet", "MobileNetV2", "MobileNetV3Small", "MobileNetV3Large"])
@pytest.mark.heavy
def test_weights_of_keras_give_its_logits(name, tmp_path):
    # The images are normalised already, which these models would do to those of 0 to 255.
    options = {"include_preprocessing": False} if "V3" in name else {}
    check_keras_weights(f"keras/{name}", tmp_path, SIZES, **options)
