import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import trees
from jaxcnn.inspection import count_multiply_adds
from jaxcnn.layers import (
    AuxiliaryHeads,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    MaxPool,
    Sequential,
    arithmetic,
    identity,
    multiply_adds,
    output_shape,
    summary,
)
from jaxcnn.models import googlenet
from jaxcnn.models.google_net import auxiliary_head, inception_module


@pytest.mark.parametrize(("aux_heads", "parameters"), [(True, 13_004_888), (False, 6_624_904)])
def test_parameters_and_work_are_as_published(aux_heads, parameters):
    table = summary(googlenet(aux_heads=aux_heads), (224, 224, 3))
    assert table.parameters + table.auxiliary_parameters == parameters
    assert round(table.multiply_adds / 1e9, 3) == 1.498


def test_maps_shrink_as_in_the_paper():
    last = {row.path.split("/")[0]: row.output_shape for row in arithmetic(googlenet(), (224, 224, 3))}
    assert last == {
        "stem": (28, 28, 192),
        "inception3a": (28, 28, 256),
        "inception3b": (28, 28, 480),
        "pool3": (14, 14, 480),
        "inception4a": (14, 14, 512),
        "aux1": (1000,),
        "inception4b": (14, 14, 512),
        "inception4c": (14, 14, 512),
        "inception4d": (14, 14, 528),
        "aux2": (1000,),
        "inception4e": (14, 14, 832),
        "pool4": (7, 7, 832),
        "inception5a": (7, 7, 832),
        "inception5b": (7, 7, 1024),
        "pool": (1024,),
        "dropout": (1024,),
        "head": (1000,),
    }


@pytest.mark.slow
@pytest.mark.heavy
def test_work_and_shape_agree_with_tracing():
    model, image = googlenet(10), jax.ShapeDtypeStruct((63, 64, 3), jnp.float32)
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    forward = functools.partial(model.apply, train=False)
    assert count_multiply_adds(forward, params, state, image) == multiply_adds(model, image.shape)
    assert jax.eval_shape(forward, params, state, image)[0].shape == (10,)


def test_parameters_are_named_by_module_branch_and_layer():
    params, state = jax.eval_shape(googlenet().init, jax.random.key(0))
    names = trees.named_leaves(params)
    assert len(names) == 187
    assert names["stem/conv3/conv/kernel"].shape == (3, 3, 64, 192)
    assert names["inception3a/branch3x3/reduce/conv/kernel"].shape == (1, 1, 192, 96)
    assert names["inception3a/branch5x5/conv/conv/kernel"].shape == (3, 3, 16, 32)
    assert names["inception5b/branch_pool/project/norm/scale"].shape == (128,)
    assert names["aux2/conv/conv/kernel"].shape == (1, 1, 528, 128)
    assert names["aux1/dense/kernel"].shape == (2048, 1024)
    assert "aux1/conv/norm/var" in trees.named_leaves(state)


def test_the_model_without_heads_is_the_same_network():
    with_heads, without = googlenet(10), googlenet(10, aux_heads=False)
    assert isinstance(with_heads, AuxiliaryHeads)
    assert with_heads.heads == ("aux1", "aux2")
    assert without == Sequential(**{name: layer for name, layer in with_heads.layers if not name.startswith("aux")})
    names = with_heads.names
    assert [names[names.index(name) - 1] for name in with_heads.heads] == ["inception4a", "inception4d"]


@pytest.mark.heavy
@pytest.mark.slow
def test_training_gives_the_logits_of_three_heads():
    model, image = googlenet(10), jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    for train in (True, False):
        forward = jax.vmap(
            functools.partial(model.apply, train=train, key=jax.random.key(1)), (None, None, 0), axis_name="batch"
        )
        outputs, _ = jax.eval_shape(forward, params, state, image)
        assert set(outputs) == {"main", "aux1", "aux2"} if train else outputs.shape == (2, 10)
        assert {logits.shape for logits in jax.tree.leaves(outputs)} == {(2, 10)}


