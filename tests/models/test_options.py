"""One vocabulary of options over all families: each changes what it names, and nothing else."""

import dataclasses
import functools
import inspect
import re

import jax
import jax.numpy as jnp
import pytest
from catalog_members import members

from jaxcnn import models, ops
from jaxcnn.layers import BatchNorm, Conv, DropPath, Function, GroupNorm, LayerNorm, identity
from jaxcnn.layers.composite import layer_paths
from jaxcnn.models import catalog
from jaxcnn.models.blocks import build_stages, conv_norm, drop_path_rates, zero_scaled
from jaxcnn.models.convnext import convnext
from jaxcnn.models.densenet import densenet
from jaxcnn.models.efficientnet import Stage, efficientnet
from jaxcnn.models.mobilenet import V3Block, mobilenet_v3
from jaxcnn.models.regnet import LinearRule, regnet
from jaxcnn.models.resnet import basic_block, bottleneck_block, resnet, resnet_v1
from jaxcnn.models.resnet_v2 import resnet_v2
from jaxcnn.models.shufflenet import shufflenet_v2
from jaxcnn.values import Partial

RELU, GELU, SILU, RELU6 = (Function(getattr(jax.nn, name)) for name in ("relu", "gelu", "silu", "relu6"))
TANH = Function(jnp.tanh)
WHOLE = Partial(GroupNorm, num_groups=1)

SMALL_TABLE = ((V3Block(3, 16, 16, True, RELU, 2),), (V3Block(5, 72, 24, False, SILU, 2),))

# The smallest member of each family with its image size and the activation that its option replaces.
FAMILIES = {
    "mlp": (Partial(models.mlp, image_size=8), 8, RELU),
    "lenet5": (Partial(models.lenet5, image_size=16), 16, RELU),
    "small_cnn": (Partial(models.small_cnn, image_size=8), 8, RELU),
    "whitened_cnn": (Partial(models.whitened_cnn, widths=(4, 6, 8)), 9, Function(ops.gelu)),
    "alexnet": (models.alexnet, 63, RELU),
    "vgg": (models.vgg11_bn, 32, RELU),
    "squeezenet": (models.squeezenet1_1, 32, RELU),
    "googlenet": (models.googlenet, 32, RELU),
    "inception": (models.inception_v3, 75, RELU),
    "resnet": (functools.partial(resnet, bottleneck_block, (1, 2, 1, 1)), 32, RELU),
    "resnet, small images": (functools.partial(resnet, basic_block, (1, 1, 1, 1), stem="cifar"), 8, RELU),
    "resnet_v1": (functools.partial(resnet_v1, (1, 1, 1, 1)), 16, RELU),
    "resnet_v2": (functools.partial(resnet_v2, (2, 1)), 16, RELU),
    "cifar_resnet": (functools.partial(models.cifar_resnet, 14), 8, RELU),
    "wide_resnet": (functools.partial(models.wide_resnet, 10, 1), 8, RELU),
    "mobilenet_v1": (models.mobilenet_v1, 32, RELU6),
    "mobilenet_v2": (models.mobilenet_v2, 32, RELU6),
    "mobilenet_v3": (functools.partial(mobilenet_v3, SMALL_TABLE, 16), 32, None),
    "efficientnet": (
        functools.partial(efficientnet, (Stage(True, 4, 3, 1, 16, 2), Stage(False, 6, 3, 2, 24, 2)), 16, 32),
        16,
        SILU,
    ),
    "xception": (models.xception, 32, RELU),
    "convnext": (functools.partial(convnext, (1, 2), (8, 16)), 16, None),
    "densenet": (functools.partial(densenet, (2, 1), 4, 8), 32, RELU),
    "shufflenet": (functools.partial(shufflenet_v2, (4, 6, 8), 16), 32, RELU),
    "regnet": (functools.partial(regnet, LinearRule(3, 8, 8.0, 2.0, 4), squeeze=True), 16, RELU),
    "unet": (Partial(models.unet, width=4, depth=2), 8, RELU),
    "unet_2015": (Partial(models.unet_2015, width=4, depth=2), 44, RELU),
}
WITHOUT_NORM = {"unet_2015", "mlp", "lenet5", "small_cnn", "alexnet", "squeezenet"}
DEEP = {"googlenet", "inception", "mobilenet_v2", "shufflenet", "xception"}
WITH_DROP_PATH = {"resnet", "resnet, small images", "resnet_v1", "cifar_resnet", "efficientnet", "convnext"}


