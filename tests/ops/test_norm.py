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


def moments(images, masks=None):
    def one(image, mask):
        return ops.batch_moments(image, "batch", mask=mask)

    return jax.jit(jax.vmap(one, axis_name="batch", out_axes=None))(images, masks)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("shape", [(4, 5, 6, 3), (1, 5, 6, 3), (4, 1, 1, 3), (4, 3)])
@pytest.mark.parametrize("offset", [1, 1e6])
def test_batch_moments_are_those_of_all_pixels_of_all_images(shape, offset):
    images = np.random.default_rng(0).normal(size=shape) * 3 + offset
    mean, var = moments(images)
    assert mean.dtype == var.dtype == jnp.float64
    pixels = images.reshape(-1, 3)
    np.testing.assert_allclose(mean, pixels.sum(0) / len(pixels), rtol=1e-12)
    np.testing.assert_allclose(var, ((pixels - pixels.mean(0)) ** 2).sum(0) / len(pixels), rtol=1e-11, atol=1e-14)


def test_batch_moments_compute_a_golden_example():
    mean, var = moments(jnp.array([[1.0, 0.0], [3.0, 0.0], [5.0, 6.0]]))
    np.testing.assert_allclose(mean, [3, 2], rtol=1e-6)
    np.testing.assert_allclose(var, [8 / 3, 8], rtol=1e-6)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("shape", [(8, 6, 6, 2), (3, 40, 20, 20), (64, 5)])
@pytest.mark.parametrize("offset", [0, 1e3, -1e6])
def test_moments_are_exact_however_far_the_mean_is_from_zero(offset, shape, native, monkeypatch):
    if not native:
        monkeypatch.setattr("jaxcnn.ops.lowering.native.ready", lambda: False)
    rng = np.random.default_rng(0)
    images = (rng.normal(size=shape) + rng.normal(size=shape[-1]) + offset).astype(np.float32)
    # Images that differ from each other, and single pixels that differ from all others.
    images[0] += 30
    images[1, ..., 0] *= 2
    images[(2, *[0] * (len(shape) - 2))] -= 50
    pixels = images.astype(np.float64).reshape(-1, shape[-1])
    mean, var = moments(images)
    np.testing.assert_allclose(mean, pixels.mean(0), rtol=2e-7, atol=1e-6)
    np.testing.assert_allclose(var, pixels.var(0), rtol=3e-6)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("whole", [True, False])
