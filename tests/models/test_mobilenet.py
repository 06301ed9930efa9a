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
    Gate,
    Residual,
    arithmetic,
    count_parameters,
    identity,
    multiply_adds,
)
from jaxcnn.models import mobilenet_v2, mobilenet_v3_large, mobilenet_v3_small
from jaxcnn.models.mobilenet import inverted_residual, rounded_channels, squeeze_excite, squeezed_residual


def test_parameters_are_as_many_as_published():
    assert count_parameters(mobilenet_v2()) == 3_504_872
    assert multiply_adds(mobilenet_v2(), (224, 224, 3)) == 300_774_272


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
    params, state = squeeze_excite(6, 4).init(key)
    x = np.random.default_rng(0).normal(size=(5, 4, 6)).astype(np.float32) + 1
    y, _ = squeeze_excite(6, 4).apply(params, state, jnp.asarray(x), train=False)
    params = jax.tree.map(np.asarray, params)
    hidden = np.maximum(x.mean((0, 1)) @ params["reduce"]["kernel"] + params["reduce"]["bias"], 0)
    weights = hidden @ params["expand"]["kernel"] + params["expand"]["bias"]
    np.testing.assert_allclose(y, x * np.clip(weights / 6 + 0.5, 0, 1), rtol=1e-5)


def test_only_blocks_of_the_third_version_that_keep_the_shape_have_a_way_around():
    assert isinstance(squeezed_residual(8, 24, 8, 3, 1, False, identity), Residual)
    assert not isinstance(squeezed_residual(8, 24, 8, 3, 2, False, identity), Residual)
    assert not isinstance(squeezed_residual(8, 24, 16, 3, 1, False, identity), Residual)


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
    assert not isinstance(inverted_residual(8, 8, 2), Residual)


def test_a_bottleneck_is_linear_at_its_end(key):
    # Behind a projection that a relu6 followed, nothing would be negative.
    layer = inverted_residual(8, 6, 1)
    y, _ = layer.apply(*layer.init(key), 3 * jax.random.normal(key, (5, 5, 8)), train=False)
    assert np.min(y) < 0


def test_padding_is_symmetric_as_in_published_weights():
    for row in arithmetic(mobilenet_v2(), (224, 224, 3)):
        if isinstance(row.layer, Conv):
            side = row.layer.kernel_size[0] // 2
            assert row.layer.padding == ((side, side), (side, side))
            assert not row.layer.use_bias


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
@pytest.mark.parametrize("build", [mobilenet_v2, mobilenet_v3_large])
def test_a_width_that_is_none_is_refused(build, width):
    with pytest.raises(ValueError, match=rf"mobilenet_v\d expects a width above 0, got {width}"):
        build(width=width)


def test_a_rate_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"Dropout expects a rate .* in \[0, 1\), got 1.0"):
        mobilenet_v2(dropout_rate=1.0)
