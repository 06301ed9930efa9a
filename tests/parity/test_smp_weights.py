"""Models of segmentation_models_pytorch give here, from the folder that `save_pretrained` writes, its outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torchvision_peer import calibrate, torch
from weights_peer import (
    GRADIENT_TOLERANCE,
    LOGITS_TOLERANCE,
    changed,
    channels_first,
    compare_training,
    error,
    forward,
    torch_arrays,
    torch_logits,
    with_leaf,
    without_chance,
)

import jaxcnn
from jaxcnn import batched
from jaxcnn.interop.files.paths import FileError
from jaxcnn.interop.files.smp_config import read_smp_config
from jaxcnn.interop.records.smp import smp_record
from jaxcnn.interop.weights import load_weights, save_torch
from jaxcnn.layers import BatchNorm, Conv, ConvTranspose, LayerNorm, Resize, count_parameters
from jaxcnn.models import catalog
from jaxcnn.models.segmentation.context import GridContext
from jaxcnn.models.segmentation.encoder_unet import UpBlock
from jaxcnn.tasks import Segmentation

smp = pytest.importorskip("segmentation_models_pytorch")
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.usefixtures("float64"),
    pytest.mark.filterwarnings("ignore:`timm-` encoders"),
]

OTHER_OPTIONS = {"decoder_attention_type": "scse", "decoder_interpolation": "bilinear"}
WITHOUT_NORM = {"decoder_use_norm": False}
OWN_NORM = {"decoder_use_norm": {"type": "batchnorm", "eps": 1e-3, "momentum": 0.03}}


def module_of(name, encoder="resnet18", **options):
    """Builds a model of the library with few classes and no downloaded weights."""
    return getattr(smp, name)(encoder, encoder_weights=None, **{"classes": 3, **options})


def saved(module, folder, size=64, *, seed=0):
    """Fills a module with calibrated weights in float64 and saves it as the library does."""
    channels = module.config["in_channels"]
    batch = np.random.default_rng(seed + 7).normal(size=(2, size, size, channels))
    calibrate(module.double(), channels_first(batch), seed)
    module.save_pretrained(folder)
    return folder


def check(module, folder, size=64):
    """Compares logits with those of the module, and returns our network."""
    network = jaxcnn.load(saved(module, folder, size))
    shape = (2, size, size + 32, module.config["in_channels"])
    batch = np.random.default_rng(1).normal(size=shape)
    logits = forward(network.layer)(network.params, network.state, jnp.asarray(batch))
    assert error(np.moveaxis(logits, -1, 1), torch_logits(module, batch)) < LOGITS_TOLERANCE
    return network


U_NETS = [
    ("Unet", {}),
    ("Unet", OTHER_OPTIONS | {"in_channels": 1, "classes": 1}),
    ("Unet", WITHOUT_NORM | {"encoder_depth": 3, "decoder_channels": (32, 24, 16)}),
    ("Unet", OWN_NORM | {"decoder_interpolation": "bicubic", "in_channels": 5, "activation": "softmax2d"}),
    ("UnetPlusPlus", {"decoder_channels": (48, 40, 32, 24, 16)}),
    ("UnetPlusPlus", OTHER_OPTIONS | {"encoder_depth": 4, "decoder_channels": (48, 40, 32, 16)}),
]


OTHERS = [
    ("FPN", "resnet18", {}),
    ("FPN", "tu-convnext_tiny", {"decoder_merge_policy": "cat", "decoder_interpolation": "bilinear"}),
    ("FPN", "resnet18", {"encoder_depth": 4, "upsampling": 2, "decoder_pyramid_channels": 48}),
    ("PSPNet", "resnet18", {}),
    ("PSPNet", "mobilenet_v2", {"encoder_depth": 5, "upsampling": 32, "psp_out_channels": 40} | WITHOUT_NORM),
    ("DeepLabV3Plus", "resnet18", {}),
    (
        "DeepLabV3Plus",
        "mobilenet_v2",
        {"encoder_output_stride": 8, "decoder_aspp_separable": False, "decoder_channels": 32},
    ),
    ("DeepLabV3Plus", "efficientnet-b0", {"decoder_atrous_rates": (2, 3, 5), "decoder_channels": 32}),
    ("UPerNet", "tu-convnext_tiny", {"decoder_channels": 32}),
    ("UPerNet", "resnet18", {"encoder_depth": 4} | OWN_NORM),
    ("Linknet", "resnet18", {}),
    ("Linknet", "vgg11_bn", {"encoder_depth": 4} | WITHOUT_NORM),
]


@pytest.mark.parametrize(("name", "encoder", "options"), OTHERS)
def test_every_architecture_gives_the_outputs_of_the_library(name, encoder, options, tmp_path):
    # The coarsest map has 6x6 pixels at the least, so that the grids of the context differ from each other.
    check(module_of(name, encoder, **options), tmp_path, 192 if name in ("PSPNet", "UPerNet") else 96)


NARROW = {"decoder_channels": (32, 24, 20, 18, 16)}
TRAINED = [
    ("Unet", "resnet18", OTHER_OPTIONS | NARROW),
    ("Unet", "efficientnet-b0", NARROW),
    ("UnetPlusPlus", "resnet18", NARROW),
    ("FPN", "resnet18", {}),
    ("PSPNet", "resnet18", {}),
    ("DeepLabV3Plus", "resnet18", {"decoder_channels": 32}),
    ("UPerNet", "resnet18", {"decoder_channels": 32}),
    ("Linknet", "resnet18", {}),
]


@pytest.mark.parametrize(("name", "encoder", "options"), TRAINED)
def test_a_training_step_is_that_of_the_library(name, encoder, options, tmp_path):
    module = module_of(name, encoder, **options)
    network = jaxcnn.load(saved(module, tmp_path))
    for part in module.modules():
        if hasattr(part, "_drop_connect_rate"):
            part._drop_connect_rate = 0.0
        if isinstance(part, torch.nn.modules.dropout._DropoutNd):
            part.p = 0.0
    x = np.random.default_rng(1).normal(size=(4, 64, 64, 3))
    expected = module.train()(channels_first(x))
    scales = np.random.default_rng(2).normal(size=expected.shape)
    torch.sum(torch.from_numpy(scales) * expected).backward()
    model = without_chance(network.layer)

    @jax.jit
    def step(params, state):
        def loss(params):
            logits, new_state = batched(model)(params, state, jnp.asarray(x), train=True, key=jax.random.key(0))
            logits = jnp.moveaxis(logits, -1, 1)
            return jnp.sum(scales * logits), (logits, new_state)

        return jax.grad(loss, has_aux=True)(params)

    gradients, (logits, new_state) = step(network.params, network.state)
    assert error(logits, expected.detach().numpy()) < GRADIENT_TOLERANCE
    unused = [name for name, parameter in module.named_parameters() if parameter.grad is None]
    for name in unused:
        module.get_parameter(name).grad = torch.zeros_like(module.get_parameter(name))
    record = smp_record(read_smp_config(tmp_path / "config.json"))
    assert all(map(record.ignores, unused))
    arrays = torch_arrays(module)
    compare_training(record, model, gradients, new_state, arrays)


@pytest.mark.parametrize(("name", "options"), U_NETS)
def test_a_folder_gives_the_outputs_of_the_library(name, options, tmp_path):
    network = check(module_of(name, **options), tmp_path)
    classes = options.get("classes", 3)
    assert network.task == (Segmentation(classes) if classes > 1 and "activation" not in options else None)
    assert network.preprocessing is None


ENCODERS = [
    "mobilenet_v2",
    "efficientnet-b0",
    "efficientnet-b1",
    "timm-efficientnet-b0",
    "vgg11_bn",
    "densenet121",
    "tu-convnext_tiny",
]
ENCODERS += ["tu-regnety_004", "tu-mobilenetv2_100.ra_in1k", "tu-tf_efficientnet_b0", "resnext50_32x4d"]
MORE_ENCODERS = [
    "resnet34",
    "resnet50",
    "vgg13",
    "densenet169",
    "efficientnet-b3",
    "efficientnet-b4",
]
MORE_ENCODERS += ["timm-efficientnet-b2", "tu-resnet34", "tu-efficientnet_b0", "tu-regnetx_008", "tu-wide_resnet50_2"]


@pytest.mark.parametrize(
    "encoder", [*ENCODERS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE_ENCODERS)]
)
def test_every_family_of_encoders_gives_the_outputs_of_the_library(encoder, tmp_path):
    check(module_of("Unet", encoder, decoder_channels=(32, 24, 20, 18, 16)), tmp_path)


def test_planted_faults_are_seen(tmp_path):
    module = module_of("Unet", "resnet18", **OTHER_OPTIONS)
    network = jaxcnn.load(saved(module, tmp_path))
    batch = np.random.default_rng(1).normal(size=(2, 64, 96, 3))
    expected, params = torch_logits(module, batch), network.params
    kernel, gate = "decoder/block1/conv2/conv/kernel", "decoder/block2/attention1/shortcut/conv/bias"
    planted = {
        "epsilon": (changed(network.layer, BatchNorm, epsilon=1.001e-5), params),
        "method": (changed(network.layer, UpBlock, method="nearest"), params),
        "padding": (changed(network.layer, Conv, padding=lambda conv: "SAME"), params),
        "kernel": (network.layer, with_leaf(params, kernel, lambda leaf: jnp.swapaxes(leaf, 0, 1))),
        "gate": (network.layer, with_leaf(params, gate, jnp.zeros_like)),
    }
    for what, (model, params) in planted.items():
        logits = forward(model)(params, network.state, jnp.asarray(batch))
        assert error(np.moveaxis(logits, -1, 1), expected) > 1e4 * LOGITS_TOLERANCE, what


FAULTS = {
    "FPN": lambda model: changed(model, Resize, align_corners=False),
    "PSPNet": lambda model: changed(model, GridContext, align_corners=False),
    # A stage whose strides are replaced, but whose kernels are not spread out.
    "DeepLabV3Plus": lambda model: changed(
        model,
        Conv,
        dilation=lambda conv: 1 if conv.dilation == (2, 2) else conv.dilation,
        padding=lambda conv: 1 if conv.dilation == (2, 2) and conv.kernel_size == (3, 3) else conv.padding,
    ),
    "UPerNet": lambda model: changed(model, LayerNorm, epsilon=1e-5),
    "Linknet": lambda model: changed(model, ConvTranspose, padding=lambda conv: ((2, 0), (1, 1))),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_faults_of_every_architecture_are_seen(name, tmp_path):
    module = module_of(name, "resnet18")
    network = jaxcnn.load(saved(module, tmp_path))
    batch = np.random.default_rng(1).normal(size=(1, 96, 96, 3))
    model = FAULTS[name](network.layer)
    logits = forward(model)(network.params, network.state, jnp.asarray(batch))
    assert error(np.moveaxis(logits, -1, 1), torch_logits(module, batch)) > 1e3 * LOGITS_TOLERANCE


def test_even_sides_of_an_efficientnet_for_those_of_its_own_size_are_seen(tmp_path):
    module = module_of("Unet", "efficientnet-b1", decoder_channels=(32, 24, 20, 18, 16))
    network = jaxcnn.load(saved(module, tmp_path))
    batch = np.random.default_rng(1).normal(size=(2, 64, 64, 3))
    same = changed(network.layer, Conv, padding=lambda conv: "SAME" if conv.groups > 1 else conv.padding)
    logits = forward(same)(network.params, network.state, jnp.asarray(batch))
    assert error(np.moveaxis(logits, -1, 1), torch_logits(module, batch)) > 1e4 * LOGITS_TOLERANCE


@pytest.mark.parametrize("name", ["unet_resnet18", "unet_efficientnet_b0"])
def test_weights_go_to_the_library_and_come_back(name, tmp_path):
    """The library takes all names, also of what it builds and does not use; and a bare file names no model."""
    model = catalog.build(name, 4)
    params, state = model.init(jax.random.key(0))
    encoder = {"unet_resnet18": "resnet18", "unet_efficientnet_b0": "timm-efficientnet-b0"}[name]
    path, architecture = tmp_path / "weights.pth", f"smp/Unet-{encoder}"
    save_torch(path, model, params, state, architecture=architecture)
    module = module_of("Unet", encoder, classes=4)
    module.load_state_dict(torch.load(path, weights_only=True))
    back = load_weights(name, path, architecture=architecture)
    assert back.model == model
    jax.tree.map(np.testing.assert_array_equal, (back.params, back.state), (params, state))
    if name == "unet_resnet18":
        network = jaxcnn.load(path, model=name)
        assert (network.layer, network.task) == (model, Segmentation(4))
        batch = np.random.default_rng(1).normal(size=(1, 64, 64, 3)).astype(np.float32)
        assert error(np.moveaxis(network(batch), -1, 1), torch_logits(module, batch)) < 1e-4
        with pytest.raises(FileError, match="expected a source that names its model, got"):
            jaxcnn.load(path)


def test_a_folder_of_another_model_or_number_of_classes_is_refused(tmp_path):
    folder = saved(module_of("Unet", "resnet18"), tmp_path)
    with pytest.raises(
        FileError, match=r"expected weights of 'unet_resnet34' .*, got smp/Unet-resnet18; smp/Unet-resnet18"
    ):
        jaxcnn.load(folder, model="unet_resnet34")
    path = folder / "config.json"
    text = path.read_text()
    path.write_text(text.replace('"classes": 3', '"classes": 4'))
    with pytest.raises(
        FileError, match=r"has a config.json for 3 channels and 4 classes, and weights for 3 .* 3 classes"
    ):
        jaxcnn.load(folder)
    path.write_text(text.replace('"encoder_name": "resnet18"', '"encoder_name": "senet154"'))
    with pytest.raises(FileError, match="expected an encoder that is known here, got 'senet154'"):
        jaxcnn.load(folder)
    path.write_text(text.replace('"encoder_weights": null', '"encoder_weights": "imagenet"'))
    assert jaxcnn.load(folder).preprocessing.crop_size is None


def parameters_of(module):
    return sum(parameter.numel() for parameter in module.parameters())


SIZES = {
    ("Unet", "resnet34"): ("unet_resnet34", 24_436_369),
    ("UnetPlusPlus", "resnet34"): ("unet_plus_plus_resnet34", 26_078_609),
    ("FPN", "resnet34"): ("fpn_resnet34", 23_155_393),
    ("DeepLabV3Plus", "resnet50"): ("deeplabv3_plus_resnet50", 26_677_585),
    ("UPerNet", "tu-convnext_tiny"): ("upernet_convnext_tiny", 37_043_873),
    ("Linknet", "resnet34"): ("linknet_resnet34", 21_771_937),
}
"""The model of the catalog, and its parameters with one class."""


@pytest.mark.parametrize("key", SIZES)
def test_parameters_are_as_many_as_in_the_library(key):
    name, parameters = SIZES[key]
    with torch.device("meta"):
        module = module_of(*key, classes=1)
    assert parameters_of(module) == count_parameters(catalog.build(name, 1)) == parameters


def test_the_unused_stages_of_a_psp_net_are_left_out():
    with torch.device("meta"):
        module = module_of("PSPNet", "resnet34")
    unused = parameters_of(module.encoder.layer3) + parameters_of(module.encoder.layer4)
    assert parameters_of(module) - unused == count_parameters(catalog.build("pspnet_resnet34", 3))
