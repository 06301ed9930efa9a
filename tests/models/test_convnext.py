import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import batched, ops, trees
from jaxcnn.inspection import count_multiply_adds
from jaxcnn.layers import DropPath, Function, LayerNorm, LayerScale, arithmetic, count_parameters, multiply_adds
from jaxcnn.models import convnext_base, convnext_large, convnext_small, convnext_tiny
from jaxcnn.models.convnext import convnext, convnext_block

by_name = {"ids": lambda value: getattr(value, "__name__", None)}


@pytest.mark.parametrize(
    ("build", "parameters", "gigas"),
    [
        (convnext_tiny, 28_589_128, 4.456),
        (convnext_small, 50_223_688, 8.684),
        (convnext_base, 88_591_464, 15.355),
        (convnext_large, 197_767_336, 34.361),
    ],
    **by_name,
)
def test_parameters_and_work_are_as_published(build, parameters, gigas):
    assert count_parameters(build()) == parameters
    assert round(multiply_adds(build(), (224, 224, 3)) / 1e9, 3) == gigas


def test_maps_shrink_as_in_the_paper():
    last = {row.path.split("/")[0]: row.output_shape for row in arithmetic(convnext_tiny(), (224, 224, 3))}
    assert last == {
        "stem": (56, 56, 96),
        "stage1": (56, 56, 96),
        "stage2": (28, 28, 192),
        "stage3": (14, 14, 384),
        "stage4": (7, 7, 768),
        "pool": (768,),
        "norm": (768,),
        "head": (1000,),
    }


def test_work_and_shape_agree_with_tracing():
    model, image = convnext((1, 1), (8, 12), 5), jax.ShapeDtypeStruct((33, 40, 3), jnp.float32)
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    forward = functools.partial(model.apply, train=False)
    assert count_multiply_adds(forward, params, state, image) == multiply_adds(model, image.shape)
    assert jax.eval_shape(forward, params, state, image)[0].shape == (5,)


def test_parameters_are_named_by_stage_block_and_layer():
    params, _ = jax.eval_shape(convnext_tiny().init, jax.random.key(0))
    names = trees.named_leaves(params)
    assert len(names) == 182
    assert names["stem/conv/kernel"].shape == (4, 4, 3, 96)
    assert names["stem/norm/scale"].shape == (96,)
    assert names["stage2/downsample/norm/bias"].shape == (96,)
    assert names["stage2/downsample/conv/kernel"].shape == (2, 2, 96, 192)
    assert {name: leaf.shape for name, leaf in names.items() if name.startswith("stage3/block8/")} == {
        "stage3/block8/conv/bias": (384,),
        "stage3/block8/conv/kernel": (7, 7, 1, 384),
        "stage3/block8/expand/bias": (1536,),
        "stage3/block8/expand/kernel": (384, 1536),
        "stage3/block8/layer_scale/scale": (384,),
        "stage3/block8/norm/bias": (384,),
        "stage3/block8/norm/scale": (384,),
        "stage3/block8/project/bias": (384,),
        "stage3/block8/project/kernel": (1536, 384),
    }
    assert names["head/kernel"].shape == (768, 1000)


@pytest.mark.parametrize(
    ("build", "rate", "blocks"),
    [(convnext_tiny, 0.1, 18), (convnext_small, 0.4, 36), (convnext_base, 0.5, 36), (convnext_large, 0.5, 36)],
    **by_name,
)
def test_blocks_are_skipped_the_more_the_deeper_they_are(build, rate, blocks):
    rows = arithmetic(build(), (224, 224, 3))
    rates = [row.layer.rate for row in rows if isinstance(row.layer, DropPath)]
    # The rate of the first block is 0, which needs no layer.
    np.testing.assert_allclose(rates, np.linspace(0, rate, blocks)[1:])
    assert not any(isinstance(row.layer, DropPath) for row in arithmetic(build(drop_path=0.0), (224, 224, 3)))


def test_norms_are_over_the_channels_with_the_published_epsilon():
    for row in arithmetic(convnext_tiny(), (64, 64, 3)):
        if isinstance(row.layer, LayerNorm):
            assert row.layer.epsilon == 1e-6
        if isinstance(row.layer, LayerScale):
            assert row.layer.init_value == 1e-6
        if isinstance(row.layer, Function) and row.path.endswith("gelu"):
            assert row.layer == Function(ops.gelu)


def test_kernels_start_with_a_deviation_of_two_hundredths_and_biases_at_zero(key):
    params, _ = convnext_block(64).init(key)
    for name in ("conv", "expand", "project"):
        kernel = params[name]["kernel"]
        assert abs(np.std(kernel) / 0.02 - 1) < 5 / np.sqrt(2 * kernel.size)
        assert not np.any(params[name]["bias"])


def test_a_block_starts_next_to_the_identity(key):
    layer, x = convnext_block(8), jax.random.normal(key, (9, 9, 8))
    params, state = layer.init(key)
    y, _ = layer.apply(params, state, x, train=False)
    assert 0 < np.abs(y - x).max() < 1e-5


@pytest.mark.slow
@pytest.mark.heavy
def test_a_skipped_block_gives_back_its_image(key):
    layer = convnext_block(4, 0.5)
    params, state = layer.init(key)
    params["layer_scale"]["scale"] += 1
    images = jax.random.normal(key, (16, 9, 9, 4))
    plain, _ = batched(layer)(params, state, images, train=False)
    drawn, _ = batched(layer)(params, state, images, train=True, key=key)
    skipped = [np.array_equal(y, x) for y, x in zip(drawn, images, strict=True)]
    assert 0 < sum(skipped) < 16
    for x, y, whole, skip in zip(images, drawn, plain, skipped, strict=True):
        if not skip:
            np.testing.assert_allclose(y - x, 2 * (whole - x), rtol=1e-3, atol=1e-5)


def test_options_reach_the_first_and_the_last_layer():
    model = convnext_tiny(7, in_channels=1)
    assert model["stem/conv"].in_channels == 1
    assert model["head"].out_features == 7


def test_other_numbers_of_stages_and_channels_are_refused():
    with pytest.raises(ValueError, match="convnext expects as many channels as stages, got 3 for 4 stages"):
        convnext((1, 1, 1, 1), (8, 16, 32), 10)


@pytest.mark.parametrize("rate", [1.0, -0.1])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(ValueError, match=rf"convnext expects a rate .* in \[0, 1\), got {rate}"):
        convnext_tiny(drop_path=rate)
