import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.layers import LayerScale


def test_each_channel_is_multiplied_by_its_own_number():
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    scale = np.array([2.0, -1.0, 0.0, 0.5], np.float32)
    y, state = LayerScale(4).apply({"scale": jnp.asarray(scale)}, {}, jnp.asarray(x), train=True)
    expected = np.empty_like(x)
    for row, column, channel in np.ndindex(x.shape):
        expected[row, column, channel] = x[row, column, channel] * scale[channel]
    np.testing.assert_array_equal(y, expected)
    assert state == {}


@pytest.mark.parametrize(("layer", "value"), [(LayerScale(3), 1e-6), (LayerScale(3, 0.5), 0.5)])
def test_the_numbers_start_where_they_should(key, layer, value):
    params, state = layer.init(key)
    np.testing.assert_array_equal(params["scale"], np.full(3, value, np.float32))
    assert (params["scale"].dtype, state) == (jnp.float32, {})


def test_a_small_number_is_kept_in_bfloat16():
    y, _ = LayerScale(1).apply({"scale": jnp.full(1, 1e-6)}, {}, jnp.ones((1,), jnp.bfloat16), train=False)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(y[0]), 1e-6, rtol=2**-8)


@pytest.mark.parametrize("shape", [(2, 3, 5), (1,), ()])
def test_other_channels_are_refused(shape):
    with pytest.raises(ValueError, match="LayerScale expects 4 channels on the last axis, got shape"):
        LayerScale(4).apply({"scale": jnp.ones(4)}, {}, jnp.ones(shape), train=False)


def test_parameters_of_another_layer_are_refused():
    with pytest.raises(ValueError, match=r"LayerScale parameters: expected a dict of the names \('scale',\), got"):
        LayerScale(4).apply({"kernel": jnp.ones(4)}, {}, jnp.ones(4), train=False)


@pytest.mark.parametrize("channels", [0, -1, 1.5])
def test_channels_that_are_none_are_refused(channels):
    with pytest.raises(ValueError, match=f"LayerScale expects channels to be an int of at least 1, got {channels}"):
        LayerScale(channels)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_start_that_is_none_is_refused(value):
    with pytest.raises(ValueError, match=f"LayerScale expects a finite init_value, got {value}"):
        LayerScale(4, value)


def test_it_prints_as_its_constructor():
    assert repr(LayerScale(4)) == "LayerScale(4)"
    assert repr(LayerScale(4, 0.5)) == "LayerScale(4, init_value=0.5)"
    assert hash(LayerScale(4)) == hash(LayerScale(4, 1e-6))
    assert jax.tree.leaves(LayerScale(4).init(jax.random.key(0)))[0].shape == (4,)
