import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.layers import Flatten, Function, Initializer, identity
from jaxcnn.layers.initializers import he_normal_fan_out, lecun_normal
from jaxcnn.values import Partial


def call(layer, x):
    params, state = layer.init(jax.random.key(0))
    assert params == state == {}
    y, new_state = layer.apply(params, state, x, train=True)
    assert new_state == {}
    return y


def test_a_function_is_called_with_its_options():
    x = jnp.array([-2.0, 0.5, 3.0])
    np.testing.assert_array_equal(call(Function(jax.nn.relu), x), [0, 0.5, 3])
    np.testing.assert_array_equal(call(Function(jnp.clip, min=-1.0, max=1.0), x), [-1, 0.5, 1])


def test_a_function_may_be_called_like_one():
    assert Function(jnp.clip, max=1.0)(jnp.array(4.0)) == 1


def test_functions_are_equal_when_function_and_options_are():
    assert Function(jax.nn.gelu, approximate=False) == Function(jax.nn.gelu, approximate=False)
    assert Function(jax.nn.gelu, approximate=False) != Function(jax.nn.gelu)
    assert Function(jax.nn.gelu) != Function(jax.nn.relu)
    assert Function(jax.nn.relu) != Partial(jax.nn.relu)
    assert Function(jax.nn.relu) != Initializer(jax.nn.relu)


@pytest.mark.parametrize(
    ("value", "message"), [(3, "Function expects a function, got 3"), (None, "Function expects a function, got None")]
)
def test_what_cannot_be_called_is_refused(value, message):
    with pytest.raises(TypeError, match=message):
        Function(value)


def test_options_that_cannot_be_hashed_are_refused():
    with pytest.raises(TypeError, match=r"Function expects hashable options, got axes=\[1, 0\]; use a tuple"):
        Function(jnp.transpose, axes=[1, 0])


def test_identity_returns_what_it_is_given():
    x = jnp.arange(3.0)
    assert call(identity, x) is x


def test_flatten_lays_out_rows_then_columns_then_channels():
    image = np.arange(24.0).reshape(2, 3, 4)
    expected = [image[row, column, channel] for row in range(2) for column in range(3) for channel in range(4)]
    np.testing.assert_array_equal(call(Flatten(), jnp.asarray(image, jnp.float32)), expected)


def test_flatten_leaves_a_vector_as_it_is():
    np.testing.assert_array_equal(call(Flatten(), jnp.arange(3.0)), [0, 1, 2])


def test_an_initializer_draws_what_jax_draws(key):
    expected = jax.nn.initializers.truncated_normal(stddev=0.1)(key, (3, 4), jnp.float32)
    drawn = Initializer(jax.nn.initializers.truncated_normal, stddev=0.1)(key, (3, 4), jnp.float32)
    np.testing.assert_array_equal(drawn, expected)


def test_initializers_are_equal_when_function_and_options_are():
    he_normal = jax.nn.initializers.he_normal
    assert Initializer(he_normal) == Initializer(he_normal)
    assert hash(Initializer(he_normal)) == hash(Initializer(he_normal))
    assert Initializer(he_normal) != Initializer(he_normal, in_axis=-2)
    # Which is why there are Initializers.
    assert he_normal() != he_normal()


@pytest.mark.parametrize(
    ("initializer", "variance"), [(lecun_normal, 1 / (9 * 32)), (he_normal_fan_out, 2 / (9 * 64))], ids=repr
)
def test_named_initializers_have_their_variance(key, initializer, variance):
    kernel = np.asarray(initializer(key, (3, 3, 32, 64), jnp.float32), np.float64)
    assert abs(kernel.mean()) < 5 * np.sqrt(variance / kernel.size)
    assert abs(kernel.var() / variance - 1) < 5 * np.sqrt(2 / kernel.size)
    # The normal distribution has a tail, the truncated one none.
    assert (np.abs(kernel).max() > 3 * np.sqrt(variance)) == (initializer == he_normal_fan_out)
