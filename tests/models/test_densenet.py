import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import trees
from jaxcnn.inspection import count_multiply_adds
from jaxcnn.layers import BatchNorm, Concat, Dense, Dropout, arithmetic, count_parameters, identity, multiply_adds
from jaxcnn.models import densenet121, densenet161, densenet169, densenet201
from jaxcnn.models.densenet import dense_layer, densenet, transition
from jaxcnn.values import Partial

by_name = {"ids": lambda value: getattr(value, "__name__", None)}


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize(
    ("build", "parameters", "gigas"),
    [
        (densenet121, 7_978_856, 2.834),
        (densenet161, 28_681_000, 7.728),
        (densenet169, 14_149_480, 3.360),
        (densenet201, 20_013_928, 4.291),
    ],
    **by_name,
)
def test_parameters_and_work_are_as_published(build, parameters, gigas):
    assert count_parameters(build()) == parameters
    assert round(multiply_adds(build(), (224, 224, 3)) / 1e9, 3) == gigas


def test_maps_shrink_and_grow_as_in_the_paper():
    last = {row.path.split("/")[0]: row.output_shape for row in arithmetic(densenet121(), (224, 224, 3))}
    assert last == {
        "stem": (56, 56, 64),
        "stage1": (56, 56, 256),
        "stage2": (28, 28, 512),
        "stage3": (14, 14, 1024),
        "stage4": (7, 7, 1024),
        "norm": (7, 7, 1024),
        "relu": (7, 7, 1024),
        "pool": (1024,),
        "head": (1000,),
    }


def test_every_layer_adds_its_growth():
    rows = [row for row in arithmetic(densenet((2, 3), 5, 8, 10), (64, 64, 3)) if isinstance(row.layer, Concat)]
    assert [(row.path, row.output_shape[2]) for row in rows] == [
        ("stage1/layer0", 13),
        ("stage1/layer1", 18),
        ("stage2/layer0", 14),
        ("stage2/layer1", 19),
        ("stage2/layer2", 24),
    ]


def test_work_and_shape_agree_with_tracing():
    model, image = densenet((2, 1), 4, 8, 5, dropout_rate=0.1), jax.ShapeDtypeStruct((33, 40, 3), jnp.float32)
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    forward = functools.partial(model.apply, train=False)
    assert count_multiply_adds(forward, params, state, image) == multiply_adds(model, image.shape)
    assert jax.eval_shape(forward, params, state, image)[0].shape == (5,)


def test_parameters_are_named_by_stage_and_layer():
    params, _ = jax.eval_shape(densenet121().init, jax.random.key(0))
    names = trees.named_leaves(params)
    assert len(names) == 364
    assert names["stem/conv/kernel"].shape == (7, 7, 3, 64)
    assert names["stage2/transition/norm/scale"].shape == (256,)
    assert names["stage2/transition/conv/kernel"].shape == (1, 1, 256, 128)
    assert {name: leaf.shape for name, leaf in names.items() if name.startswith("stage4/layer15/")} == {
        "stage4/layer15/new/conv1/kernel": (1, 1, 992, 128),
        "stage4/layer15/new/conv2/kernel": (3, 3, 128, 32),
        "stage4/layer15/new/norm1/bias": (992,),
        "stage4/layer15/new/norm1/scale": (992,),
        "stage4/layer15/new/norm2/bias": (128,),
        "stage4/layer15/new/norm2/scale": (128,),
    }
    assert names["norm/bias"].shape == (1024,)
    assert names["head/kernel"].shape == (1024, 1000)


def test_a_dense_layer_passes_its_input_on_and_adds_what_it_makes_of_it(key):
    layer = dense_layer(6, 3)
    params, state = layer.init(key)
    x = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    y, _ = layer.apply(params, state, jnp.asarray(x), train=False)
    np.testing.assert_array_equal(y[..., :6], x)
    kernels = {name: np.asarray(params["new"][name]["kernel"], np.float64) for name in ("conv1", "conv2")}
    # Fresh running moments are 0 and 1: a norm only divides by sqrt(1 + epsilon).
    hidden = np.maximum(np.maximum(x, 0) / np.sqrt(1 + 1e-5) @ kernels["conv1"][0, 0], 0) / np.sqrt(1 + 1e-5)
    padded = np.pad(hidden, ((1, 1), (1, 1), (0, 0)))
    new = sum(padded[i : i + 4, j : j + 5] @ kernels["conv2"][i, j] for i in range(3) for j in range(3))
    np.testing.assert_allclose(y[..., 6:], new, rtol=0, atol=1e-5 * np.abs(new).max())


def test_a_transition_halves_the_image_and_leaves_an_odd_row_out(key):
    layer = transition(4, 2)
    params, state = layer.init(key)
    x = np.random.default_rng(0).normal(size=(5, 4, 4)).astype(np.float32)
    y, _ = layer.apply(params, state, jnp.asarray(x), train=False)
    mixed = np.maximum(x, 0) / np.sqrt(1 + 1e-5) @ np.asarray(params["conv"]["kernel"])[0, 0]
    np.testing.assert_allclose(y, mixed[:4].reshape(2, 2, 2, 2, 2).mean((1, 3)), rtol=1e-5, atol=1e-6)


def test_kernels_start_with_two_over_fan_in(key):
    params, _ = dense_layer(96, 32).init(key)
    for name, fan_in in (("conv1", 96), ("conv2", 9 * 128)):
        kernel = np.asarray(params["new"][name]["kernel"])
        assert abs(kernel.var() * fan_in / 2 - 1) < 5 * np.sqrt(2 / kernel.size)


@pytest.mark.parametrize("rate", [0.0, 0.2])
def test_values_are_dropped_after_every_convolution_but_the_first(rate):
    rows = arithmetic(densenet121(dropout_rate=rate), (64, 64, 3))
    drops = [row for row in rows if isinstance(row.layer, Dropout)]
    assert {row.layer for row in drops} == {Dropout(rate)}
    convolutions = [i for i, row in enumerate(rows) if "conv" in row.path.split("/")[-1]]
    assert [rows[i + 1].path for i in convolutions[1:]] == [row.path for row in drops]
    assert len(drops) == 2 * 58 + 3


def test_options_reach_every_layer_that_has_them():
    norm = Partial(BatchNorm, decay=0.99, epsilon=1.001e-5, unbiased=False)
    model = densenet121(7, in_channels=1, norm=norm)
    assert model["stem/conv"].in_channels == 1
    assert model["head"] == Dense(1024, 7)
    norms = [row.layer for row in arithmetic(model, (64, 64, 1)) if isinstance(row.layer, BatchNorm)]
    assert len(norms) == 121
    assert all(layer == norm(layer.channels) for layer in norms)


def test_the_head_can_be_replaced():
    assert densenet121(10).replace(head=identity) == densenet121(5).replace(head=identity)


@pytest.mark.parametrize("rate", [1.0, -0.1])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(ValueError, match=rf"densenet expects a rate .* in \[0, 1\), got {rate}"):
        densenet121(dropout_rate=rate)
