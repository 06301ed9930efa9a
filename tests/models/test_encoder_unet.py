from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from segmentation_blocks import tiny

from jaxcnn import batched, trees
from jaxcnn.inspection import count_multiply_adds
from jaxcnn.layers import (
    Conv,
    Function,
    Sequential,
    count_parameters,
    fold_batch_norm,
    freeze,
    multiply_adds,
    output_shape,
    summary,
    trainable,
)
from jaxcnn.layers.feature_maps import features
from jaxcnn.models import encoder_unet, resnet18, unet_plus_plus
from jaxcnn.models.segmentation.decoding import joined
from jaxcnn.models.segmentation.encoder_unet import spatial_and_channel_attention
from jaxcnn.models.segmentation.encoders import encoder, without_strides
from jaxcnn.models.text import parse_value

PARAMETERS = {
    "resnet18": 14_328_209,
    "resnet34": 24_436_369,
    "resnet50": 32_521_105,
    "mobilenet_v2": 6_628_945,
    # Without the last convolution of the classifier and its batch norm, which the library keeps and does not use.
    "efficientnet_b0": 6_251_469 - (320 * 1280 + 2 * 1280),
    "vgg16_bn": 23_756_689,
    "densenet121": 13_607_633,
}
"""Of `Unet` of segmentation_models_pytorch 0.6.0 with one class."""


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_as_many_as_published(name):
    assert count_parameters(encoder_unet(1, name)) == PARAMETERS[name]


@partial(jax.jit, static_argnums=0)
def evaluated(model, params, state, images):
    return batched(model)(params, state, images, train=False)[0]


