"""FCN, DeepLabV3 and Lite R-ASPP: sizes, options, and what is common to them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import batched, models, ops
from jaxcnn.layers import (
    Backbone,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    GlobalAvgPool,
    GroupNorm,
    Sequential,
    count_parameters,
    features,
    freeze,
    output_shape,
)
from jaxcnn.layers.composite import layer_paths
from jaxcnn.models.blocks import dilated
from jaxcnn.models.mobilenet import v3_norm
from jaxcnn.models.segmentation.deeplab import EveryPixel, deeplabv3
from jaxcnn.models.segmentation.fcn import fcn
from jaxcnn.models.segmentation.lraspp import TwoScaleHead, lraspp
from jaxcnn.values import Partial

PARAMETERS = {
    "fcn_resnet50": 35_322_218,
    "fcn_resnet101": 54_314_346,
    "deeplabv3_resnet50": 42_004_074,
    "deeplabv3_resnet101": 60_996_202,
    "deeplabv3_mobilenet_v3_large": 11_029_328,
    "lraspp_mobilenet_v3_large": 3_221_538,
}
WITHOUT_AUX = {
    "fcn_resnet50": 32_957_013,
    "fcn_resnet101": 51_949_141,
    "deeplabv3_resnet50": 39_638_869,
    "deeplabv3_resnet101": 58_630_997,
    "deeplabv3_mobilenet_v3_large": 11_025_477,
}


def norms(model):
    return {path: model[path] for path in layer_paths(model) if isinstance(model[path], BatchNorm)}


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_number_of_parameters_is_that_of_torchvision(name):
    build = getattr(models, name)
    assert count_parameters(build()) == PARAMETERS[name]
    assert name not in WITHOUT_AUX or count_parameters(build(aux_heads=False)) == WITHOUT_AUX[name]


def test_parameters_have_the_names_of_the_classifier():
    model, classifier = models.fcn_resnet50(), models.resnet50()
    shapes, of_classifier = (jax.eval_shape(layer.init, jax.random.key(0)) for layer in (model, classifier))
    for tree, other in zip(shapes, of_classifier, strict=True):
        assert {name: tree[name] for name in other if name not in ("pool", "head")} == {
            name: other[name] for name in other if name not in ("pool", "head")
        }
    assert set(shapes[0]) - set(of_classifier[0]) == {"decoder", "aux"}


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("shape", [(65, 90, 3), (1, 1, 3), (33, 7, 3)])
@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"])
def test_the_logits_have_the_size_of_any_image(name, shape):
    model = getattr(models, name)(5)
    assert output_shape(model, shape) == (*shape[:2], 5)


def small(**options):
    body = Sequential(stem=Conv(3, 8, 3, 2, 1), stage=Sequential(conv=Conv(8, 12, 3, 2, 1), norm=BatchNorm(12)))
    return fcn(Backbone(body, ["stem", "stage"]), 5, **options)


def trained(model, *trees):
    return jax.jit(lambda *trees: batched(model)(*trees, train=True, key=jax.random.key(2)))(*trees)


def test_the_auxiliary_head_is_computed_in_training_and_where_it_is_asked_for():
    model = small(dropout_rate=0.0)
    params, state = model.init(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (2, 13, 10, 3))
    results, _ = trained(model, params, state, images)
    assert {name: y.shape for name, y in results.items()} == {"main": (2, 13, 10, 5), "aux": (2, 13, 10, 5)}
    logits, _ = jax.jit(lambda *trees: model.apply(*trees, train=False))(params, state, images[0])
    found = jax.jit(lambda *trees: features(model, *trees, at=["aux", "stem", "head"]))(params, state, images[0])
    assert found["aux"].shape == (7, 5, 5)
    np.testing.assert_allclose(ops.resize(found["head"], (13, 10)), logits, atol=1e-6)
    expected, _ = model.aux.apply(params["aux"], state["aux"], found["stem"], train=False)
    np.testing.assert_allclose(found["aux"], expected, atol=1e-6)
    # Without one, training gives logits as evaluation does.
    plain = small(aux_heads=False)
    y, _ = trained(plain, *plain.init(jax.random.key(0)), images)
    assert y.shape == (2, 13, 10, 5)


def test_freezing_the_layers_of_the_classifier_freezes_the_backbone():
    model = freeze(models.lraspp_mobilenet_v3_large(), "stem|stage.|last")
    assert repr(model).count("Frozen(") == 8
    assert "Frozen" not in repr(model.head)


def test_options_reach_backbone_and_decoder():
    norm = Partial(GroupNorm, num_groups=1)
    for build in (models.fcn_resnet50, models.deeplabv3_mobilenet_v3_large, models.lraspp_mobilenet_v3_large):
        assert "BatchNorm" not in repr(build(norm=norm))
        assert "GroupNorm" in repr(build(norm=norm).backbone)
    model = models.lraspp_mobilenet_v3_large()
    assert {norm.epsilon for path, norm in norms(model).items() if path != "conv/norm"} == {1e-3}
    assert model["conv/norm"].epsilon == 1e-5
    assert model.backbone.body["stem/norm"] == v3_norm(16)
    assert (
        models.fcn_resnet50(dropout_rate=0.2)["decoder/dropout"]
        == Dropout(0.2)
        == models.fcn_resnet50(dropout_rate=0.2)["aux/dropout"]
    )
    assert models.deeplabv3_resnet50(dropout_rate=0.2)["decoder/project/dropout"] == Dropout(0.2)
    assert models.deeplabv3_resnet50()["aux/dropout"] == Dropout(0.1)


def test_any_classifier_will_do():
    resnet = Backbone(models.resnet18(in_channels=1), ["stage3", "stage4"])
    assert output_shape(fcn(resnet, 4), (64, 48, 1)) == (64, 48, 4)
    assert output_shape(deeplabv3(resnet, 4, rates=(2, 4)), (64, 48, 1)) == (64, 48, 4)
    assert output_shape(lraspp(resnet, 4), (64, 48, 1)) == (64, 48, 4)
    with pytest.raises(ValueError, match=r"lraspp expects a backbone of two maps, got \('stage1',\)"):
        lraspp(Backbone(models.resnet18(), ["stage1"]))


def test_what_does_not_fit_is_refused():
    with pytest.raises(
        ValueError, match=r"EveryPixel expects a body that gives features \(channels,\), got \(4, 4, 2\)"
    ):
        output_shape(EveryPixel(Conv(3, 2)), (4, 4, 3))
    model = small()
    with pytest.raises(ValueError, match="Segmenter expects"):
        model.apply(*model.init(jax.random.key(0)), jnp.ones((2, 8, 8, 3)), train=False)
    with pytest.raises(ValueError, match="LiteRASPP expects"):
        output_shape(models.lraspp_mobilenet_v3_large(), (2, 8, 8, 3))
    for build, strides in ((models.resnet18, r"\(8, 16, 32\)"), (models.mobilenet_v3_small, r"\(16, 32\)")):
        with pytest.raises(ValueError, match=rf"expects output_stride to be one of {strides}, got 4"):
            build(output_stride=4)


@pytest.mark.parametrize(
    ("output_stride", "expected"),
    [
        (32, ([1, 2, 2, 2], [1, 1, 1, 1])),
        (16, ([1, 2, 2, 1], [1, 1, 1, 2])),
        (8, ([1, 2, 1, 1], [1, 1, 2, 4])),
    ],
)
def test_dilation_takes_the_place_of_the_last_strides(output_stride, expected):
    assert dilated("model", [1, 2, 2, 2], 4, output_stride, (8, 16, 32)) == expected
    model = models.resnet50(output_stride=output_stride)
    assert Backbone(model, ["stage4"]).levels()[0].stride == output_stride
    convs = [model[f"stage{stage}/block1/conv2"].dilation[0] for stage in (1, 2, 3, 4)]
    assert convs == expected[1]
    firsts = [model[f"stage{stage}/block0/conv2"].dilation[0] for stage in (1, 2, 3, 4)]
    assert firsts == [1, *expected[1][:-1]]


def test_the_coarse_logits_are_those_of_the_enlarged_map():
    head = TwoScaleHead(Conv(4, 3, 1), Conv(5, 3, 1))
    params, state = head.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    fine, coarse = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((7, 6, 4), (4, 3, 5)))
    y, _ = head.apply(params, state, (fine, coarse), train=False)
    enlarged = ops.resize(coarse, (7, 6))
    expected = (
        fine @ params["fine"]["kernel"][0, 0]
        + params["fine"]["bias"]
        + enlarged @ params["coarse"]["kernel"][0, 0]
        + params["coarse"]["bias"]
    )
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_a_pooled_feature_is_given_to_every_pixel():
    layer = EveryPixel(Sequential(pool=GlobalAvgPool(), dense=Dense(2, 3)))
    params, state = layer.init(jax.random.key(0))
    image = jax.random.normal(jax.random.key(1), (4, 5, 2))
    y, _ = layer.apply(params, state, image, train=False)
    expected = np.asarray(image).mean((0, 1)) @ params["dense"]["kernel"]
    np.testing.assert_allclose(y, np.broadcast_to(expected, (4, 5, 3)), atol=1e-5)
