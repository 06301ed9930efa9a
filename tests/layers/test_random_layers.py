import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import batched
from jaxcnn.layers import Dropout, DropPath

LAYERS = pytest.mark.parametrize("layer", [Dropout, DropPath])


@LAYERS
def test_in_evaluation_nothing_is_dropped(key, layer):
    x = jnp.arange(12.0).reshape(2, 3, 2)
    for k in (None, key):
        y, state = layer(0.9).apply({}, {}, x, train=False, key=k)
        np.testing.assert_array_equal(y, x)
        assert state == {}


def test_dropout_drops_values_and_scales_up_the_others(key):
    y, _ = Dropout(0.75).apply({}, {}, jnp.ones((100, 10, 2)), train=True, key=key)
    assert set(np.unique(y)) == {0, 4}
    assert abs(np.mean(np.asarray(y) == 4) - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 2000)


def test_drop_path_drops_whole_images_and_scales_up_the_others(key):
    y, _ = batched(DropPath(0.75))({}, {}, jnp.ones((1000, 2, 3)), train=True, key=key)
    y = np.asarray(y).reshape(1000, 6)
    assert set(np.unique(y)) == {0, 4}
    assert (y == y[:, :1]).all()
    assert abs(np.mean(y[:, 0] == 4) - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 1000)


@LAYERS
def test_the_key_decides(key, layer):
    x = jnp.ones(200)
    drawn = [layer(0.5).apply({}, {}, x, train=True, key=k)[0] for k in jax.random.split(key, 20)]
    again = layer(0.5).apply({}, {}, x, train=True, key=jax.random.split(key, 20)[0])[0]
    np.testing.assert_array_equal(again, drawn[0])
    assert len({np.asarray(y).tobytes() for y in drawn}) == (20 if layer is Dropout else 2)


@LAYERS
def test_training_needs_a_key(layer):
    with pytest.raises(
        ValueError, match=rf"{layer.__name__} draws random numbers .* expects a key, got None; pass key"
    ):
        layer(0.5).apply({}, {}, jnp.ones(3), train=True)


@LAYERS
def test_a_rate_of_zero_needs_no_key(layer):
    np.testing.assert_array_equal(layer(0.0).apply({}, {}, jnp.ones(3), train=True)[0], 1)


@LAYERS
@pytest.mark.parametrize("rate", [1, 1.0, -0.1, 1.5, float("nan")])
def test_rates_that_are_none_are_refused(layer, rate):
    with pytest.raises(ValueError, match=rf"{layer.__name__} expects a rate \(.*\) in \[0, 1\), got {rate}"):
        layer(rate)
