"""Pretrained stems for other numbers of channels: the conversion of timm gives the logits here that it gives there."""

import numpy as np
import pytest
from torchvision_peer import timm, torch
from weights_peer import error, images, our_logits, record_of, torch_logits, torch_weights

from jaxcnn.interop.weights import load_weights

pytestmark = pytest.mark.usefixtures("float64")

# timm converts in float32, and networks amplify its rounding.
TOLERANCE = 1e-5
STEMS = {"resnet18": "conv1.weight", "mobilenetv3_small_100": "conv_stem.weight"}


@pytest.mark.parametrize("name", STEMS)
def test_a_stem_for_other_channels_is_that_of_timm(name, tmp_path):
    size, of_colours = 64, timm.create_model(name, num_classes=5)
    torch_weights(f"timm/{name}", of_colours, tmp_path, size)
    for channels in (1, 2, 4, 7):
        arrays = dict(of_colours.state_dict())
        arrays[STEMS[name]] = timm.models.adapt_input_conv(channels, arrays[STEMS[name]])
        module = timm.create_model(name, num_classes=5, in_chans=channels).double()
        module.load_state_dict(arrays)
        weights = load_weights(
            record_of(f"timm/{name}").model, tmp_path / "weights.pth", architecture=f"timm/{name}", in_channels=channels
        )
        batch = np.random.default_rng(channels).normal(size=(2, size, size, channels))
        assert error(our_logits(weights, batch), torch_logits(module, batch)) < TOLERANCE


def test_the_stem_of_a_grey_model_takes_colours(tmp_path):
    grey = timm.create_model("resnet18", num_classes=5, in_chans=1).double()
    torch.save(grey.state_dict(), tmp_path / "weights.pth")
    weights = load_weights("resnet18", tmp_path / "weights.pth", architecture="timm/resnet18", in_channels=3)
    batch = images(64)
    # Three equal channels of a third each are the sum of one.
    expected = torch_logits(grey, np.mean(batch, axis=-1, keepdims=True))
    assert error(our_logits(weights, batch), expected) < TOLERANCE