@pytest.mark.slow
@pytest.mark.parametrize(("build", "attention"), [(encoder_unet, True), (unet_plus_plus, False)])
def test_every_tool_takes_a_model_with_an_encoder_of_ones_own(build, attention, key):
    model = build(5, tiny(), decoder_channels=(32, 16, 16), attention=attention)
    assert parse_value(repr(model)) == model
    assert output_shape(model, (16, 24, 3)) == (16, 24, 5)
    image = jax.ShapeDtypeStruct((16, 24, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, key)
    counted = count_multiply_adds(lambda p, s, x: model.apply(p, s, x, train=False), *shapes, image)
    assert counted == multiply_adds(model, image.shape) == summary(model, image.shape).multiply_adds
    params, state = jax.jit(model.init)(key)
    images = jax.random.normal(key, (2, 16, 24, 3))
    _, state = jax.jit(lambda p, s, x: batched(model)(p, s, x, train=True))(params, state, images)
    logits = evaluated(model, params, state, images)
    folded = fold_batch_norm(model, params, state)
    assert "BatchNorm(" not in repr(folded[0])
    np.testing.assert_allclose(evaluated(*folded, images), logits, atol=1e-4)
    maps = features(model, params, state, images[0], at=["encoder/norm1", "decoder"])
    assert [y.shape for y in maps.values()] == [(4, 6, 17), (16, 24, 16)]
    frozen = trees.named_leaves(trainable(freeze(model, "encoder/.*"), params))
    assert not any(frozen[name] for name in frozen if name.startswith("encoder/"))
    assert all(frozen[name] for name in frozen if not name.startswith("encoder/"))


def test_parameters_have_the_names_of_the_classifier():
    params, _ = jax.eval_shape(encoder_unet(2, "resnet18").init, jax.random.key(0))
    names, classifier = trees.named_leaves(params), jax.eval_shape(resnet18().init, jax.random.key(0))[0]
    expected = {f"encoder/{name}" for name in trees.named_leaves(classifier) if not name.startswith("head/")}
    assert {name for name in names if name.startswith("encoder/")} == expected
    assert names["decoder/block0/conv1/conv/kernel"].shape == (3, 3, 512 + 256, 256)
    assert names["head/kernel"].shape == (3, 3, 16, 2)


@pytest.mark.parametrize("size", [(60, 64), (64, 33)])
def test_an_image_of_another_size_is_refused_with_the_size_to_pad_to(size):
    larger = [-(-side // 32) * 32 for side in size]
    message = rf"multiples of 32, .* got {size[0]}x{size[1]}; pad the image to {larger[0]}x{larger[1]}, or crop"
    for model in (encoder_unet(2, "resnet18"), unet_plus_plus(2, "resnet18")):
        with pytest.raises(ValueError, match=message):
            output_shape(model, (*size, 3))


def test_a_decoder_starts_as_in_the_library(key):
    # Kaiming's uniform draw, fan in, for the convolutions; Xavier's for the head.
    params, _ = encoder_unet(2, tiny(), decoder_channels=(64, 32, 16)).init(key)
    kernel = np.asarray(params["decoder"]["block0"]["conv2"]["conv"]["kernel"])
    assert np.abs(kernel).max() == pytest.approx(np.sqrt(6 / (9 * 64)), rel=1e-3)
    kernel = np.asarray(params["head"]["kernel"])
    assert np.abs(kernel).max() == pytest.approx(np.sqrt(6 / (9 * 16 + 9 * 2)), rel=0.02)


def test_attention_over_few_channels_is_refused():
    with pytest.raises(
        ValueError, match="attention expects maps of at least 16 channels, got 8; give the decoder more"
    ):
        encoder_unet(2, tiny(), decoder_channels=(32, 16, 8), attention=True)


def test_attention_sums_what_both_gates_give(key):
    layer = spatial_and_channel_attention(32)
    params, state = layer.init(key)
    x = jax.random.normal(key, (5, 4, 32))
    squeezed = np.maximum(x.mean((0, 1)) @ params["reduce"]["kernel"] + params["reduce"]["bias"], 0)
    channels = jax.nn.sigmoid(squeezed @ params["expand"]["kernel"] + params["expand"]["bias"])
    pixels = jax.nn.sigmoid(x @ params["shortcut"]["conv"]["kernel"][0, 0] + params["shortcut"]["conv"]["bias"])
    np.testing.assert_allclose(layer.apply(params, state, x, train=False)[0], x * channels + x * pixels, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet35"}, "encoder expects the name of a classifier, such as 'resnet34', got 'resnet35'"),
        ({"name": "catalog"}, "encoder expects the name of a classifier"),
        ({"name": "resnet20"}, r"with maps of the strides 4, 8, 16 and 32, got resnet20 with \[1, 2, 4\]"),
        ({"name": "resnet18", "depth": 2}, "encoder expects a depth of 3, 4 or 5, got 2"),
        ({"name": "resnet18", "output_stride": 4}, "encoder expects an output_stride of 8, 16 or 32, got 4"),
        ({"name": "densenet121", "output_stride": 8}, "expects an output_stride of 32 with densenet121, got 8"),
    ],
)
def test_encoders_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        encoder(**options)


def test_a_u_net_plus_plus_needs_a_map_of_every_stride():
    with pytest.raises(ValueError, match=r"unet_plus_plus expects an encoder with 5 maps, .* 2 to 32, got 4"):
        unet_plus_plus(2, "convnext_tiny")


def test_maps_that_do_not_fit_are_refused():
    with pytest.raises(
        ValueError, match=r"twice as large as the next, got \(4, 4, 2\) beside \(5, 4, 2\); take an enc"
    ):
        joined([jnp.ones((4, 4, 2)), jnp.ones((5, 4, 2))])


def test_dilated_layers_keep_the_size():
    layer = Sequential(a=Conv(2, 3, 3, 2, padding=1), b=Sequential(c=Conv(3, 3, 5, padding=2), d=Conv(3, 2, 1, 2)))
    changed = without_strides(layer, 2)
    assert output_shape(changed, (9, 8, 2)) == (9, 8, 2)
    assert [changed[path].dilation for path in ("a", "b/c", "b/d")] == [(2, 2)] * 3


def test_a_depth_of_three_takes_the_first_maps():
    names = [encoder(name, depth=3).at for name in ("resnet18", "convnext_tiny", "vgg11")]
    assert names == [
        ("stem/relu", "stage1", "stage2"),
        ("stage1", "stage2"),
        ("stage2/relu1", "stage3/relu2", "stage4/relu2"),
    ]


def test_an_activation_and_no_norm_are_those_of_the_decoder():
    model = encoder_unet(2, tiny(), decoder_channels=(8, 8, 8), norm=None, activation=Function(jnp.tanh))
    assert "BatchNorm" not in repr(model["decoder"])
    assert model["decoder/block0/conv1/conv"].use_bias
    assert repr(model["decoder"]).count("jax.nn.tanh") == 6
