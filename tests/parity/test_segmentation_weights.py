"""FCN, DeepLabV3 and Lite R-ASPP: the weights of torchvision give the outputs here that they give there.

Full comparison of fcn_resnet50, deeplabv3_mobilenet_v3_large and lraspp_mobilenet_v3_large. Those of ResNet-101 and
deeplabv3_resnet50 are compared in names, shapes, and the options of their norms and convolutions; the decoder of
DeepLabV3, whose dilations do not show on small maps, with a small backbone on a map of 45x40.
"""

import dataclasses
from collections import OrderedDict

import pytest
import weights_peer
from torchvision_peer import nn, timm, torch, torchvision, with_exact_hard_sigmoid
from weights_peer import (
    LOGITS_TOLERANCE,
    changed,
    check_faults_are_seen,
    check_logits,
    check_options,
    check_torch_training,
    check_torch_weights,
    error,
    images,
    our_logits,
    record_of,
    torch_logits,
    torch_weights,
)

from jaxcnn.interop import weights as weights_module
from jaxcnn.interop.preprocessing import Preprocessing
from jaxcnn.interop.records.record import Rules
from jaxcnn.interop.weights import load_weights, save_torch
from jaxcnn.layers import Backbone, BatchNorm, Conv, Sequential, count_parameters
from jaxcnn.models.segmentation import lraspp
from jaxcnn.models.segmentation.deeplab import deeplabv3
from jaxcnn.ops.resizing import resize
from jaxcnn.values import Partial

pytestmark = pytest.mark.usefixtures("float64")

DEEP = [pytest.mark.slow, pytest.mark.heavy("segmentation")]
PARAMETERS = {
    "fcn_resnet50": 35_322_218,
    "fcn_resnet101": 54_314_346,
    "deeplabv3_resnet50": 42_004_074,
    "deeplabv3_resnet101": 60_996_202,
    "deeplabv3_mobilenet_v3_large": 11_029_328,
    "lraspp_mobilenet_v3_large": 3_221_538,
}
WITHOUT_AUX = {"fcn_resnet50": 32_957_013, "deeplabv3_resnet50": 39_638_869, "deeplabv3_mobilenet_v3_large": 11_025_477}


def plain(module):
    """Makes a model of torchvision return logits, channels last: in training those of all heads stacked."""
    inner = module.forward

    def forward(x):
        results = {name: y.movedim(1, -1) for name, y in inner(x).items()}
        return torch.stack(list(results.values()), 1) if module.training and len(results) > 1 else results["out"]

    module.forward = forward
    return with_exact_hard_sigmoid(module)


def built(name, num_classes=5, **options):
    if name != "lraspp_mobilenet_v3_large":
        options = {"aux_loss": True, **options}
    build = getattr(torchvision.models.segmentation, name)
    return build(weights=None, weights_backbone=None, num_classes=num_classes, **options)


@pytest.mark.parametrize("name", PARAMETERS)
def test_names_shapes_and_options_are_those_of_torchvision(name):
    with torch.device("meta"):
        module = built(name, 21)
    model = check_options(f"torchvision/{name}", module, 21)
    assert count_parameters(model) == PARAMETERS[name] == sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("fcn_resnet50", marks=DEEP),
        pytest.param("deeplabv3_mobilenet_v3_large", marks=DEEP),
        "lraspp_mobilenet_v3_large",
    ],
)
def test_weights_of_torchvision_give_its_logits(name, tmp_path):
    weights = check_torch_weights(f"torchvision/{name}", plain(built(name)), tmp_path, (64, (75, 90)))
    assert weights.preprocessing == Preprocessing(520, None)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("fcn_resnet50", marks=DEEP),
        pytest.param("deeplabv3_mobilenet_v3_large", marks=DEEP),
        "lraspp_mobilenet_v3_large",
    ],
)
def test_a_training_step_of_all_heads_is_that_of_torchvision(name, tmp_path):
    check_torch_training(f"torchvision/{name}", plain(built(name)), tmp_path, 64)


@pytest.mark.parametrize("name", WITHOUT_AUX)
def test_weights_fit_with_and_without_the_auxiliary_head(name, tmp_path):
    module = built(name, 21, aux_loss=False)
    torch.save(module.state_dict(), tmp_path / "weights.pth")
    model, params, state, _ = load_weights(name, tmp_path / "weights.pth")
    assert model.aux is None
    assert count_parameters(model) == WITHOUT_AUX[name] == sum(p.numel() for p in module.parameters())
    save_torch(tmp_path / "back.pth", model, params, state, architecture=f"torchvision/{name}")
    module.load_state_dict(torch.load(tmp_path / "back.pth", weights_only=True))


