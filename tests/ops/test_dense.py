import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from jaxcnn import ops


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (2, 0, 5), (2, 1, 3, 5)])
def test_dense_equals_the_loops(shape):
    rng = np.random.default_rng(0)
    x, kernel, bias = rng.normal(size=shape), rng.normal(size=(5, 4)), rng.normal(size=4)
    y = ops.dense(x, kernel, bias)
    assert y.dtype == jnp.float64
    np.testing.assert_allclose(y, reference.dense(x, kernel, bias), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(ops.dense(x, kernel), reference.dense(x, kernel), rtol=1e-12, atol=1e-12)


def test_dense_computes_a_golden_example():
    y = ops.dense(jnp.array([1.0, 2.0]), jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), jnp.array([0.5, 0.0, -0.5]))
    np.testing.assert_array_equal(y, [9.5, 12, 14.5])


@pytest.mark.usefixtures("float64")
def test_gradients_equal_differences_of_the_loops():
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(2, 3, 5)), rng.normal(size=(5, 4)), rng.normal(size=4)]
    weights = rng.normal(size=(2, 3, 4))
    gradients = jax.grad(lambda *a: jnp.sum(weights * ops.dense(*a)), argnums=(0, 1, 2))(*arrays)
    for i, (point, gradient) in enumerate(zip(arrays, gradients, strict=True)):
        direction = rng.normal(size=point.shape)

        def loss(value, i=i):
            return np.sum(weights * reference.dense(*arrays[:i], value, *arrays[i + 1 :]))

        expected = reference.directional_derivative(loss, point, direction)
        np.testing.assert_allclose(np.sum(gradient * direction), expected, rtol=1e-10)


@pytest.mark.usefixtures("float64")
def test_on_an_image_dense_is_a_convolution_of_one_pixel():
    rng = np.random.default_rng(0)
    x, kernel, bias = rng.normal(size=(4, 6, 5)), rng.normal(size=(5, 3)), rng.normal(size=3)
    expected = reference.conv(x, kernel[None, None], bias)
    np.testing.assert_allclose(ops.dense(x, kernel, bias), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_vmap_and_jit_equal_the_loops():
    rng = np.random.default_rng(0)
    x, kernels, biases = rng.normal(size=(4, 5)), rng.normal(size=(3, 5, 2)), rng.normal(size=(3, 2))
    over_images = jax.jit(jax.vmap(ops.dense, (0, None, None)))(x, kernels[0], biases[0])
    np.testing.assert_allclose(over_images, reference.dense(x, kernels[0], biases[0]), rtol=1e-12, atol=1e-12)
    over_models = jax.jit(jax.vmap(ops.dense, (None, 0, 0)))(x, kernels, biases)
    for i in range(3):
        expected = reference.dense(x, kernels[i], biases[i])
        np.testing.assert_allclose(over_models[i], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_in_is_half_precision_out(dtype):
    rng = np.random.default_rng(0)
    x, kernel, bias = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((3, 5), (5, 4), (4,)))
    y = ops.dense(x.astype(dtype), kernel, bias)
    assert y.dtype == dtype
    expected = reference.dense(*(np.asarray(a.astype(dtype), np.float64) for a in (x, kernel, bias)))
    atol = 4 * float(jnp.finfo(dtype).eps) * np.abs(expected).max()
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("error", "arrays", "message"),
    [
        (
            ValueError,
            (np.zeros(5, np.float32), np.zeros((1, 5, 4), np.float32)),
            r"dense expects a kernel of shape \(in_features, out_features\), got \(1, 5, 4\)",
        ),
        (
            ValueError,
            (np.zeros((8, 8, 3), np.float32), np.zeros((5, 4), np.float32)),
            r"dense expects 5 features on the last axis, got shape \(8, 8, 3\); "
            r"put Flatten or a global pooling before it if this is an image",
        ),
        (
            ValueError,
            (np.zeros((), np.float32), np.zeros((5, 4), np.float32)),
            r"dense expects 5 features on the last axis, got shape \(\)",
        ),
        (
            TypeError,
            (np.zeros(5, np.int32), np.zeros((5, 4), np.float32)),
            r"dense expects floating point values, got int32; convert first",
        ),
        (
            ValueError,
            (np.zeros(5, np.float32), np.zeros((5, 4), np.float32), np.zeros((1, 4), np.float32)),
            r"dense expects a bias of shape \(4,\), one for each channel, got \(1, 4\)",
        ),
    ],
)
def test_dense_refuses_what_does_not_fit(error, arrays, message):
    with pytest.raises(error, match=message):
        ops.dense(*arrays)
