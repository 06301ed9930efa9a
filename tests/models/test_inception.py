import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import trees
from jaxcnn.inspection import count_multiply_adds
from jaxcnn.layers import (
    AdaptiveAvgPool,
    AuxiliaryHeads,
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    GlobalAvgPool,
    Sequential,
    arithmetic,
    identity,
    multiply_adds,
    output_shape,
    receptive_field,
    summary,
)
from jaxcnn.models import inception_v3
from jaxcnn.models.inception import AuxiliaryPool
from jaxcnn.values import Partial


@pytest.mark.parametrize(("aux_heads", "parameters"), [(True, 27_161_264), (False, 23_834_568)])
def test_parameters_and_work_are_as_published(aux_heads, parameters):
    table = summary(inception_v3(aux_heads=aux_heads), (299, 299, 3))
    assert table.parameters + table.auxiliary_parameters == parameters
    assert round(table.multiply_adds / 1e9, 3) == 5.713


def test_maps_shrink_as_in_the_paper():
    shapes = {row.path: row.output_shape for row in arithmetic(inception_v3(), (299, 299, 3))}
    stem = [shapes[f"stem/{name}"] for name in ("pool1", "pool2")]
    stem = [shapes[f"stem/conv{i}/relu"] for i in (1, 2, 3)] + stem
    assert stem == [(149, 149, 32), (147, 147, 32), (147, 147, 64), (73, 73, 64), (35, 35, 192)]
    assert [shapes[f"mixed5{x}"] for x in "bcd"] == [(35, 35, 256), (35, 35, 288), (35, 35, 288)]
    assert [shapes[f"mixed6{x}"] for x in "abcde"] == [(17, 17, 768)] * 5
    assert [shapes[f"mixed7{x}"] for x in "abc"] == [(8, 8, 1280), (8, 8, 2048), (8, 8, 2048)]
    assert [shapes[f"aux/{x}"] for x in ("pool", "conv2/relu", "head")] == [(5, 5, 768), (1, 1, 768), (1000,)]


def test_work_and_shape_agree_with_tracing():
    model, image = inception_v3(10), jax.ShapeDtypeStruct((75, 80, 3), jnp.float32)
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    forward = functools.partial(model.apply, train=False)
    assert count_multiply_adds(forward, params, state, image) == multiply_adds(model, image.shape)
    assert jax.eval_shape(forward, params, state, image)[0].shape == (10,)


def test_parameters_are_named_by_module_branch_and_layer():
    params, state = jax.eval_shape(inception_v3().init, jax.random.key(0))
    names = trees.named_leaves(params)
    assert len(names) == 292
    assert names["stem/conv5/conv/kernel"].shape == (3, 3, 80, 192)
    assert names["mixed5b/branch3x3/conv2/conv/kernel"].shape == (3, 3, 64, 96)
    assert names["mixed6c/branch7x7_double/conv3/conv/kernel"].shape == (1, 7, 160, 160)
    assert names["mixed7b/branch3x3/split/conv3x1/conv/kernel"].shape == (3, 1, 384, 384)
    assert names["aux/conv2/conv/kernel"].shape == (5, 5, 128, 768)
    assert "aux/conv1/norm/mean" in trees.named_leaves(state)


def test_the_model_without_the_head_is_the_same_network():
    with_head, without = inception_v3(10), inception_v3(10, aux_heads=False)
    assert isinstance(with_head, AuxiliaryHeads)
    assert with_head.heads == ("aux",)
    assert with_head.names[with_head.names.index("aux") - 1] == "mixed6e"
    assert without == Sequential(**{name: layer for name, layer in with_head.layers if name != "aux"})


@pytest.mark.heavy
@pytest.mark.slow
def test_training_gives_the_logits_of_two_heads():
    model, image = inception_v3(10), jax.ShapeDtypeStruct((2, 299, 299, 3), jnp.float32)
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    for train in (True, False):
        forward = jax.vmap(
            functools.partial(model.apply, train=train, key=jax.random.key(1)), (None, None, 0), axis_name="batch"
        )
        outputs, _ = jax.eval_shape(forward, params, state, image)
        assert set(outputs) == {"main", "aux"} if train else outputs.shape == (2, 10)
        assert {logits.shape for logits in jax.tree.leaves(outputs)} == {(2, 10)}