def text(model):
    """Writes a model on one line, without trailing commas."""
    return re.sub(r",(?=\))", "", re.sub(r"\s", "", repr(model)))


def drop_paths(model):
    return [model[path].rate for path in layer_paths(model) if isinstance(model[path], DropPath)]


@pytest.mark.parametrize("family", FAMILIES)
def test_another_norm_takes_the_place_of_each_norm(family):
    build, _, _ = FAMILIES[family]
    if family in WITHOUT_NORM:
        with pytest.raises(TypeError, match="norm"):
            build(norm=WHOLE)
        return
    # The pooled features of a ConvNeXt have a layer norm of their own.
    of_maps = r"(?:Batch|(?<!pool=GlobalAvgPool\(\),norm=)Layer)Norm\((\d+)[^()]*\)"
    expected, count = re.subn(of_maps, r"GroupNorm(\1,num_groups=1)", text(build()))
    assert text(build(norm=WHOLE)) == expected
    assert count > 3


@pytest.mark.parametrize("family", FAMILIES)
def test_another_activation_takes_the_place_of_each_activation(family):
    build, _, default = FAMILIES[family]
    if family == "mobilenet_v3":
        with pytest.raises(TypeError, match="activation"):
            build(activation=TANH)
        return
    default = build()["stage1/block0/gelu"] if family == "convnext" else default
    assert text(build(activation=TANH)) == text(build()).replace(text(default), text(TANH)) != text(build())


@pytest.mark.parametrize("family", FAMILIES)
def test_drop_path_rises_from_the_first_block_to_the_last(family):
    build, _, _ = FAMILIES[family]
    if family not in WITH_DROP_PATH:
        with pytest.raises(TypeError, match="drop_path"):
            build(drop_path=0.1)
        return
    rates = drop_paths(build(drop_path=0.4))
    assert rates == sorted(rates)
    # The last block of an EfficientNet of n blocks has (n - 1) / n of the rate, as in the paper's code.
    assert rates[-1] == pytest.approx(0.4 * 3 / 4 if family == "efficientnet" else 0.4)
    assert max(drop_paths(build(drop_path=0.0)), default=0.0) == 0.0
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        build(drop_path=1.0)


@pytest.mark.parametrize(
    "family", [pytest.param(family, marks=[pytest.mark.slow] if family in DEEP else []) for family in FAMILIES]
)
def test_a_model_with_other_options_takes_images_of_other_channels(family):
    build, size, _ = FAMILIES[family]
    options = {"activation": TANH, "norm": WHOLE, "drop_path": 0.1, "dropout_rate": 0.1}
    refused = set()
    for name, value in options.items():
        try:
            build(5, in_channels=2, **{name: value})
        except TypeError:
            refused.add(name)
    model = build(5, in_channels=2, **{name: value for name, value in options.items() if name not in refused})

    def run(key, x):
        return model.apply(*model.init(key), x, train=False)[0]

    image = jax.ShapeDtypeStruct((size, size, 2), jnp.float32)
    y = jax.eval_shape(run, jax.random.key(0), image)
    assert y.shape[-1] == 5


# The first convolution of `whitened_cnn` has as many filters as its patches have pixels and channels.
@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in ("mlp", "whitened_cnn")])
def test_other_channels_change_the_first_convolution_alone(family):
    build, _, _ = FAMILIES[family]
    model = build()
    stem = next(path for path in layer_paths(model) if isinstance(model[path], Conv))
    assert build(in_channels=7) == model.replace({stem: dataclasses.replace(model[stem], in_channels=7)})


def offered(function):
    names = set()
    for name, parameter in inspect.signature(function).parameters.items():
        unpacked = parameter.kind is inspect.Parameter.VAR_KEYWORD
        names |= set(parameter.annotation.__args__[0].__annotations__) if unpacked else {name}
    return names


# R-CNN is made of a classifier, which has these options.
@pytest.mark.parametrize(
    "name", members(name for name in models.__all__ if name not in ("lenet5_1998", "rcnn", "small_rcnn"))
)
def test_every_model_offers_the_options_of_its_family(name):
    function = getattr(models, name)
    common = {"num_classes", "in_channels"} | ({"activation"} if "mobilenet_v3" not in name else set())
    assert common <= offered(function)
    without_norm = ("mlp", "lenet", "small_cnn", "alexnet", "squeezenet", "unet_2015")
    assert ("norm" in offered(function)) == (not name.startswith(without_norm))
    # What the signature names, the model takes.
    values = {"activation": RELU, "norm": BatchNorm, "drop_path": 0.1, "dropout_rate": 0.1, "in_channels": 2}
    required = {"cifar_resnet": (8,), "wide_resnet": (10, 1)}.get(name, ())
    taken = {option: value for option, value in values.items() if option in offered(function)}
    assert function(*required, 3, **taken) != function(*required, 3)


