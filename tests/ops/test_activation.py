import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.special import ndtr

from jaxcnn import ops

X = np.concatenate([np.linspace(-12, 12, 2001), [0.0]])


def test_gelu_weights_a_value_by_the_probability_below_it(float64):
    np.testing.assert_allclose(ops.gelu(jnp.asarray(X)), X * ndtr(X), rtol=0, atol=1e-14)


@pytest.mark.slow
@pytest.mark.heavy
def test_gelu_has_the_derivatives_of_its_definition(float64):
    density = np.exp(-(X**2) / 2) / np.sqrt(2 * np.pi)
    first = jax.grad(ops.gelu)
    x = jnp.asarray(X)
    np.testing.assert_allclose(jax.vmap(first)(x), ndtr(X) + X * density, rtol=0, atol=1e-14)
    for second in (jax.grad(first), jax.jacfwd(first), jax.grad(jax.jacfwd(ops.gelu))):
        np.testing.assert_allclose(jax.vmap(second)(x), (2 - X**2) * density, rtol=0, atol=1e-13)
    check_grads(ops.gelu, (x[::50],), order=3)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_gelu_keeps_the_dtype_and_rounds_once(dtype):
    x = jnp.asarray(X, dtype)
    y = ops.gelu(x)
    assert y.dtype == dtype
    exact = np.asarray(x, np.float64)
    exact = exact * ndtr(exact)
    assert np.abs(np.asarray(y, np.float64) - exact).max() < 12 * jnp.finfo(dtype).eps


def test_the_gradient_of_gelu_keeps_its_argument_alone(key):
    x = jax.random.normal(key, (50,))
    _, pull_back = jax.vjp(jax.jit(ops.gelu), x)
    kept = [array for array in jax.tree.leaves(pull_back) if array.shape == x.shape]
    assert len(kept) == 1
    np.testing.assert_array_equal(kept[0], x)


def test_gelu_refuses_integers():
    with pytest.raises(TypeError, match="gelu expects floating point values, got int32"):
        ops.gelu(jnp.arange(3))


def test_infinities_give_the_limits_and_nan_stays():
    y = ops.gelu(jnp.array([-jnp.inf, jnp.inf, jnp.nan, 2e38]))
    np.testing.assert_array_equal(y, np.array([0, np.inf, np.nan, 2e38], np.float32))
    assert jax.grad(ops.gelu)(-jnp.inf) == 0
