import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import trees
from jaxcnn.inspection import count_multiply_adds
from jaxcnn.layers import (
    Conv,
    Dropout,
    Function,
    GlobalAvgPool,
    Initializer,
    MaxPool,
    Sequential,
    arithmetic,
    count_parameters,
    identity,
    multiply_adds,
    output_shape,
)
from jaxcnn.models import squeezenet1_0, squeezenet1_1

by_name = {"ids": lambda value: getattr(value, "__name__", None)}


@pytest.mark.parametrize(
    ("build", "parameters", "giga_adds"),
    [(squeezenet1_0, 1_248_424, 0.819), (squeezenet1_1, 1_235_496, 0.349)],
    **by_name,
)
def test_parameters_and_work_are_as_published(build, parameters, giga_adds):
    assert count_parameters(build()) == parameters
    assert round(multiply_adds(build(), (224, 224, 3)) / 1e9, 3) == giga_adds


def test_maps_shrink_as_in_the_paper():
    # Table 1, but for the first map: the paper's images have 224 pixels and its first map 111, which take 227 and 109.
    shapes = {row.path: row.output_shape for row in arithmetic(squeezenet1_0(), (227, 227, 3))}
    rows = ("conv1", "pool1", "fire2/relu2", "fire4/relu2", "pool2", "fire8/relu2", "pool3", "fire9/relu2", "head/conv")
    assert [shapes[name] for name in rows] == [
        (111, 111, 96),
        (55, 55, 96),
        (55, 55, 128),
        (55, 55, 256),
        (27, 27, 256),
        (27, 27, 512),
        (13, 13, 512),
        (13, 13, 512),
        (13, 13, 1000),
    ]


def test_version_1_1_pools_earlier():
    names = squeezenet1_1().names
    assert [names[i + 1] for i, name in enumerate(names) if name.startswith("pool")] == ["fire2", "fire4", "fire6"]
    names = squeezenet1_0().names
    assert [names[i + 1] for i, name in enumerate(names) if name.startswith("pool")] == ["fire2", "fire5", "fire9"]
    assert squeezenet1_0()["pool2"] == MaxPool(3, 2, ceil_mode=True)


def test_work_and_shape_agree_with_tracing():
    model, image = squeezenet1_1(10), jax.ShapeDtypeStruct((64, 65, 3), jnp.float32)
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    forward = functools.partial(model.apply, train=False)
    assert count_multiply_adds(forward, params, state, image) == multiply_adds(model, image.shape)
    assert jax.eval_shape(forward, params, state, image)[0].shape == (10,)


def test_parameters_are_named_by_module_and_layer():
    params, _ = jax.eval_shape(squeezenet1_0().init, jax.random.key(0))
    names = trees.named_leaves(params)
    assert len(names) == 52
    assert names["conv1/kernel"].shape == (7, 7, 3, 96)
    assert names["fire9/squeeze/kernel"].shape == (1, 1, 512, 64)
    assert names["fire9/expand/conv3x3/kernel"].shape == (3, 3, 64, 256)
    assert names["head/conv/bias"].shape == (1000,)


def test_initial_variances_are_as_documented(key):
    model = squeezenet1_1()
    kernel = np.asarray(model["fire9/expand/conv3x3"].init(key)[0]["kernel"])
    assert abs(kernel.var() * 9 * 64 / 2 - 1) < 5 * np.sqrt(2 / kernel.size)
    assert np.abs(kernel).max() <= np.sqrt(6 / (9 * 64))
    rows = arithmetic(model, (224, 224, 3))
    inits = {row.path: row.layer.kernel_init for row in rows if isinstance(row.layer, Conv)}
    assert inits.pop("head/conv") == Initializer(jax.nn.initializers.normal, stddev=0.01)
    assert set(inits.values()) == {model["fire9/expand/conv3x3"].kernel_init}


def test_the_head_is_a_convolution_whose_negative_values_do_not_count():
    head = squeezenet1_1(5)["head"]
    assert head.replace(conv=identity) == Sequential(conv=identity, relu=Function(jax.nn.relu), pool=GlobalAvgPool())
    assert (head["conv"].kernel_size, head["conv"].out_channels) == ((1, 1), 5)


def test_the_last_map_is_dropped_before_the_head():
    assert squeezenet1_0().names[-2:] == ("dropout", "head")
    assert squeezenet1_0()["dropout"] == Dropout(0.5)
    assert squeezenet1_1(dropout_rate=0.1)["dropout"] == Dropout(0.1)
    with pytest.raises(ValueError, match=r"Dropout expects a rate .* in \[0, 1\), got 1.0"):
        squeezenet1_0(dropout_rate=1.0)


def test_options_reach_the_first_and_the_last_layer():
    model = squeezenet1_0(7, in_channels=1)
    assert model["conv1"].in_channels == 1
    assert output_shape(model, (64, 70, 1)) == (7,)
    assert output_shape(model.replace(head=GlobalAvgPool()), (64, 70, 1)) == (512,)
    assert output_shape(model.replace(head=identity), (224, 224, 1)) == (13, 13, 512)
