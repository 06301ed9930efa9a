import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import trees
from jaxcnn.inspection import count_multiply_adds
from jaxcnn.layers import (
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Function,
    Gate,
    Residual,
    arithmetic,
    count_parameters,
    identity,
    multiply_adds,
)
from jaxcnn.models import mobilenet_v1, mobilenet_v2, mobilenet_v3_large, mobilenet_v3_small
from jaxcnn.models.blocks import conv_norm, inverted_residual, rounded_channels
from jaxcnn.models.mobilenet import depthwise_separable, v3_squeeze_excite
from jaxcnn.values import Partial

RELU6 = Function(jax.nn.relu6)
KERAS_NORM = Partial(BatchNorm, decay=0.999, epsilon=1e-3, unbiased=False)


@pytest.mark.parametrize(
    ("width", "megas", "mega_adds"),
    [(1.0, 4.2, 569), (0.75, 2.6, 325), (0.5, 1.3, 149), (0.25, 0.5, 41)],
)
def test_the_first_version_is_as_large_as_published_at_every_width(width, megas, mega_adds):
    # Tables 6 of the paper, whose code has 1,001 classes, one of them for the background.
    model = mobilenet_v1(1001, width=width)
    assert round(count_parameters(model) / 1e6, 1) == megas
    assert round(multiply_adds(model, (224, 224, 3)) / 1e6) == mega_adds


def test_the_first_version_has_as_many_parameters_as_in_keras():
    assert count_parameters(mobilenet_v1()) == 4_231_976


def test_maps_of_the_first_version_shrink_as_in_the_paper():
    last = {row.path.split("/")[0]: row.output_shape for row in arithmetic(mobilenet_v1(), (224, 224, 3))}
    assert list(last.items()) == [
        ("stem", (112, 112, 32)),
        ("stage1", (112, 112, 64)),
        ("stage2", (56, 56, 128)),
        ("stage3", (28, 28, 256)),
        ("stage4", (14, 14, 512)),
        ("stage5", (7, 7, 1024)),
        ("pool", (1024,)),
        ("dropout", (1024,)),
        ("head", (1000,)),
    ]


def test_the_first_version_is_padded_normalized_and_limited_as_in_keras():
    rows = arithmetic(mobilenet_v1(), (224, 224, 3))
    for row in rows:
        if isinstance(row.layer, Conv):
            assert not row.layer.use_bias
            if row.path.endswith("depthwise/conv"):
                assert row.layer.padding == (((0, 1), (0, 1)) if row.layer.strides == (2, 2) else ((1, 1), (1, 1)))
        if isinstance(row.layer, BatchNorm):
            channels = row.layer.channels
            assert row.layer == BatchNorm(channels, decay=0.99, epsilon=1e-3, unbiased=False)
    assert sum(row.layer == RELU6 for row in rows) == 27
    assert mobilenet_v1()["stem/conv"].padding == "SAME"
    assert mobilenet_v1()["dropout"] == Dropout(0.001)
    # An odd size is halved downwards, where "SAME" would halve it upwards.
    assert arithmetic(depthwise_separable(3, 4, 2), (7, 9, 3))[-1].output_shape == (3, 4, 4)


def test_parameters_of_the_first_version_are_named_by_stage_block_and_layer():
    params, _ = jax.eval_shape(mobilenet_v1().init, jax.random.key(0))
    names = trees.named_leaves(params)
    assert len(names) == 83
    assert names["stem/conv/kernel"].shape == (3, 3, 3, 32)
    assert names["stage4/block5/depthwise/conv/kernel"].shape == (3, 3, 1, 512)
    assert names["stage5/block0/pointwise/conv/kernel"].shape == (1, 1, 512, 1024)
    assert names["stage5/block1/pointwise/norm/scale"].shape == (1024,)
    assert names["head/kernel"].shape == (1024, 1000)