def test_options_at_their_defaults_change_nothing():
    assert models.resnet18(norm=BatchNorm, activation=RELU, drop_path=0.0, in_channels=3) == models.resnet18()
    assert models.vgg11(norm=BatchNorm) == models.vgg11_bn()
    assert models.vgg11(norm=None) == models.vgg11()
    assert models.convnext_tiny(norm=LayerNorm, drop_path=0.1) == models.convnext_tiny()
    assert models.squeezenet1_0(activation=RELU, dropout_rate=0.5) == models.squeezenet1_0()
    assert models.efficientnet_b5(norm=BatchNorm) != models.efficientnet_b5()


@pytest.mark.parametrize("build", [models.resnet50, models.vgg16_bn, models.regnet_y_400mf, models.densenet121])
def test_an_option_of_another_name_is_refused(build):
    with pytest.raises(TypeError, match="unexpected keyword argument 'act_layer'"):
        build(act_layer="silu")


def test_a_residual_block_starts_as_its_shortcut_with_any_norm_that_has_a_scale():
    norm = zero_scaled(GroupNorm(8, num_groups=4))
    assert norm == GroupNorm(8, num_groups=4, scale_init=jax.nn.initializers.zeros)
    model = resnet(basic_block, (1, 1), norm=WHOLE, zero_init_residual=True)
    params, _ = model.init(jax.random.key(0))
    assert not params["stage2"]["block0"]["norm2"]["scale"].any()
    assert params["stage2"]["block0"]["norm1"]["scale"].all()
    for without in (Partial(BatchNorm, use_scale=False), lambda channels: identity):
        with pytest.raises(ValueError, match="zero_init_residual expects a norm with a scale, such as BatchNorm, got"):
            resnet(basic_block, (1, 1), norm=without, zero_init_residual=True)


def test_a_block_of_a_resnet_ends_with_drop_path_where_it_has_a_rate():
    for build, names in ((basic_block, ("relu", "conv2", "norm2")), (bottleneck_block, ("relu2", "conv3", "norm3"))):
        assert build(8, 8, drop_path=0.5).body.names[-4:] == (*names, "drop_path")
        assert build(8, 8, drop_path=0.5).body["drop_path"] == DropPath(0.5)
        assert build(8, 8).body.names[-3:] == names


def test_rates_are_equally_spaced():
    assert drop_path_rates("model", 0.3, 4) == pytest.approx([0, 0.1, 0.2, 0.3])
    assert drop_path_rates("model", 0.3, 1) == [0]
    with pytest.raises(ValueError, match=r"model expects a rate .* in \[0, 1\), got -0.1"):
        drop_path_rates("model", -0.1, 3)


def test_the_first_block_of_a_stage_changes_the_channels_and_the_size():
    calls = []

    def block(*sizes, **options):
        calls.append((*sizes, options))
        return identity

    stages = build_stages(3, [(block, 2, 8, 1), (block, 1, 16, 2)], [0.0, 0.1, 0.2])
    assert {name: stage.names for name, stage in stages.items()} == {
        "stage1": ("block0", "block1"),
        "stage2": ("block0",),
    }
    assert calls == [(3, 8, 1, {"drop_path": 0.0}), (8, 8, 1, {"drop_path": 0.1}), (8, 16, 2, {"drop_path": 0.2})]
    build_stages(3, [(block, 1, 4, 1)])
    assert calls[-1] == (3, 4, 1, {})


def test_a_convolution_keeps_the_size_and_layers_follow_in_order():
    layers = conv_norm(2, 4, (1, 7), norm=WHOLE, relu=TANH, pool=identity)
    assert layers.names == ("conv", "norm", "relu", "pool")
    assert layers["conv"].padding == ((0, 0), (3, 3))
    assert not layers["conv"].use_bias
    assert conv_norm(2, 4, use_bias=True)["conv"].use_bias


def test_a_model_of_the_catalog_has_no_weight_of_a_loss():
    assert catalog.Entry._fields == (
        "build",
        "image_shape",
        "num_classes",
        "takes",
        "parameters",
        "multiply_adds",
        "min_size",
        "task",
        "backbone",
    )
