import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.inspection import count_multiply_adds
from jaxcnn.layers import Conv, Dense, Dropout, arithmetic, count_parameters, identity, multiply_adds, output_shape
from jaxcnn.models import alexnet


def test_parameters_and_work_are_as_published():
    assert count_parameters(alexnet()) == 61_100_840
    assert round(multiply_adds(alexnet(), (224, 224, 3)) / 1e9, 3) == 0.714


def test_maps_shrink_as_published():
    shapes = {row.path: row.output_shape for row in arithmetic(alexnet(), (224, 224, 3))}
    assert [shapes[name] for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "pool5", "flatten")] == [
        (55, 55, 64),
        (27, 27, 192),
        (13, 13, 384),
        (13, 13, 256),
        (13, 13, 256),
        (6, 6, 256),
        (9216,),
    ]


def test_work_and_shape_agree_with_tracing():
    model, image = alexnet(10), jax.ShapeDtypeStruct((224, 225, 3), jnp.float32)
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    # On maps of 6x6 the adaptive pooling changes nothing; tracing would count its matrix products.
    model, params, state = model.replace(pool=identity), params, state
    forward = functools.partial(model.apply, train=False)
    assert count_multiply_adds(forward, params, state, image) == multiply_adds(model, image.shape)
    assert jax.eval_shape(forward, params, state, image)[0].shape == (10,)


@pytest.mark.parametrize("size", [(63, 63), (64, 200), (255, 256)])
def test_images_of_other_sizes_give_logits(size):
    assert output_shape(alexnet(7, in_channels=1), (*size, 1)) == (7,)


def test_initial_kernels_and_biases_are_those_of_the_paper(key):
    model = alexnet(10)
    params, _ = model["conv2"].init(key)
    kernel = np.asarray(params["kernel"])
    assert abs(kernel.std() / 0.01 - 1) < 5 / np.sqrt(2 * kernel.size)
    np.testing.assert_array_equal(params["bias"], 1)
    for name in ("conv4", "conv5", "dense1", "dense2"):
        assert (model[name].kernel_init, model[name].bias_init) == (
            model["conv2"].kernel_init,
            jax.nn.initializers.ones,
        )
    for name in ("conv1", "conv3", "head"):
        assert (model[name].kernel_init, model[name].bias_init) == (
            model["conv2"].kernel_init,
            jax.nn.initializers.zeros,
        )


def test_inputs_of_the_hidden_dense_layers_are_dropped():
    names = alexnet().names
    assert [alexnet()[name] for name in names if name.startswith("dropout")] == [Dropout(0.5)] * 2
    assert [names[names.index(name) - 1] for name in ("dense1", "dense2")] == ["dropout1", "dropout2"]
    assert alexnet(dropout_rate=0.1)["dropout2"] == Dropout(0.1)
    with pytest.raises(ValueError, match=r"Dropout expects a rate .* in \[0, 1\), got 1.0"):
        alexnet(dropout_rate=1.0)


def test_options_reach_the_first_and_the_last_layer():
    model = alexnet(7, in_channels=1)
    assert isinstance(model["conv1"], Conv)
    assert model["conv1"].in_channels == 1
    assert isinstance(model["head"], Dense)
    assert (model["head"].in_features, model["head"].out_features) == (4096, 7)
    assert output_shape(model.replace(head=identity), (224, 224, 1)) == (4096,)