def test_parameters_are_as_many_as_published():
    assert count_parameters(mobilenet_v2()) == 3_504_872
    assert multiply_adds(mobilenet_v2(), (224, 224, 3)) == 300_774_272


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize(
    ("width", "megas", "mega_adds"),
    [(0.35, 1.66, 59), (0.5, 1.95, 97), (0.75, 2.61, 209), (1.0, 3.47, 301), (1.3, 5.34, 509), (1.4, 6.06, 582)],
)
def test_parameters_and_work_at_other_widths_are_as_published(width, megas, mega_adds):
    # The table that accompanies the paper's checkpoints counts the parameters without those of the batch norms.
    model = mobilenet_v2(width=width)
    params, _ = jax.eval_shape(model.init, jax.random.key(0))
    weights = [leaf.size for path, leaf in trees.named_leaves(params).items() if "/norm/" not in path]
    assert round(sum(weights) / 1e6, 2) == megas
    assert round(multiply_adds(model, (224, 224, 3)) / 1e6) == mega_adds


@pytest.mark.parametrize(
    ("build", "parameters", "giga_adds"),
    [(mobilenet_v3_large, 5_483_032, 0.217), (mobilenet_v3_small, 2_542_856, 0.057)],
)
def test_the_third_version_is_as_large_as_published(build, parameters, giga_adds):
    assert count_parameters(build()) == parameters
    assert round(multiply_adds(build(), (224, 224, 3)) / 1e9, 3) == giga_adds


def test_maps_of_the_third_version_shrink_as_in_the_paper():
    last = {row.path.split("/")[0]: row.output_shape for row in arithmetic(mobilenet_v3_large(), (224, 224, 3))}
    assert [last[f"stage{i}"] for i in range(1, 7)] == [
        (112, 112, 16),
        (56, 56, 24),
        (28, 28, 40),
        (14, 14, 80),
        (14, 14, 112),
        (7, 7, 160),
    ]
    assert [last[name] for name in ("stem", "last", "dense", "head")] == [(112, 112, 16), (7, 7, 960), (1280,), (1000,)]
    last = {row.path.split("/")[0]: row.output_shape for row in arithmetic(mobilenet_v3_small(), (224, 224, 3))}
    assert [last[f"stage{i}"] for i in range(1, 6)] == [
        (56, 56, 16),
        (28, 28, 24),
        (14, 14, 40),
        (14, 14, 48),
        (7, 7, 96),
    ]
    assert [last[name] for name in ("last", "dense", "head")] == [(7, 7, 576), (1024,), (1000,)]


@pytest.mark.parametrize(("build", "squeezed"), [(mobilenet_v3_large, 8), (mobilenet_v3_small, 9)])
def test_squeezing_and_batch_norms_are_those_of_the_third_version(build, squeezed):
    rows = arithmetic(build(), (224, 224, 3))
    assert sum(isinstance(row.layer, Gate) for row in rows) == squeezed
    norms = {(row.layer.epsilon, row.layer.decay) for row in rows if isinstance(row.layer, BatchNorm)}
    assert norms == {(1e-3, 0.99)}


def test_parameters_of_the_third_version_are_named_by_stage_block_and_layer():
    params, _ = jax.eval_shape(mobilenet_v3_large().init, jax.random.key(0))
    names = trees.named_leaves(params)
    assert len(names) == 174
    assert names["stage3/block0/depthwise/conv/kernel"].shape == (5, 5, 1, 72)
    assert names["stage3/block0/squeeze_excite/reduce/kernel"].shape == (72, 24)
    assert names["stage3/block0/squeeze_excite/expand/bias"].shape == (72,)
    assert "stage1/block0/expand/conv/kernel" not in names
    assert names["dense/kernel"].shape == (960, 1280)


def test_a_squeeze_and_excitation_weighs_channels(key):
    layer = v3_squeeze_excite(40)
    params, state = layer.init(key)
    assert params["reduce"]["kernel"].shape == (40, 16)
    x = np.random.default_rng(0).normal(size=(5, 4, 40)).astype(np.float32) + 1
    y, _ = layer.apply(params, state, jnp.asarray(x), train=False)
    params = jax.tree.map(np.asarray, params)
    hidden = np.maximum(x.mean((0, 1)) @ params["reduce"]["kernel"] + params["reduce"]["bias"], 0)
    weights = hidden @ params["expand"]["kernel"] + params["expand"]["bias"]
    np.testing.assert_allclose(y, x * np.clip(weights / 6 + 0.5, 0, 1), rtol=1e-5)