def test_a_mask_leaves_out_images_or_pixels_whatever_they_hold(whole):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(5, 4, 6, 3)) + 100
    masks = rng.integers(0, 2, 5 if whole else (5, 4, 6)).astype(bool)
    pixels = images[masks].reshape(-1, 3)
    images[~masks] = np.nan
    mean, var = moments(images, masks)
    np.testing.assert_allclose(mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(var, pixels.var(0), rtol=1e-12)
    weights = rng.normal(size=(2, 3))
    gradient = jax.grad(lambda x: jnp.sum(weights * jnp.stack(moments(x, masks))))(images)
    assert not gradient[~masks].any()
    centred = pixels - pixels.mean(0)
    expected = (weights[0] + 2 * weights[1] * centred) / len(pixels)
    np.testing.assert_allclose(gradient[masks].reshape(-1, 3), expected, rtol=1e-10, atol=1e-14)


def test_moments_of_nothing_are_zero():
    mean, var = moments(jnp.full((3, 2, 2, 2), jnp.nan), jnp.zeros(3, bool))
    np.testing.assert_array_equal([mean, var], np.zeros((2, 2)))


@pytest.mark.parametrize(("mask", "error"), [(np.ones((5, 2), bool), ValueError), (np.ones(5, np.int32), TypeError)])
def test_a_mask_of_another_shape_or_dtype_is_refused(mask, error):
    with pytest.raises(error, match="expected a mask of"):
        moments(jnp.ones((5, 4, 6, 3)), mask)


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
def test_the_gradient_of_batch_normalisation_passes_through_its_moments():
    rng = np.random.default_rng(0)

    def op(images, scale, bias):
        def normalized(x):
            mean, var = ops.batch_moments(x, "batch")
            return ops.normalize(x, mean, var, scale, bias, epsilon=1e-3)

        return jax.vmap(normalized, axis_name="batch")(images)

    def loops(images, scale, bias):
        pixels = images.reshape(-1, images.shape[-1])
        return reference.normalize(images, pixels.mean(0), pixels.var(0), scale, bias, epsilon=1e-3)

    arrays = [rng.normal(size=shape) for shape in ((3, 4, 5, 2), (2,), (2,))]
    np.testing.assert_allclose(op(*arrays), loops(*arrays), rtol=1e-11, atol=1e-12)
    check_gradients(op, loops, arrays)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("forward_first", [True, False])
def test_second_derivatives_of_batch_normalisation_are_those_of_its_formula(forward_first):
    rng = np.random.default_rng(0)
    images, direction, weights = (jnp.asarray(rng.normal(size=(3, 4, 5, 2))) for _ in range(3))

    def ours(images):
        def normalized(x):
            return ops.normalize(x, *ops.batch_moments(x, "batch"), epsilon=1e-3)

        return jnp.sum(weights * jax.vmap(normalized, axis_name="batch")(images) ** 2)

    def formula(images):
        mean, var = jnp.mean(images, (0, 1, 2)), jnp.var(images, (0, 1, 2))
        return jnp.sum(weights * ((images - mean) / jnp.sqrt(var + 1e-3)) ** 2)

    def product(loss):
        if forward_first:
            return jax.jvp(jax.grad(loss), (images,), (direction,))[1]
        return jax.grad(lambda x: jnp.sum(jax.grad(loss)(x) * direction))(images)

    np.testing.assert_allclose(product(ours), product(formula), rtol=1e-9, atol=1e-9)


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
@pytest.mark.parametrize("num_axes", [2, 3])
def test_layer_norm_over_several_axes_equals_that_of_their_values_in_a_row(num_axes):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 4, 5)) * 2 + 1
    scale, bias = rng.normal(size=(2, *x.shape[-num_axes:]))
    y = ops.layer_norm(x, scale, bias, num_axes=num_axes)
    rows = reference.layer_norm(x.reshape(-1, scale.size), scale.ravel(), bias.ravel()).reshape(x.shape)
    np.testing.assert_allclose(y, rows, rtol=1e-12)


@pytest.mark.parametrize("num_axes", [0, 4, True, 1.0])
def test_layer_norm_refuses_a_number_of_axes_that_the_array_has_not(num_axes):
    with pytest.raises(ValueError, match=f"num_axes from 1 to the 3 axes of the array, got {num_axes}"):
        ops.layer_norm(jnp.ones((3, 4, 5)), num_axes=num_axes)


def test_layer_norm_refuses_a_scale_of_another_shape_than_its_axes():
    with pytest.raises(ValueError, match=r"a scale of shape \(4, 5\), got \(5,\)"):
        ops.layer_norm(jnp.ones((3, 4, 5)), jnp.ones(5), num_axes=2)


@pytest.mark.parametrize("offset", [1e4, 1e6])
def test_group_and_layer_norms_are_exact_far_from_zero(offset):
    x = (np.random.default_rng(0).normal(size=(20, 20, 32)) + offset).astype(np.float32)
    wide = x.astype(np.float64)
    groups = wide.reshape(400, 4, 8).transpose(1, 0, 2).reshape(4, -1)
    expected = ((groups - groups.mean(1, keepdims=True)) / np.sqrt(groups.var(1, keepdims=True) + 1e-5)).reshape(
        4, 400, 8
    )
    np.testing.assert_allclose(ops.group_norm(x, 4), expected.transpose(1, 0, 2).reshape(x.shape), rtol=0, atol=2e-6)
    expected = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(ops.layer_norm(x), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("place", [(0, 0, 0), (9, 7, 11)])
@pytest.mark.parametrize("num_axes", [1, 3])
def test_one_large_value_does_not_round_the_others_of_a_layer_norm(num_axes, place):
    x = np.random.default_rng(0).normal(size=(16, 16, 24)).astype(np.float32)
    x[place] = 1e4
    wide, axes = x.astype(np.float64), tuple(range(-num_axes, 0))
    expected = (wide - wide.mean(axes, keepdims=True)) / np.sqrt(wide.var(axes, keepdims=True) + 1e-6)
    others = np.ones(x.shape, bool)
    others[place] = False
    y = ops.layer_norm(x, num_axes=num_axes)
    np.testing.assert_allclose(y[others], expected[others], rtol=0, atol=2e-6)


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
    np.testing.assert_array_equal(kept[0].reshape(x.shape), x)