def test_pools_take_a_last_window_over_the_edge():
    pools = {row.path: row.layer for row in arithmetic(googlenet(), (224, 224, 3)) if isinstance(row.layer, MaxPool)}
    inside = {path: pool for path, pool in pools.items() if "branch" in path}
    assert set(inside.values()) == {MaxPool(3, 1, padding=1)}
    assert len(inside) == 9
    assert {path: pool for path, pool in pools.items() if path not in inside} == {
        "stem/pool1": MaxPool(3, 2, ceil_mode=True),
        "stem/pool2": MaxPool(3, 2, ceil_mode=True),
        "pool3": MaxPool(3, 2, ceil_mode=True),
        "pool4": MaxPool(2, ceil_mode=True),
    }


def test_convolutions_keep_the_size_and_have_batch_norms_with_the_published_epsilon():
    rows = arithmetic(googlenet(), (224, 224, 3))
    convolutions = [row.layer for row in rows if isinstance(row.layer, Conv)]
    norms = [row.layer for row in rows if isinstance(row.layer, BatchNorm)]
    assert norms == [BatchNorm(conv.out_channels, epsilon=1e-3) for conv in convolutions]
    assert {conv.kernel_size for conv in convolutions} == {(1, 1), (3, 3), (7, 7)}
    for conv in convolutions:
        side = conv.kernel_size[0] // 2
        assert conv.padding == ((side, side), (side, side))
        assert not conv.use_bias


def test_a_module_has_the_columns_of_the_table():
    module = inception_module(8, 1, 2, 3, 4, 5, 6)
    widths = [row.output_shape[-1] for row in arithmetic(module, (9, 9, 8)) if isinstance(row.layer, Conv)]
    assert widths == [1, 2, 3, 4, 5, 6]
    assert output_shape(module, (9, 7, 8)) == (9, 7, 1 + 3 + 5 + 6)


def test_initial_kernels_are_as_documented(key):
    kernel = np.asarray(googlenet()["stem/conv3/conv"].init(key)[0]["kernel"])
    assert abs(kernel.std() / 0.01 - 1) < 5 / np.sqrt(2 * kernel.size)
    layers = [row.layer for row in arithmetic(googlenet(), (224, 224, 3)) if isinstance(row.layer, Conv | Dense)]
    assert {layer.kernel_init for layer in layers} == {googlenet()["head"].kernel_init}


def test_features_are_dropped_before_every_head():
    model = googlenet()
    assert model.names[-2:] == ("dropout", "head")
    assert model["dropout"] == Dropout(0.4)
    assert model["aux1/dropout"] == model["aux2/dropout"] == Dropout(0.7)
    model = googlenet(dropout_rate=0.1, aux_dropout_rate=0.3)
    assert (model["dropout"], model["aux2/dropout"]) == (Dropout(0.1), Dropout(0.3))
    for options in ({"dropout_rate": 1.0}, {"aux_dropout_rate": 1.0}):
        with pytest.raises(ValueError, match=r"Dropout expects a rate .* in \[0, 1\), got 1.0"):
            googlenet(**options)


def test_options_reach_the_first_and_the_last_layers():
    model = googlenet(7, in_channels=1)
    assert model["stem/conv1/conv"].in_channels == 1
    for name, features in (("head", 1024), ("aux1/head", 1024), ("aux2/head", 1024)):
        assert isinstance(model[name], Dense)
        assert (model[name].in_features, model[name].out_features) == (features, 7)


def test_heads_can_be_replaced():
    assert output_shape(googlenet().replace(head=identity), (224, 224, 3)) == (1024,)
    others = {"aux1": auxiliary_head(512, 5, 0.7), "aux2": auxiliary_head(528, 5, 0.7)}
    new = googlenet(10).replace(head=googlenet(5)["head"], **others)
    assert new == googlenet(5)
