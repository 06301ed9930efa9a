import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import ops

DROPS = {"dropout": ops.dropout, "drop_path": ops.drop_path}
each_drop = pytest.mark.parametrize("name", DROPS)
each_rate = pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])

IMAGES = np.random.default_rng(0).uniform(1, 2, (1024, 4, 4, 2)).astype(np.float32)


def drop(name, key, images, rate):
    return jax.vmap(lambda key, x: DROPS[name](key, x, rate))(jax.random.split(key, len(images)), images)


def check_share(kept, rate):
    # Five standard deviations of a binomial share.
    assert abs(kept.mean() - (1 - rate)) < 5 * np.sqrt(rate * (1 - rate) / kept.size)


@each_rate
def test_dropout_keeps_a_value_scaled_or_drops_it(key, rate):
    y = np.asarray(drop("dropout", key, IMAGES, rate))
    kept = y != 0
    np.testing.assert_allclose(y[kept], IMAGES[kept] / (1 - rate), rtol=1e-6)
    check_share(kept, rate)


def test_dropout_drops_each_value_by_itself(key):
    kept = np.asarray(drop("dropout", key, IMAGES, 0.5)) != 0
    for axis in range(4):
        check_share(kept == np.roll(kept, 1, axis), 0.5)


@each_rate
def test_drop_path_keeps_an_image_scaled_or_drops_it_whole(key, rate):
    y = np.asarray(drop("drop_path", key, IMAGES, rate))
    kept = (y != 0).all((1, 2, 3))
    assert (y[~kept] == 0).all()
    np.testing.assert_allclose(y[kept], IMAGES[kept] / (1 - rate), rtol=1e-6)
    check_share(kept, rate)


@each_drop
def test_a_rate_may_be_a_number_of_numpy(key, name):
    x = jnp.asarray(IMAGES[0], jnp.bfloat16)
    np.testing.assert_array_equal(DROPS[name](key, x, np.float32(0.5)), DROPS[name](key, x, 0.5))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_rate_may_be_an_array_that_changes(key, dtype):
    images, drop = jnp.asarray(IMAGES[:64], dtype), jax.jit(lambda rate: DROPS["drop_path"](key, images, rate))
    for rate in (0.0, 0.25, 0.5, 0.75):
        y = drop(jnp.asarray(rate))
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, DROPS["drop_path"](key, images, rate))
    assert drop._cache_size() == 1
    with pytest.raises(ValueError, match=r"^drop_path expects a rate that is a number or a scalar array, got "):
        DROPS["drop_path"](key, images, jnp.zeros(2))


@each_drop
@pytest.mark.parametrize("rate", [0, 0.0])
def test_a_rate_of_zero_changes_nothing(key, name, rate):
    np.testing.assert_array_equal(drop(name, key, IMAGES, rate), IMAGES)


@each_drop
def test_the_key_alone_decides_what_is_dropped(key, name):
    together = drop(name, key, IMAGES, 0.5)
    assert (np.asarray(together) != np.asarray(drop(name, jax.random.key(1), IMAGES, 0.5))).any()
    one = jax.jit(lambda key, x: DROPS[name](key, x, 0.5))
    for i, single in enumerate(jax.random.split(key, 1024)[:4]):
        np.testing.assert_array_equal(one(single, IMAGES[i]), together[i])
        np.testing.assert_array_equal(DROPS[name](single, IMAGES[i], 0.5), together[i])


@each_drop
def test_the_gradient_is_the_same_mask(key, name):
    y, pull_back = jax.vjp(lambda x: drop(name, key, x, 0.25), IMAGES)
    (gradient,) = pull_back(jnp.ones_like(y))
    np.testing.assert_allclose(gradient, np.where(y != 0, 1 / 0.75, 0), rtol=1e-6)


@each_drop
def test_a_dropped_infinity_is_zero(key, name):
    y = drop(name, key, np.full_like(IMAGES, np.inf), 0.5)
    assert set(np.unique(y)) == {0, np.inf}


@each_drop
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_in_is_half_precision_out(key, name, dtype):
    y = DROPS[name](key, jnp.asarray(IMAGES[0], dtype), 0.5)
    assert y.dtype == dtype


@each_drop
@pytest.mark.parametrize("rate", [1, 1.0, 1.5, -0.1, float("nan")])
def test_rates_outside_zero_to_one_are_refused(key, name, rate):
    message = rf"^{name} expects a rate \(the probability of dropping\) in \[0, 1\), got {rate}"
    with pytest.raises(ValueError, match=message):
        DROPS[name](key, IMAGES[0], rate)


@each_drop
def test_integers_are_refused(key, name):
    with pytest.raises(TypeError, match=rf"^{name} expects floating point values, got int32; convert first"):
        DROPS[name](key, IMAGES[0].astype(np.int32), 0.5)