def test_only_blocks_of_the_third_version_that_keep_the_shape_have_a_way_around():
    around = [
        f"stage{i}/block{j}"
        for i, blocks in enumerate((1, 2, 3, 4, 2, 3), start=1)
        for j in range(blocks)
        if isinstance(mobilenet_v3_large()[f"stage{i}/block{j}"], Residual)
    ]
    blocks = ("1/0", "2/1", "3/1", "3/2", "4/1", "4/2", "4/3", "5/1", "6/1", "6/2")
    assert around == [f"stage{block[0]}/block{block[2]}" for block in blocks]


def test_width_scales_every_number_of_channels():
    last = {
        row.path.split("/")[0]: row.output_shape for row in arithmetic(mobilenet_v3_small(width=0.5), (224, 224, 3))
    }
    sizes = [last[name][-1] for name in ("stem", "stage1", "stage2", "stage3", "stage4", "stage5", "last", "dense")]
    assert sizes == [8, 8, 16, 24, 24, 48, 288, 512]
    hidden = [mobilenet_v3_small(width=0.5)[f"stage3/block{i}/depthwise/conv"].out_channels for i in range(3)]
    assert hidden == [48, 120, 120]


def test_maps_shrink_as_in_the_paper():
    last = {row.path.split("/")[0]: row.output_shape for row in arithmetic(mobilenet_v2(), (224, 224, 3))}
    assert last == {
        "stem": (112, 112, 32),
        "stage1": (112, 112, 16),
        "stage2": (56, 56, 24),
        "stage3": (28, 28, 32),
        "stage4": (14, 14, 64),
        "stage5": (14, 14, 96),
        "stage6": (7, 7, 160),
        "stage7": (7, 7, 320),
        "last": (7, 7, 1280),
        "pool": (1280,),
        "dropout": (1280,),
        "head": (1000,),
    }


def test_work_and_shape_agree_with_tracing():
    model, image = mobilenet_v2(10), jax.ShapeDtypeStruct((65, 64, 3), jnp.float32)
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    forward = functools.partial(model.apply, train=False)
    assert count_multiply_adds(forward, params, state, image) == multiply_adds(model, image.shape)
    assert jax.eval_shape(forward, params, state, image)[0].shape == (10,)


def test_parameters_are_named_by_stage_block_and_layer():
    params, state = jax.eval_shape(mobilenet_v2().init, jax.random.key(0))
    names = trees.named_leaves(params)
    assert names["stem/conv/kernel"].shape == (3, 3, 3, 32)
    assert names["stage2/block0/expand/conv/kernel"].shape == (1, 1, 16, 96)
    assert names["stage2/block0/depthwise/conv/kernel"].shape == (3, 3, 1, 96)
    assert names["stage2/block0/project/conv/kernel"].shape == (1, 1, 96, 24)
    assert [name for name in names if name.startswith("stage1/")] == [
        f"stage1/block0/{leaf}"
        for leaf in (
            "depthwise/conv/kernel",
            "depthwise/norm/bias",
            "depthwise/norm/scale",
            "project/conv/kernel",
            "project/norm/bias",
            "project/norm/scale",
        )
    ]
    assert names["head/kernel"].shape == (1280, 1000)
    assert "stage7/block0/project/norm/var" in trees.named_leaves(state)


def test_only_blocks_that_keep_the_shape_have_a_way_around():
    model = mobilenet_v2()
    around = {
        f"stage{i}/block{j}"
        for i, blocks in enumerate((1, 2, 3, 4, 3, 3, 1), start=1)
        for j in range(blocks)
        if isinstance(model[f"stage{i}/block{j}"], Residual)
    }
    assert around == {
        f"stage{i}/block{j}" for i, blocks in enumerate((1, 2, 3, 4, 3, 3, 1), start=1) for j in range(1, blocks)
    }
    assert not isinstance(inverted_residual(8, 48, 8, 2, activation=RELU6), Residual)
    assert not isinstance(inverted_residual(8, 48, 16, activation=RELU6), Residual)


def test_a_bottleneck_is_linear_at_its_end(key):
    # After a projection with a relu6, nothing would be negative.
    layer = inverted_residual(8, 48, 6, activation=RELU6)
    y, _ = layer.apply(*layer.init(key), 3 * jax.random.normal(key, (5, 5, 8)), train=False)
    assert np.min(y) < 0


def test_padding_is_symmetric_as_in_published_weights():
    for row in arithmetic(mobilenet_v2(), (224, 224, 3)):
        if isinstance(row.layer, Conv):
            side = row.layer.kernel_size[0] // 2
            assert row.layer.padding == ((side, side), (side, side))
            assert not row.layer.use_bias


