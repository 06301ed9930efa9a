import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from jaxcnn.layers import Dense, Flatten, Initializer, Sequential, count_parameters


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7)])
@pytest.mark.parametrize("use_bias", [False, True])
def test_dense_multiplies_the_last_axis(shape, use_bias):
    rng = np.random.default_rng(0)
    layer = Dense(7, 5, use_bias=use_bias)
    params, state = jax.eval_shape(layer.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), params)
    assert {name: leaf.shape for name, leaf in params.items()} == (
        {"kernel": (7, 5), "bias": (5,)} if use_bias else {"kernel": (7, 5)}
    )
    x = rng.normal(size=shape)
    y, _ = layer.apply(params, state, jnp.asarray(x), train=False)
    np.testing.assert_allclose(y, reference.dense(x, params["kernel"], params.get("bias")), rtol=1e-12)


def test_a_dense_layer_on_the_pixels_of_an_image_has_many_parameters():
    model = Sequential(flatten=Flatten(), dense=Dense(128 * 128 * 3, 256, use_bias=False))
    assert count_parameters(model) == 12_582_912


def test_the_kernel_starts_with_variance_one_over_fan_in(key):
    params, _ = Dense(100, 200).init(key)
    kernel = np.asarray(params["kernel"], np.float64)
    assert abs(kernel.mean()) < 5 * np.sqrt(1 / 100 / kernel.size)
    assert abs(kernel.var() * 100 - 1) < 5 * np.sqrt(2 / kernel.size)
    assert np.abs(kernel).max() < 2 / 0.8796 / np.sqrt(100)
    np.testing.assert_array_equal(params["bias"], 0)


def test_other_initializers_are_used(key):
    layer = Dense(
        3, 2, kernel_init=Initializer(jax.nn.initializers.constant, value=2.0), bias_init=jax.nn.initializers.ones
    )
    params, _ = layer.init(key)
    np.testing.assert_array_equal(params["kernel"], 2)
    np.testing.assert_array_equal(params["bias"], 1)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 5), "Dense expects in_features to be an int of at least 1, got 0"),
        ((5, -2), "Dense expects out_features to be an int of at least 1, got -2"),
        ((5, 2.0), "Dense expects out_features to be an int of at least 1, got 2.0"),
    ],
)
def test_nonsense_is_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        Dense(*sizes)


def test_an_image_where_features_are_expected_is_refused(key):
    params, _ = Dense(48, 5).init(key)
    with pytest.raises(ValueError, match=r"48 features on the last axis, got shape \(4, 4, 3\); put Flatten or a glob"):
        Dense(48, 5).apply(params, {}, jnp.ones((4, 4, 3)), train=False)


def test_other_parameters_are_refused():
    with pytest.raises(
        ValueError, match=r"Dense parameters: expected a dict of the names \('kernel', 'bias'\), got \("
    ):
        Dense(2, 2).apply({}, {}, jnp.ones(2), train=False)