def small_torch(num_classes=5):
    """DeepLabV3 of torchvision, with two convolutions as its backbone."""
    parts = OrderedDict(layer3=nn.Conv2d(3, 6, 3, padding=1), layer4=nn.Conv2d(6, 8, 3, padding=1))
    backbone = torchvision.models._utils.IntermediateLayerGetter(
        nn.Sequential(parts), {"layer4": "out", "layer3": "aux"}
    )
    heads = torchvision.models.segmentation
    return plain(
        heads.deeplabv3.DeepLabV3(
            backbone, heads.deeplabv3.DeepLabHead(8, num_classes), heads.fcn.FCNHead(6, num_classes)
        )
    )


def small(num_classes=5, *, in_channels=3):
    """The same model here."""
    backbone = Sequential(layer3=Conv(in_channels, 6, padding=1), layer4=Conv(6, 8, padding=1))
    return deeplabv3(Backbone(backbone, ["layer3", "layer4"]), num_classes)


@pytest.fixture
def small_record(monkeypatch):
    """Puts the small backbone in the place of ResNet-50 in the record of DeepLabV3."""
    record = record_of("torchvision/deeplabv3_resnet50")
    names = dataclasses.replace(record.names, classifier=Rules("torchvision", ((r"(layer\d)", r"\1"),)))
    records = (dataclasses.replace(record, build=small, names=names),)
    monkeypatch.setattr(weights_module, "RECORDS", records)
    monkeypatch.setattr(weights_peer, "RECORDS", records)
    return record.name


def test_the_pyramid_of_deeplab_is_that_of_torchvision(small_record, tmp_path):
    module = small_torch()
    weights = torch_weights(small_record, module, tmp_path, (45, 40))
    batch = images((45, 40))
    expected = torch_logits(module, batch)
    check_logits(weights, [batch], [expected])
    for rate in (12, 24, 36):
        planted = changed(
            weights.model,
            Conv,
            dilation=lambda conv, rate=rate: rate - 1 if conv.dilation == (rate, rate) else conv.dilation,
            padding=lambda conv, rate=rate: rate - 1 if conv.dilation == (rate, rate) else conv.padding,
        )
        assert error(our_logits(weights, batch, model=planted), expected) > 1e-4


def test_a_training_step_of_the_pyramid_is_that_of_torchvision(small_record, tmp_path):
    check_torch_training(small_record, small_torch(), tmp_path, (45, 40), batch=2)


def test_planted_faults_are_seen(small_record, tmp_path):
    module = small_torch()
    weights, batch = torch_weights(small_record, module, tmp_path, (45, 40)), images((45, 40))
    expected = torch_logits(module, batch)
    check_faults_are_seen(
        weights, batch, expected, kernel="decoder/last/conv/kernel", bias="decoder/project/norm/bias", same=False
    )


def test_planted_faults_of_whole_models_are_seen(tmp_path, monkeypatch):
    name = "torchvision/lraspp_mobilenet_v3_large"
    module = plain(built("lraspp_mobilenet_v3_large"))
    weights, batch = torch_weights(name, module, tmp_path, 64), images(64)
    expected = torch_logits(module, batch)
    assert error(our_logits(weights, batch), expected) < LOGITS_TOLERANCE
    # The epsilon of the backbone is not that of the layers after it.
    for epsilon in (1e-3, 1e-5):
        planted = changed(weights.model, BatchNorm, epsilon=epsilon)
        assert error(our_logits(weights, batch, model=planted), expected) > 1e-6
    # The first block of the dilated stage has dilation 2 in MobileNetV3, and that of the stage before it in ResNet.
    first = weights.model["stage6/block0/depthwise/conv"]
    undilated = dataclasses.replace(first, dilation=1, padding=2)
    planted = weights.model.replace({"stage6/block0/depthwise/conv": undilated})
    assert error(our_logits(weights, batch, model=planted), expected) > 1e-4
    monkeypatch.setattr(lraspp, "resize", Partial(resize, align_corners=True))
    assert error(our_logits(weights, batch), expected) > 1e-4


@pytest.mark.parametrize("output_stride", [pytest.param(8, marks=DEEP), 16])
@pytest.mark.parametrize("name", ["resnet18", pytest.param("resnet50", marks=DEEP)])
def test_dilated_resnets_are_those_of_timm(name, output_stride, tmp_path, monkeypatch):
    record = record_of(f"timm/{name}")
    records = (dataclasses.replace(record, build=Partial(record.build, output_stride=output_stride)),)
    monkeypatch.setattr(weights_module, "RECORDS", records)
    monkeypatch.setattr(weights_peer, "RECORDS", records)
    module = timm.create_model(name, num_classes=5, output_stride=output_stride)
    weights, batch = torch_weights(record.name, module, tmp_path, 64), images((64, 75))
    expected = torch_logits(module, batch)
    assert error(our_logits(weights, batch), expected) < LOGITS_TOLERANCE
    # The first block of a dilated stage has the dilation of the stage before.
    block = "stage4/block0/conv1" if name == "resnet18" else "stage4/block0/conv2"
    dilation = 32 // output_stride
    conv = dataclasses.replace(weights.model[block], dilation=dilation, padding=dilation)
    assert error(our_logits(weights, batch, model=weights.model.replace({block: conv})), expected) > 1e-4
