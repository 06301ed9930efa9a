import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.inspection import gradient_support
from jaxcnn.layers import BatchNorm, Conv, Dense, Flatten, Function, GlobalAvgPool, MaxPool, Sequential, identity


def support(layer, shape, position=None):
    return gradient_support(layer, *layer.init(jax.random.key(0)), shape, position)


def rectangle(shape, rows, columns):
    expected = np.zeros(shape, bool)
    expected[np.ix_(rows, columns)] = True
    return expected


def test_a_pixel_that_is_passed_on_is_marked_alone():
    np.testing.assert_array_equal(support(identity, (4, 6, 3)), rectangle((4, 6), [2], [3]))
    np.testing.assert_array_equal(support(identity, (4, 6, 3), (0, 5)), rectangle((4, 6), [0], [5]))
    np.testing.assert_array_equal(support(identity, (4, 6, 3), (0, 0)), rectangle((4, 6), [0], [0]))


def test_the_window_of_a_convolution_is_marked():
    layer = Conv(1, 1, (3, 2), (2, 1), padding="VALID")
    np.testing.assert_array_equal(support(layer, (9, 6, 1), (1, 3)), rectangle((9, 6), [2, 3, 4], [3, 4]))


def test_the_pixels_between_dilated_taps_are_not_marked():
    layer = Conv(1, 1, 3, padding="VALID", dilation=(2, 3))
    np.testing.assert_array_equal(support(layer, (9, 9, 1), (1, 0)), rectangle((9, 9), [1, 3, 5], [0, 3, 6]))


def test_what_hangs_over_the_border_is_left_out():
    np.testing.assert_array_equal(support(Conv(1, 1, 5), (9, 9, 1), (0, 8)), rectangle((9, 9), range(3), range(6, 9)))


@pytest.mark.parametrize("layer", [Sequential(a=Flatten(), b=Dense(40, 2)), GlobalAvgPool()], ids=repr)
def test_a_vector_sees_everything(layer):
    assert support(layer, (5, 4, 2)).all()
    assert support(layer, (5, 4, 2), (0, 0)).all()


def test_every_pixel_of_a_pooling_window_is_marked_though_one_of_them_wins():
    layer = Sequential(pool=MaxPool(2), again=MaxPool(2))
    np.testing.assert_array_equal(support(layer, (12, 12, 8), (1, 1)), rectangle((12, 12), range(4, 8), range(4, 8)))


def test_negative_kernels_and_dead_units_hide_nothing():
    layer = Sequential(conv=Conv(1, 1, 3), relu=Function(jax.nn.relu), norm=BatchNorm(1), again=Conv(1, 1, 3))
    params, state = layer.init(jax.random.key(0))
    params = jax.tree.map(lambda leaf: -jnp.ones_like(leaf), params)
    seen = gradient_support(layer, params, state, (9, 9, 1))
    np.testing.assert_array_equal(seen, rectangle((9, 9), range(2, 7), range(2, 7)))


def test_parameters_are_left_as_they_are():
    layer = Conv(1, 1, 3)
    params, state = layer.init(jax.random.key(0))
    before = np.array(params["kernel"])
    gradient_support(layer, params, state, (5, 5, 1))
    np.testing.assert_array_equal(params["kernel"], before)
