import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from jaxcnn import ops


def check_gradients(op, loops, arrays, seed=0):
    """Compares the gradient of a random weighting of the output with central differences of the loops."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=loops(*arrays).shape)
    positions = tuple(range(len(arrays)))
    gradients = jax.jit(jax.grad(lambda *a: jnp.sum(weights * op(*a)), argnums=positions))(*arrays)
    for i, (point, gradient) in enumerate(zip(arrays, gradients, strict=True)):
        direction = rng.normal(size=point.shape)

        def loss(value, i=i):
            return np.sum(weights * loops(*arrays[:i], value, *arrays[i + 1 :]))

        expected = reference.directional_derivative(loss, point, direction, step=1e-5)
        np.testing.assert_allclose(np.sum(gradient * direction), expected, rtol=1e-6, atol=1e-7)


def moments(images, shift=None):
    one = functools.partial(ops.batch_moments, axis_name="batch", shift=shift)
    return jax.jit(jax.vmap(one, axis_name="batch", out_axes=None))(images)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("shape", [(4, 5, 6, 3), (1, 5, 6, 3), (4, 1, 1, 3), (4, 3)])
@pytest.mark.parametrize("shifted", [False, True])
def test_batch_moments_are_those_of_all_pixels_of_all_images(shape, shifted):
    images = np.random.default_rng(0).normal(size=shape) * 3 + 1
    mean, var = moments(images, jnp.array([2.0, -1.0, 0.5]) if shifted else None)
    assert mean.dtype == var.dtype == jnp.float64
    pixels = images.reshape(-1, 3)
    np.testing.assert_allclose(mean, pixels.sum(0) / len(pixels), rtol=1e-12)
    np.testing.assert_allclose(var, ((pixels - pixels.mean(0)) ** 2).sum(0) / len(pixels), rtol=1e-11, atol=1e-14)


def test_batch_moments_compute_a_golden_example():
    mean, var = moments(jnp.array([[1.0, 0.0], [3.0, 0.0], [5.0, 6.0]]))
    np.testing.assert_allclose(mean, [3, 2], rtol=1e-6)
    np.testing.assert_allclose(var, [8 / 3, 8], rtol=1e-6)


def test_a_shift_near_the_mean_keeps_the_variance_of_data_far_from_zero():
    images = np.random.default_rng(0).normal(size=(8, 6, 6, 2)).astype(np.float32) + np.float32(10000)
    pixels = images.astype(np.float64).reshape(-1, 2)
    _, var = moments(images, jnp.full(2, 10000, jnp.float32))
    np.testing.assert_allclose(var, pixels.var(0), rtol=1e-4)
    _, unshifted = moments(images)
    assert (np.asarray(unshifted) >= 0).all()


def test_the_variance_of_a_constant_is_zero():
    _, var = moments(jnp.full((4, 5, 5, 2), 0.1, jnp.float32))
    np.testing.assert_allclose(var, [0, 0], atol=1e-8)
    assert (np.asarray(var) >= 0).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_moments_of_half_precision_are_summed_in_float32(dtype):
    images = jnp.asarray(np.random.default_rng(0).normal(size=(8, 16, 16, 2)) * 100 + 300, dtype)
    mean, var = moments(images)
    assert mean.dtype == var.dtype == jnp.float32
    pixels = np.asarray(images, np.float64).reshape(-1, 2)
    np.testing.assert_allclose(mean, pixels.mean(0), rtol=1e-5)
    np.testing.assert_allclose(var, pixels.var(0), rtol=1e-4)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("shifted", [False, True])
def test_the_gradient_of_batch_normalisation_passes_through_its_moments(shifted):
    rng = np.random.default_rng(0)
    shift = jnp.array([2.0, -1.0]) if shifted else None

    def op(images, scale, bias):
        def normalized(x):
            mean, var = ops.batch_moments(x, "batch", shift=shift)
            return ops.normalize(x, mean, var, scale, bias, epsilon=1e-3)

        return jax.vmap(normalized, axis_name="batch")(images)

    def loops(images, scale, bias):
        pixels = images.reshape(-1, images.shape[-1])
        return reference.normalize(images, pixels.mean(0), pixels.var(0), scale, bias, epsilon=1e-3)

    arrays = [rng.normal(size=shape) for shape in ((3, 4, 5, 2), (2,), (2,))]
    np.testing.assert_allclose(op(*arrays), loops(*arrays), rtol=1e-11, atol=1e-12)
    check_gradients(op, loops, arrays)


def test_batch_count_counts_pixels_of_all_images():
    def count(x):
        return jnp.asarray(ops.batch_count(x, "batch"))

    assert jax.vmap(count, axis_name="batch", out_axes=None)(jnp.zeros((4, 5, 6, 3))) == 120
    assert jax.vmap(count, axis_name="batch", out_axes=None)(jnp.zeros((4, 3))) == 4


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("shape", "affine"), [((4, 5, 3), True), ((4, 5, 3), False), ((3,), True)])
def test_normalize_equals_its_formula(shape, affine):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape), rng.normal(size=3), rng.uniform(0.1, 2, 3)]
    arrays += [rng.normal(size=3), rng.normal(size=3)] if affine else []
    op = functools.partial(ops.normalize, epsilon=1e-3)
    loops = functools.partial(reference.normalize, epsilon=1e-3)
    np.testing.assert_allclose(op(*arrays), loops(*arrays), rtol=1e-12, atol=1e-12)
    check_gradients(op, loops, arrays)


def test_a_constant_channel_normalizes_to_zero():
    x = jnp.full((4, 4, 2), 3.0, jnp.float32)
    y = ops.normalize(x, jnp.full(2, 3.0), jnp.zeros(2), epsilon=1e-5)
    np.testing.assert_array_equal(y, np.zeros((4, 4, 2)))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("num_groups", "affine"), [(1, True), (2, False), (3, True), (6, True)])
def test_group_norm_and_its_gradient_equal_the_loops(num_groups, affine):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(4, 5, 6)) * 2 + 1, *([rng.normal(size=6), rng.normal(size=6)] if affine else [])]

    def op(x, *affine):
        return ops.group_norm(x, num_groups, *affine, epsilon=1e-2)

    def loops(x, *affine):
        return reference.group_norm(x, num_groups, *affine, epsilon=1e-2)

    np.testing.assert_allclose(op(*arrays), loops(*arrays), rtol=1e-12, atol=1e-12)
    check_gradients(op, loops, arrays)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("shape", "affine"), [((4, 5, 6), True), ((4, 5, 6), False), ((6,), True)])
def test_layer_norm_and_its_gradient_equal_the_loops(shape, affine):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape) * 2 + 1, *([rng.normal(size=6), rng.normal(size=6)] if affine else [])]
    op = functools.partial(ops.layer_norm, epsilon=1e-2)
    loops = functools.partial(reference.layer_norm, epsilon=1e-2)
    np.testing.assert_allclose(op(*arrays), loops(*arrays), rtol=1e-12, atol=1e-12)
    check_gradients(op, loops, arrays)


@pytest.mark.usefixtures("float64")
def test_the_default_epsilons_are_those_of_the_papers():
    x = np.random.default_rng(0).normal(size=(3, 4, 6)) * 1e-3
    np.testing.assert_allclose(ops.group_norm(x, 2), reference.group_norm(x, 2, epsilon=1e-5), rtol=1e-12)
    np.testing.assert_allclose(ops.layer_norm(x), reference.layer_norm(x, epsilon=1e-6), rtol=1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("size", "channels"), [(1, 3), (2, 8), (4, 8), (5, 3), (5, 8), (11, 8), (3, 1)])
def test_local_response_norm_and_its_gradient_equal_the_loops(size, channels):
    x = np.random.default_rng(0).normal(size=(3, 4, channels)) * 2
    options = {"size": size, "alpha": 0.3, "beta": 0.6, "k": 1.5}
    op = functools.partial(ops.local_response_norm, **options)
    loops = functools.partial(reference.local_response_norm, **options)
    np.testing.assert_allclose(op(x), loops(x), rtol=1e-12, atol=1e-12)
    check_gradients(op, loops, [x])


def test_local_response_norm_computes_a_golden_example():
    # Two neighbours of energy 9 + 16 around the middle: 1 + 3 / 3 * (9 + 0 + 16) = 26, and so on; beta = 1.
    x = jnp.array([3.0, 0.0, 4.0]).reshape(1, 1, 3)
    y = ops.local_response_norm(x, size=3, alpha=3.0, beta=1.0)
    np.testing.assert_allclose(y.ravel(), [3 / 10, 0, 4 / 17], rtol=1e-6)


NORMS = {
    "normalize": lambda x: ops.normalize(x, jnp.ones(6), jnp.full(6, 2.0), jnp.full(6, 0.5), jnp.ones(6), epsilon=1e-5),
    "group_norm": lambda x: ops.group_norm(x, 3, jnp.full(6, 0.5), jnp.ones(6)),
    "layer_norm": lambda x: ops.layer_norm(x, jnp.full(6, 0.5), jnp.ones(6)),
    "local_response_norm": ops.local_response_norm,
}
each_norm = pytest.mark.parametrize("name", NORMS)


@each_norm
def test_vmap_equals_a_loop_and_jit_equals_eager(name):
    images = np.random.default_rng(0).normal(size=(3, 4, 5, 6)).astype(np.float32)
    batched = jax.jit(jax.vmap(NORMS[name]))(images)
    for joint, image in zip(batched, images, strict=True):
        np.testing.assert_allclose(joint, NORMS[name](image), rtol=1e-5, atol=1e-6)


@each_norm
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_in_is_half_precision_out_through_float32(name, dtype):
    # Squares of 500 are past float16's 65504, so the inside must be wider.
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5, 6)) * 500, dtype)
    y = jax.jit(NORMS[name])(x)
    assert y.dtype == dtype
    expected = NORMS[name](x.astype(jnp.float32))
    np.testing.assert_allclose(y.astype(jnp.float32), expected, rtol=2 * float(jnp.finfo(dtype).eps), atol=1e-3)


IMAGE = np.zeros((4, 4, 6), np.float32)
CHANNELS = np.zeros(6, np.float32)


def normalize(x, **options):
    return ops.normalize(x, CHANNELS, CHANNELS, **({"epsilon": 1e-5} | options))


def group_norm(x, num_groups=3, **options):
    return ops.group_norm(x, num_groups, **options)


@pytest.mark.parametrize(
    ("error", "call", "message"),
    [
        (
            ValueError,
            lambda: ops.batch_moments(IMAGE, "batch"),
            r"batch normalisation in training expects a batch: a jax\.vmap with axis_name='batch', got one image; "
            r"use jaxcnn\.batched, or train=False to use the running moments",
        ),
        (
            ValueError,
            lambda: moments(np.zeros((2, 3, 4, 4, 6), np.float32)),
            r"batch_moments expects one image .*, got \(3, 4, 4, 6\); map it over a batch",
        ),
        (
            TypeError,
            lambda: moments(np.zeros((2, 4, 4, 6), np.int32)),
            r"batch_moments expects floating point values, got int32",
        ),
        (
            TypeError,
            lambda: moments(np.zeros((2, 6), np.int32)),
            r"batch_moments expects floating point values, got int32",
        ),
        (
            ValueError,
            lambda: moments(np.zeros((2, 4, 4, 6), np.float32), np.zeros((4, 1), np.float32)),
            r"batch_moments expects a shift of shape \(6,\), one for each channel, got \(4, 1\)",
        ),
        (
            ValueError,
            lambda: ops.normalize(IMAGE, np.zeros(1, np.float32), CHANNELS, epsilon=1e-5),
            r"normalize expects a mean of shape \(6,\), one for each channel, got \(1,\)",
        ),
        (
            ValueError,
            lambda: ops.normalize(IMAGE, CHANNELS, np.zeros((4, 6), np.float32), epsilon=1e-5),
            r"normalize expects a var of shape \(6,\), one for each channel, got \(4, 6\)",
        ),
        (
            ValueError,
            lambda: normalize(IMAGE, scale=np.zeros(3, np.float32)),
            r"normalize expects a scale of shape \(6,\)",
        ),
        (
            ValueError,
            lambda: normalize(IMAGE, epsilon=-1e-5),
            r"normalize expects a finite epsilon of at least 0, got -1e-05",
        ),
        (
            ValueError,
            lambda: normalize(IMAGE, epsilon=float("nan")),
            r"normalize expects a finite epsilon of at least 0, got nan",
        ),
        (TypeError, lambda: normalize(IMAGE.astype(int)), r"normalize expects floating point values, got int64"),
        (
            ValueError,
            lambda: group_norm(IMAGE[None]),
            r"group_norm expects one image .*, got \(1, 4, 4, 6\); map it over a batch",
        ),
        (TypeError, lambda: group_norm(IMAGE.astype(int)), r"group_norm expects floating point values, got int64"),
        (ValueError, lambda: group_norm(IMAGE, 4), r"group_norm expects groups that divide the 6 channels, got 4"),
        (ValueError, lambda: group_norm(IMAGE, 0), r"group_norm expects groups that divide the 6 channels, got 0"),
        (ValueError, lambda: group_norm(IMAGE, 2.0), r"group_norm expects groups that divide .*, got 2\.0"),
        (
            ValueError,
            lambda: group_norm(IMAGE, bias=np.zeros(3, np.float32)),
            r"group_norm expects a bias of shape \(6,\), one for each channel, got \(3,\)",
        ),
        (ValueError, lambda: group_norm(IMAGE, epsilon=-1.0), r"group_norm expects a finite epsilon .*, got -1\.0"),
        (
            ValueError,
            lambda: ops.layer_norm(IMAGE, np.zeros((4, 4, 6), np.float32)),
            r"layer_norm expects a scale of shape \(6,\), one for each channel, got \(4, 4, 6\)",
        ),
        (TypeError, lambda: ops.layer_norm(IMAGE.astype(int)), r"layer_norm expects floating point values, got int64"),
        (ValueError, lambda: ops.layer_norm(IMAGE, epsilon=-1.0), r"layer_norm expects a finite epsilon .*, got -1\.0"),
        (
            ValueError,
            lambda: ops.local_response_norm(IMAGE[0]),
            r"local_response_norm expects one image of shape \(height, width, channels\), got \(4, 6\)",
        ),
        (
            TypeError,
            lambda: ops.local_response_norm(IMAGE.astype(int)),
            r"local_response_norm expects floating point values, got int64",
        ),
        (
            ValueError,
            lambda: ops.local_response_norm(IMAGE, size=0),
            r"local_response_norm expects a size of at least 1 channel, got 0",
        ),
        (
            ValueError,
            lambda: ops.local_response_norm(IMAGE, size=2.5),
            r"local_response_norm expects a size of at least 1 channel, got 2\.5",
        ),
        (
            ValueError,
            lambda: ops.local_response_norm(IMAGE, k=0.0),
            r"local_response_norm expects a positive k and an alpha of at least 0, .*, got k=0\.0, alpha=0\.0001",
        ),
    ],
)
def test_norms_refuse_nonsense(error, call, message):
    with pytest.raises(error, match="^" + message):
        call()


@pytest.mark.parametrize(
    "norm", [ops.layer_norm, lambda x, scale, bias: ops.group_norm(x, 3, scale, bias)], ids=["layer_norm", "group_norm"]
)
def test_the_gradient_of_a_norm_of_one_image_keeps_no_other_array_of_its_size(norm, key):
    x = jax.random.normal(key, (5, 4, 6))
    _, pull_back = jax.vjp(jax.jit(norm), x, jnp.full(6, 2.0), jnp.ones(6))
    kept = [array for array in jax.tree.leaves(pull_back) if array.size == x.size]
    assert len(kept) == 1
    np.testing.assert_array_equal(kept[0], x)