OPTIONS = [mobilenet_v2, mobilenet_v3_large, mobilenet_v3_small]


@pytest.mark.parametrize("build", OPTIONS)
def test_padding_can_be_that_of_tensorflow(build):
    kernels = set()
    for row in arithmetic(build(padding="same"), (224, 224, 3)):
        if isinstance(row.layer, Conv) and row.layer.kernel_size != (1, 1):
            kernels.add(row.layer.kernel_size)
            assert row.layer.padding == "SAME"
    assert kernels == ({(3, 3)} if build is mobilenet_v2 else {(3, 3), (5, 5)})
    assert count_parameters(build(padding="same")) == count_parameters(build())


@pytest.mark.parametrize("build", OPTIONS)
def test_every_batch_norm_can_be_another_one(build):
    norms = [row.layer for row in arithmetic(build(norm=KERAS_NORM), (224, 224, 3)) if "norm" in row.path.split("/")]
    assert norms == [KERAS_NORM(norm.channels) for norm in norms if isinstance(norm, BatchNorm)]
    assert len(norms) == {mobilenet_v2: 52, mobilenet_v3_large: 46, mobilenet_v3_small: 34}[build]


@pytest.mark.parametrize("build", OPTIONS)
def test_an_unknown_padding_is_refused(build):
    with pytest.raises(ValueError, match=r"mobilenet_v\d expects padding to be 'symmetric' or 'same', got 'SAME'"):
        build(padding="SAME")


def test_a_convolution_takes_any_padding():
    assert conv_norm(3, 4, 3, 2)["conv"].padding == ((1, 1), (1, 1))
    assert conv_norm(3, 4, 5, 2, padding="same")["conv"].padding == "SAME"
    assert conv_norm(3, 4, 3, 2, padding=((0, 1), (2, 3)))["conv"].padding == ((0, 1), (2, 3))


@pytest.mark.slow
@pytest.mark.heavy
def test_features_are_dropped_right_before_the_head():
    model = mobilenet_v2(dropout_rate=0.5)
    assert model.names[-2:] == ("dropout", "head")
    assert model["dropout"] == Dropout(0.5)
    assert mobilenet_v2()["dropout"] == Dropout(0.2)


def test_options_reach_the_first_and_the_last_layer():
    model = mobilenet_v2(7, in_channels=1)
    assert model["stem/conv"].in_channels == 1
    assert model.replace(head=identity)["last"] == model["last"]
    assert isinstance(model["head"], Dense)
    assert (model["head"].in_features, model["head"].out_features) == (1280, 7)


@pytest.mark.parametrize(
    ("channels", "rounded"),
    [
        (32, 32),
        (3, 8),
        (11.2, 16),
        (11.9, 16),
        (12, 16),
        (19.2, 24),
        (20, 24),
        (22.4, 24),
        (33.6, 32),
        (35.5, 32),
        (36, 40),
    ],
)
def test_channels_are_rounded_to_multiples_of_eight_and_never_lose_a_tenth(channels, rounded):
    # 11.2 and 19.2 are nearer to 8 and 16, which is too little.
    assert rounded_channels(channels) == rounded


@pytest.mark.parametrize("width", [0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("build", [mobilenet_v1, mobilenet_v2, mobilenet_v3_large])
def test_a_width_that_is_none_is_refused(build, width):
    with pytest.raises(ValueError, match=rf"mobilenet_v\d expects a width above 0, got {width}"):
        build(width=width)


def test_a_rate_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"Dropout expects a rate .* in \[0, 1\), got 1.0"):
        mobilenet_v2(dropout_rate=1.0)


def test_kernels_start_with_the_variance_for_relu_backwards():
    # Variance 2 / fan_out (He et al. 2015), and a deviation of 0.01 for the head.
    model, key = mobilenet_v1(100), jax.random.key(0)
    for path, variance in {
        "stem/conv": 2 / (9 * 32),
        "stage3/block1/pointwise/conv": 2 / 256,
        "stage5/block1/depthwise/conv": 2 / (9 * 1024),
        "head": 1e-4,
    }.items():
        kernel = np.asarray(model[path].init(key)[0]["kernel"])
        assert abs(kernel.var() / variance - 1) < 5 * np.sqrt(2 / kernel.size), path
