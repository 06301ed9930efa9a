"""The decoders beside the U-Nets: what their options are, and what they refuse. tests/parity compares their numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from segmentation_blocks import tiny

from jaxcnn.interop.export import image_sizes
from jaxcnn.layers import Conv, Dropout, fold_batch_norm, output_shape
from jaxcnn.models import deeplabv3_plus, fpn, linknet, pspnet, upernet
from jaxcnn.models.segmentation.context import GridContext
from jaxcnn.models.text import parse_value
from jaxcnn.ops import dropout

MODELS = {
    "fpn": lambda **options: fpn(3, tiny(5), segmentation_channels=32, pyramid_channels=16, **options),
    "pspnet": lambda **options: pspnet(3, tiny(), channels=16, **options),
    "linknet": lambda **options: linknet(3, tiny(), depth=3, **options),
    "upernet": lambda **options: upernet(3, tiny(), depth=3, channels=16, **options),
    "deeplabv3_plus": lambda **options: deeplabv3_plus(3, tiny(), depth=3, channels=16, **options),
}


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_as_large_as_the_image_and_the_text_tells_the_model(name):
    model = MODELS[name]()
    assert parse_value(repr(model)) == model
    for size in ((64, 96), (32, 32)):
        assert output_shape(model, (*size, 3)) == (*size, 3)
    with pytest.raises(ValueError, match=rf"{name} expects a height and a width .* got 36x31; pad the image to \d+x32"):
        output_shape(model, (36, 31, 3))


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize(("name", "multiple"), [("fpn", 32), ("upernet", 8)])
def test_they_can_be_exported_for_images_of_any_size(name, multiple):
    model = MODELS[name]()
    sizes = image_sizes(model, *jax.eval_shape(model.init, jax.random.key(0)), (64, 64, 3))
    assert (sizes.shape, sizes.constraints) == (f"b, {multiple}*h, {multiple}*w, 3", ("h >= 1", "w >= 1"))


@pytest.mark.parametrize("name", MODELS)
def test_batch_norms_are_folded_but_for_those_of_the_maps_themselves(name):
    model = MODELS[name]()
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    folded = []

    def fold(params, state):
        layer, *trees = fold_batch_norm(model, params, state, (32, 32, 3))
        folded.append(layer)
        return trees

    jax.eval_shape(fold, *shapes)
    assert "BatchNorm(" in repr(model)
    assert "BatchNorm(" not in repr(folded[0])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MODELS["fpn"](merge="mul"), "fpn expects merge to be 'add' or 'cat', got 'mul'"),
        (lambda: MODELS["fpn"](depth=3), "fpn expects a depth of 4 or 5, got 3"),
        (lambda: fpn(3, tiny(3)), "fpn expects an encoder with at least 4 maps, got 3"),
        (lambda: linknet(3, tiny(3)), "linknet expects an encoder with 5 maps, of the strides 2 to 32, got 3"),
        (lambda: deeplabv3_plus(3, "vgg11"), "encoder expects an output_stride of 32 with vgg11, got 16"),
        (lambda: MODELS["pspnet"](dropout_rate=1.0), r"Dropout expects .* \[0, 1\)"),
    ],
)
def test_options_that_cannot_be_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_the_context_of_a_grid_holds_the_means_of_its_regions(key):
    layer = GridContext(Conv(2, 2, 1, use_bias=False), 2)
    x = jax.random.normal(key, (4, 6, 2))
    params = {"kernel": jnp.eye(2)[None, None]}
    y, _ = layer.apply(params, {}, x, train=False)
    means = np.asarray(x).reshape(2, 2, 2, 3, 2).mean((1, 3))
    assert y.shape == x.shape
    # Beyond the centres of the outermost regions, the enlarged map is constant.
    np.testing.assert_allclose(y[0, 0], means[0, 0], rtol=1e-5)
    np.testing.assert_allclose(y[3, 5], means[1, 1], rtol=1e-5)
    aligned, _ = GridContext(layer.project, 2, align_corners=True).apply(params, {}, x, train=False)
    np.testing.assert_allclose(aligned[0, 1], 0.8 * means[0, 0] + 0.2 * means[0, 1], rtol=1e-5)


def test_dropout_of_whole_channels_keeps_or_drops_all_pixels_of_one(key):
    x = jnp.ones((5, 4, 1000))
    y = np.asarray(dropout(key, x, 0.25, whole_channels=True))
    assert (y == y[:1, :1]).all()
    kept = (y[0, 0] > 0).mean()
    assert abs(kept - 0.75) < 5 * np.sqrt(0.25 * 0.75 / 1000)
    np.testing.assert_allclose(np.unique(y), [0, 4 / 3], rtol=1e-6)
    layer = Dropout(0.25, whole_channels=True)
    np.testing.assert_array_equal(layer.apply({}, {}, x, train=True, key=key)[0], y)
    assert layer.apply({}, {}, x, train=False)[0] is x
