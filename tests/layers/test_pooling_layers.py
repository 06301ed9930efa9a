import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from jaxcnn.layers import AdaptiveAvgPool, AvgPool, GlobalAvgPool, GlobalMaxPool, MaxPool

OPTIONS = {
    "plain": {},
    "window": {"window_shape": (3, 2)},
    "strides": {"window_shape": 3, "strides": (1, 2)},
    "same": {"window_shape": 3, "strides": 2, "padding": "SAME"},
    "sides": {"window_shape": 3, "strides": 2, "padding": ((0, 2), (1, 0))},
    "ceil": {"window_shape": 3, "strides": 2, "ceil_mode": True},
}

IMAGE = np.random.default_rng(0).normal(size=(7, 8, 2))


def pool(layer, x=IMAGE):
    params, state = layer.init(jax.random.key(0))
    assert params == state == {}
    return layer.apply(params, state, jnp.asarray(x), train=False)[0]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", OPTIONS)
def test_max_pool_computes_what_its_options_say(name):
    options = {"window_shape": 2, **OPTIONS[name]}
    np.testing.assert_array_equal(pool(MaxPool(**options)), reference.max_pool(IMAGE, **options))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("count_include_pad", [False, True])
def test_avg_pool_computes_what_its_options_say(name, count_include_pad):
    options = {"window_shape": 2, "count_include_pad": count_include_pad, **OPTIONS[name]}
    np.testing.assert_allclose(pool(AvgPool(**options)), reference.avg_pool(IMAGE, **options), rtol=1e-12)


@pytest.mark.usefixtures("float64")
def test_global_pools_leave_one_value_for_each_channel():
    np.testing.assert_allclose(pool(GlobalAvgPool()), IMAGE.reshape(-1, 2).sum(0) / 56, rtol=1e-12)
    np.testing.assert_array_equal(pool(GlobalMaxPool()), [max(IMAGE[..., 0].ravel()), max(IMAGE[..., 1].ravel())])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("output_shape", [1, 3, (7, 8), (9, 2)])
def test_adaptive_avg_pool_gives_the_wanted_size(output_shape):
    expected = reference.adaptive_avg_pool(IMAGE, output_shape)
    assert expected.shape[:2] == reference.pair(output_shape)
    np.testing.assert_allclose(pool(AdaptiveAvgPool(output_shape)), expected, rtol=1e-12)


@pytest.mark.parametrize("layer", [MaxPool, AvgPool])
def test_sizes_have_one_form_whatever_they_were_written_as(layer):
    assert layer() == layer(2) == layer((2, 2)) == layer([2, 2])
    assert hash(layer(3, 2, 1)) == hash(layer((3, 3), [2, 2], [[1, 1], [1, 1]]))
    assert layer(2) != layer(2, strides=1)


def test_an_adaptive_pool_has_one_form_too():
    assert AdaptiveAvgPool(3) == AdaptiveAvgPool([3, 3])


@pytest.mark.parametrize("layer", [MaxPool, AvgPool])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window_shape": 0}, "window_shape expects an int or a pair of ints, each at least 1, got 0"),
        ({"strides": (1, 0)}, r"strides expects .* got \(1, 0\)"),
        ({"padding": "FULL"}, "padding expects .* got 'FULL'"),
        ({"padding": -1}, "padding expects .* got -1"),
    ],
)
def test_nonsense_is_refused(layer, options, message):
    with pytest.raises(ValueError, match=message):
        layer(**options)


def test_an_adaptive_pool_refuses_sizes_that_are_none():
    with pytest.raises(ValueError, match="output_shape expects an int or a pair of ints, each at least 1, got 0"):
        AdaptiveAvgPool(0)


@pytest.mark.parametrize(
    "layer", [MaxPool(), AvgPool(), GlobalAvgPool(), GlobalMaxPool(), AdaptiveAvgPool(2)], ids=repr
)
def test_a_vector_is_refused(layer):
    with pytest.raises(ValueError, match=r"expects one image of shape \(height, width, channels\), got \(4,\)"):
        pool(layer, np.ones(4, np.float32))


@pytest.mark.parametrize("layer", [MaxPool(3), AvgPool(3)], ids=repr)
def test_an_image_smaller_than_the_window_is_refused(layer):
    with pytest.raises(ValueError, match=r"a window of \(3, 3\) for an image of \(2, 5\)"):
        pool(layer, np.ones((2, 5, 1), np.float32))
