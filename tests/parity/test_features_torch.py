"""Features by name: what torchvision's own feature extractor and the hooks of torch return at the same places."""

import jax
import numpy as np
import pytest
from torchvision_peer import torch, torchvision
from weights_peer import channels_first, error, images, torch_weights

from jaxcnn.layers import batched_features

pytestmark = pytest.mark.usefixtures("float64")

# Names here and there, in no order; none is the input of a relu of torchvision, which works in place.
NODES = {
    "stage4": "layer4",
    "stage2": "layer2",
    "stage2/block0/shortcut": "layer2.0.downsample",
    "stem": "maxpool",
    "stage3/block1": "layer3.1",
    "stage3/block1/conv2": "layer3.1.conv2",
    "pool": "flatten",
    "head": "fc",
}
SIZE = (64, 75)


@pytest.fixture(scope="module")
def module():
    return torchvision.models.resnet18(num_classes=10)


@pytest.fixture
def compared(module, tmp_path):
    weights, batch = torch_weights("torchvision/resnet18", module, tmp_path, SIZE), images(SIZE)

    def compare(nodes):
        extract = jax.jit(lambda p, s, x: batched_features(weights.model, p, s, x, at=list(nodes)))
        ours = extract(weights.params, weights.state, batch)
        extractor = torchvision.models.feature_extraction.create_feature_extractor(module, list(nodes.values()))
        with torch.no_grad():
            theirs = extractor.eval()(channels_first(batch))
        return {path: error(ours[path], channels_last(theirs[node])) for path, node in nodes.items()}

    return compare


def channels_last(tensor):
    return np.moveaxis(tensor.numpy(), 1, -1)


def test_features_are_those_of_torchvision_and_a_neighbour_is_not(compared):
    assert max(compared(NODES).values()) < 1e-10
    # Planted faults: the next convolution, the next block, and what comes after the relu.
    wrong = {"stage2/block0/conv1": "layer2.0.conv2", "stage3/block0": "layer3.1", "stem/norm": "relu"}
    assert min(compared(wrong).values()) > 1e-2


def test_features_are_what_hooks_see(module, tmp_path):
    weights, batch, seen = torch_weights("torchvision/resnet18", module, tmp_path, SIZE), images(SIZE), {}
    nodes = {"stage1/block1/norm1": "layer1.1.bn1", "stage2/block0/shortcut/conv": "layer2.0.downsample.0"}
    hooks = [
        # A copy: torch's relus work in place.
        module.get_submodule(name).register_forward_hook(lambda m, x, y, path=path: seen.update({path: y.clone()}))
        for path, name in nodes.items()
    ]
    with torch.no_grad():
        module.eval()(channels_first(batch))
    for hook in hooks:
        hook.remove()
    ours = batched_features(weights.model, weights.params, weights.state, batch, at=list(nodes))
    for path, feature in ours.items():
        assert error(feature, channels_last(seen[path])) < 1e-10
