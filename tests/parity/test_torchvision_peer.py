"""The weights that whole models are compared with show the mistakes that they are for."""

import copy

import numpy as np
import pytest
from torchvision_peer import calibrate, nn, timm, torch, torchvision

IMAGES = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 64, 64)))

BUILDERS = {
    "resnet18": lambda: torchvision.models.resnet18(num_classes=10),
    "densenet": lambda: torchvision.models.DenseNet(growth_rate=8, block_config=(2, 2, 2), num_classes=10),
    "mobilenet_v3_small": lambda: timm.create_model("mobilenetv3_small_050", num_classes=10),
    "squeezenet": lambda: torchvision.models.squeezenet1_1(num_classes=10),
    "convnext_atto": lambda: timm.create_model("convnext_atto", num_classes=10),
}


@pytest.fixture(scope="module")
def models():
    return {name: calibrate(build().double(), IMAGES, 1) for name, build in BUILDERS.items()}


def set_eps(factor):
    def change(module):
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eps *= factor

    return change


def drop_a_bias(module):
    last = [name for name, _ in module.named_parameters() if name.endswith("bias")][-1]
    nn.init.zeros_(module.get_parameter(last))


def swap_height_and_width(module):
    name = next(name for name, parameter in module.named_parameters() if parameter.ndim == 4)
    module.get_parameter(name).data = module.get_parameter(name).data.transpose(2, 3).contiguous()


@torch.no_grad()
def change_of_output(module, change):
    changed = copy.deepcopy(module)
    change(changed)
    expected = module(IMAGES)
    return float((changed(IMAGES) - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", BUILDERS)
def test_activations_keep_their_size(models, name):
    with torch.no_grad():
        outputs = models[name](IMAGES)
    assert 0.1 < outputs.abs().max() < 1000
    assert (outputs[0] - outputs[1]).abs().max() > 1e-3 * outputs.abs().max()


CHANGES = {
    "eps 1.001e-5": (set_eps(1.001), 5e-5),
    "eps 1e-4": (set_eps(10), 1e-2),
    "no bias": (drop_a_bias, 1e-3),
    "swapped axes": (swap_height_and_width, 1e-2),
}
WITHOUT_BATCH_NORM = ("squeezenet", "convnext_atto")


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        (name, mistake)
        for name in BUILDERS
        for mistake in CHANGES
        if name not in WITHOUT_BATCH_NORM or "eps" not in mistake
    ],
)
def test_a_mistake_shows(models, name, mistake):
    change, least = CHANGES[mistake]
    assert change_of_output(models[name], change) > least


def test_other_seeds_give_other_weights_and_the_same_seed_the_same(models):
    module = BUILDERS["resnet18"]().double()
    state = {key: value.clone() for key, value in calibrate(module, IMAGES, 1).state_dict().items()}
    assert all(torch.equal(value, state[key]) for key, value in models["resnet18"].state_dict().items())
    assert not torch.equal(calibrate(module, IMAGES, 2).fc.weight, state["fc.weight"])