def test_convolutions_are_padded_or_valid_as_published():
    rows = {row.path: row.layer for row in arithmetic(inception_v3(), (299, 299, 3)) if isinstance(row.layer, Conv)}
    valid = {path for path, conv in rows.items() if conv.padding == "VALID"}
    assert valid == {
        "stem/conv1/conv",
        "stem/conv2/conv",
        "stem/conv5/conv",
        "mixed6a/branch3x3/conv",
        "mixed6a/branch3x3_double/conv3/conv",
        "aux/conv2/conv",
        "mixed7a/branch3x3/conv2/conv",
        "mixed7a/branch7x7/conv4/conv",
    }
    for path, conv in rows.items():
        height, width = conv.kernel_size
        assert path in valid or conv.padding == ((height // 2,) * 2, (width // 2,) * 2)
        assert not conv.use_bias


def averages(model):
    return [row.layer for row in arithmetic(model, (299, 299, 3)) if isinstance(row.layer, AvgPool)]


@pytest.mark.slow
@pytest.mark.heavy
def test_averages_count_the_padding_only_where_it_is_symmetric():
    assert averages(inception_v3()) == [AvgPool(3, 1, 1)] * 9
    assert averages(inception_v3(padding="same")) == [AvgPool(3, 1, 1, count_include_pad=False)] * 9
    assert inception_v3(padding="symmetric") == inception_v3()


def norms(model):
    return {type(row.layer)(8, **options(row.layer)) for row in arithmetic(model, (299, 299, 3)) if is_norm(row.layer)}


def is_norm(layer):
    return isinstance(layer, BatchNorm)


def options(norm):
    return {name: getattr(norm, name) for name in ("decay", "epsilon", "use_scale", "unbiased")}


def test_every_batch_norm_is_the_one_that_is_asked_for():
    assert norms(inception_v3()) == {BatchNorm(8, epsilon=1e-3)}
    other = Partial(BatchNorm, decay=0.99, epsilon=1e-3, use_scale=False, unbiased=False)
    assert norms(inception_v3(norm=other)) == {other(8)}
    assert inception_v3(norm=other) == inception_v3(norm=Partial(BatchNorm, **dict(other.options)))


def test_an_unknown_padding_is_refused():
    with pytest.raises(ValueError, match="inception_v3 expects padding to be 'symmetric' or 'same', got 'SAME'"):
        inception_v3(padding="SAME")


def test_initial_kernels_are_as_documented(key):
    rows = arithmetic(inception_v3(), (299, 299, 3))
    inits = {row.path: row.layer.kernel_init for row in rows if isinstance(row.layer, Conv | Dense)}
    deviations = {path: dict(init.options)["stddev"] for path, init in inits.items()}
    assert (deviations.pop("aux/conv2/conv"), deviations.pop("aux/head")) == (0.01, 0.001)
    assert set(deviations.values()) == {0.1}
    kernel = np.asarray(inits["stem/conv5/conv"](key, (3, 3, 80, 192), jnp.float32))
    assert abs(kernel.std() / 0.1 - 1) < 5 / np.sqrt(2 * kernel.size)


def test_features_are_dropped_before_the_head():
    assert inception_v3().names[-3:] == ("pool", "dropout", "head")
    assert inception_v3()["dropout"] == Dropout(0.5)
    assert inception_v3(dropout_rate=0.1)["dropout"] == Dropout(0.1)
    with pytest.raises(ValueError, match=r"Dropout expects a rate .* in \[0, 1\), got 1.0"):
        inception_v3(dropout_rate=1.0)


def test_options_reach_the_first_and_the_last_layers():
    model = inception_v3(7, in_channels=1)
    assert model["stem/conv1/conv"].in_channels == 1
    assert (model["head"].in_features, model["head"].out_features) == (2048, 7)
    assert (model["aux/head"].in_features, model["aux/head"].out_features) == (768, 7)
    assert output_shape(model.replace(head=identity), (299, 299, 1)) == (2048,)


@pytest.mark.parametrize(
    ("size", "pool"),
    [
        ((17, 17), AvgPool(5, strides=3)),
        ((16, 17), AdaptiveAvgPool(5)),
        ((30, 3), AdaptiveAvgPool(5)),
    ],
)
def test_the_auxiliary_pool_leaves_enough_of_any_map(key, size, pool):
    image = jax.random.normal(key, (*size, 2))
    pooled, _ = AuxiliaryPool().apply({}, {}, image, train=True)
    np.testing.assert_array_equal(pooled, pool.apply({}, {}, image, train=True)[0])
    assert min(pooled.shape[:2]) >= 5
    assert output_shape(AuxiliaryPool(), image.shape) == pooled.shape
    assert receptive_field(AuxiliaryPool(), image.shape) == receptive_field(pool, image.shape)
    assert multiply_adds(AuxiliaryPool(), image.shape) == 0


def test_the_auxiliary_pool_takes_one_image():
    with pytest.raises(ValueError, match=r"expects one image of shape \(height, width, channels\), got \(20,\)"):
        AuxiliaryPool().apply({}, {}, jnp.zeros(20), train=True)


def test_the_head_of_the_map_half_way_ends_in_a_mean():
    assert inception_v3()["aux"].names == ("pool", "conv1", "conv2", "average", "head")
    assert inception_v3()["aux/average"] == GlobalAvgPool()
