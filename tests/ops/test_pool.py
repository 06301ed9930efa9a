import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from jaxcnn import ops


def pool_problem(seed, dilated=False):
    """Draws an image full of ties, a window, and options; each side of the padding is smaller than the window."""
    rng = np.random.default_rng(seed)
    while True:
        height, width = rng.integers(3, 11, 2).tolist()
        # Windows of more than 5 pixels a side take another road.
        window = tuple(rng.integers(1, 5 if seed % 3 else 9, 2).tolist())
        strides = None if rng.random() < 0.3 else tuple(rng.integers(1, 4, 2).tolist())
        (top, bottom), (left, right) = (rng.integers(0, k, 2).tolist() for k in window)
        padding = ("VALID", "SAME", "SAME_LOWER", min(top, left), ((top, bottom), (left, right)))[rng.integers(5)]
        options = {"strides": strides, "padding": padding, "ceil_mode": bool(rng.integers(2))}
        extent = window
        if dilated:
            # Less than the image, so that no window steps over it.
            options["dilation"] = tuple(int(rng.integers(1, min(4, n) + 1)) for n in (height, width))
            extent = tuple(d * (k - 1) + 1 for k, d in zip(window, options["dilation"], strict=True))
        sides = reference.explicit_padding(
            (height, width), window, strides or window, padding, options.get("dilation", 1)
        )
        if all(n + sum(side) >= k for n, side, k in zip((height, width), sides, extent, strict=True)):
            # Negative throughout, so that a border of zeros would win.
            x = rng.integers(-4, 0, (height, width, 3)).astype(float)
            return x, window, options


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("seed", range(16))
def test_max_pool_equals_the_loops_and_its_gradient_goes_to_the_first_maximum(seed):
    x, window, options = pool_problem(seed, dilated=seed % 2 == 1)
    expected, places = reference.max_pool_with_indices(x, window, **options)
    weights = np.random.default_rng(seed).normal(size=expected.shape)

    def loss(x):
        y = ops.max_pool(x, window, **options)
        return jnp.sum(weights * y), y

    gradient, y = jax.jit(jax.grad(loss, has_aux=True))(x)
    np.testing.assert_array_equal(y, expected, err_msg=f"{window} {options}")
    expected = reference.scatter_add(weights, places, x.shape)
    np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-12, err_msg=f"{window} {options}")


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("seed", range(1000, 1020))
def test_max_pool_with_indices_equals_the_loops(seed):
    x, window, options = pool_problem(seed, dilated=seed % 2 == 1)
    y, indices = jax.jit(lambda x: ops.max_pool_with_indices(x, window, **options))(x)
    expected, places = reference.max_pool_with_indices(x, window, **options)
    assert indices.dtype == jnp.int32
    np.testing.assert_array_equal(y, expected, err_msg=f"{window} {options}")
    np.testing.assert_array_equal(indices, places, err_msg=f"{window} {options}")


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("seed", range(2000, 2003))
def test_the_maxima_with_indices_pass_their_gradient_to_the_first_maximum(seed):
    x, window, options = pool_problem(seed)
    _, places = reference.max_pool_with_indices(x, window, **options)
    weights = np.random.default_rng(seed).normal(size=places.shape)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(weights * ops.max_pool_with_indices(x, window, **options)[0])))
    expected = reference.scatter_add(weights, places, x.shape)
    np.testing.assert_allclose(gradient(x), expected, rtol=1e-12, atol=1e-12, err_msg=f"{window} {options}")


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("seed", range(3000, 3006))
def test_the_tangent_of_max_pool_is_that_of_the_first_maximum(seed):
    x, window, options = pool_problem(seed)
    rng = np.random.default_rng(seed)
    dx = rng.normal(size=x.shape)
    dy = jax.jit(lambda x, dx: jax.jvp(lambda x: ops.max_pool(x, window, **options), (x,), (dx,))[1])(x, dx)
    _, places = reference.max_pool_with_indices(x, window, **options)
    expected = np.take_along_axis(dx.reshape(-1, 3), places.reshape(-1, 3), 0).reshape(places.shape)
    np.testing.assert_allclose(dy, expected, rtol=1e-12, err_msg=f"{window} {options}")


def test_an_image_of_one_value_gives_its_gradient_to_the_first_pixel_of_each_window():
    image = jnp.ones((4, 4, 1), jnp.float32)
    gradient = jax.grad(lambda x: ops.max_pool(x, 2).sum())(image)
    np.testing.assert_array_equal(gradient[..., 0], [[1, 0, 1, 0], [0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]])
    gradient = jax.grad(lambda x: ops.max_pool(x, 3, strides=1).sum())(image)
    np.testing.assert_array_equal(gradient[..., 0], [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    gradient = jax.grad(lambda x: ops.global_max_pool(x).sum())(image)
    np.testing.assert_array_equal(gradient[..., 0], np.eye(4)[:1].T @ np.eye(4)[:1])


def special_problem(seed):
    """Draws a pooling of an image of mostly -inf, of which many windows hold nothing else, with a few NaN."""
    x, window, options = pool_problem(seed, dilated=seed % 2 == 1)
    rng = np.random.default_rng(seed)
    return np.where(rng.random(x.shape) < 0.9, rng.choice([-np.inf, np.nan], x.shape, p=[0.9, 0.1]), x), window, options


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("seed", range(5000, 5012))
def test_windows_of_minus_infinity_have_a_first_pixel_and_windows_with_nan_a_last(seed):
    x, window, options = special_problem(seed)
    expected, places = reference.max_pool_with_indices(x, window, **options)
    weights = np.random.default_rng(seed).normal(size=expected.shape)

    @jax.jit
    def results(x):
        y, pull_back = jax.vjp(lambda x: ops.max_pool(x, window, **options), x)
        return y, *ops.max_pool_with_indices(x, window, **options), *pull_back(jnp.asarray(weights))

    y, maxima, indices, gradient = results(x)
    np.testing.assert_array_equal(y, expected, err_msg=f"{window} {options}")
    np.testing.assert_array_equal(maxima, expected, err_msg=f"{window} {options}")
    np.testing.assert_array_equal(indices, places, err_msg=f"{window} {options}")
    expected = reference.scatter_add(weights, places, x.shape)
    np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-12, err_msg=f"{window} {options}")


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("output_shape", [1, (3, 2), (7, 9)])
def test_adaptive_windows_of_minus_infinity_have_a_first_pixel_and_windows_with_nan_a_last(output_shape):
    x, _, _ = special_problem(0)
    expected, places = reference.adaptive_max_pool_with_indices(x, output_shape)
    y, pull_back = jax.vjp(lambda x: ops.adaptive_max_pool(x, output_shape), x)
    np.testing.assert_array_equal(y, expected)
    weights = np.random.default_rng(0).normal(size=expected.shape)
    np.testing.assert_allclose(
        *pull_back(jnp.asarray(weights)), reference.scatter_add(weights, places, x.shape), rtol=1e-12, atol=1e-12
    )


def test_windows_of_minus_infinity_stay_minus_infinity_and_point_into_the_image():
    image = jnp.full((4, 4, 1), -jnp.inf, jnp.float32)
    y, indices = jax.jit(lambda x: ops.max_pool_with_indices(x, 3, strides=2, padding=1))(image)
    np.testing.assert_array_equal(y, np.full((2, 2, 1), -np.inf))
    np.testing.assert_array_equal(indices[..., 0], [[0, 1], [4, 5]])
    np.testing.assert_array_equal(ops.max_pool(image, 3, strides=2, padding=1), y)


def test_ceil_mode_takes_a_window_larger_than_the_padded_image():
    image = jnp.arange(6, dtype=jnp.float32).reshape(2, 3, 1)
    np.testing.assert_array_equal(ops.max_pool(image, 4, strides=3, ceil_mode=True), [[[5]]])
    np.testing.assert_array_equal(ops.avg_pool(image, 4, strides=3, ceil_mode=True), [[[2.5]]])
    y, indices = ops.max_pool_with_indices(image, 7, strides=(6, 5), ceil_mode=True)
    assert (y.item(), indices.item()) == (5, 5)
    with pytest.raises(ValueError, match=r"expected a window that fits the padded image"):
        ops.max_pool(image, 4, strides=2, ceil_mode=True)


def test_ceil_mode_drops_a_window_that_would_start_in_the_bottom_padding():
    # Five pixels, windows of two every three: the third window would start at pixel 5, one past the image.
    image = jnp.arange(5, dtype=jnp.float32).reshape(5, 1, 1) * jnp.ones((1, 2, 1))
    options = {"strides": 3, "padding": ((1, 1), (0, 0)), "ceil_mode": True}
    np.testing.assert_array_equal(ops.max_pool(image, 2, **options)[:, 0, 0], [0, 3])
    options["strides"] = 2
    np.testing.assert_array_equal(ops.max_pool(image, 2, **options)[:, 0, 0], [0, 2, 4])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("seed", range(4000, 4024))
def test_avg_pool_and_its_gradient_equal_the_loops(seed):
    x, window, options = pool_problem(seed)
    rng = np.random.default_rng(seed)
    options["count_include_pad"] = bool(rng.integers(2))
    x = rng.normal(size=x.shape)
    expected = reference.avg_pool(x, window, **options)
    weights, direction = rng.normal(size=expected.shape), rng.normal(size=x.shape)

    def loss(x):
        y = ops.avg_pool(x, window, **options)
        return jnp.sum(weights * y), y

    gradient, y = jax.jit(jax.grad(loss, has_aux=True))(x)
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12, err_msg=f"{window} {options}")
    slope = np.sum(weights * reference.avg_pool(direction, window, **options))
    np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=1e-10, err_msg=f"{window} {options}")


def test_avg_pool_computes_the_golden_example():
    image = jnp.array([[12, 29, 2, 5], [21, 12, 17, 25], [18, 15, 2, 19], [17, 23, 16, 5]], jnp.float32)
    y = ops.avg_pool(image[..., None], 2)
    np.testing.assert_array_equal(y[..., 0], [[18.5, 12.25], [18.25, 10.5]])
    y = ops.max_pool(image[..., None], 2)
    np.testing.assert_array_equal(y[..., 0], [[29, 25], [23, 19]])


def test_avg_pool_counts_the_padding_unless_told_otherwise():
    image = jnp.full((2, 2, 1), 4.0, jnp.float32)
    padded = ops.avg_pool(image, 2, padding=1)
    np.testing.assert_array_equal(padded[..., 0], [[1, 1], [1, 1]])
    inside = ops.avg_pool(image, 2, padding=1, count_include_pad=False)
    np.testing.assert_array_equal(inside[..., 0], [[4, 4], [4, 4]])


def test_avg_pool_never_counts_what_ceil_mode_adds():
    image = jnp.full((3, 3, 1), 4.0, jnp.float32)
    np.testing.assert_array_equal(ops.avg_pool(image, 2, ceil_mode=True)[..., 0], [[4, 4], [4, 4]])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("shape", [(5, 7, 3), (1, 1, 2), (1, 6, 1)])
def test_global_pools_equal_numpy(shape):
    x = np.random.default_rng(0).normal(size=shape)
    np.testing.assert_allclose(ops.global_avg_pool(x), x.mean((0, 1)), rtol=1e-12)
    np.testing.assert_array_equal(ops.global_max_pool(x), x.max((0, 1)))


def test_windows_that_step_over_the_image_are_refused():
    image = jnp.zeros((2, 9, 1), jnp.float32)
    message = r"expected windows that have a tap inside the image, got a dilation of \(4, 1\) for an image of \(2, 9\)"
    with pytest.raises(ValueError, match=message):
        ops.max_pool(image, 2, strides=1, dilation=(4, 1), padding=((2, 2), (0, 0)))
    # One pixel further up, a tap of the only window falls on the first row.
    assert ops.max_pool(image, 2, strides=(2, 1), dilation=(4, 1), padding=((4, 0), (0, 0))).shape == (1, 8, 1)


def test_adaptive_pools_keep_an_axis_whose_size_is_none():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 7, 2)), jnp.float32)
    for pool in (ops.adaptive_avg_pool, ops.adaptive_max_pool, lambda *a: ops.adaptive_max_pool_with_indices(*a)[0]):
        np.testing.assert_array_equal(pool(x, (None, 3)), pool(x, (5, 3)))
        np.testing.assert_array_equal(pool(x, (2, None)), pool(x, (2, 7)))
        np.testing.assert_array_equal(pool(x, None), x)


adaptive_sizes = pytest.mark.parametrize(
    ("image_shape", "output_shape"),
    [((7, 7), 1), ((7, 5), (3, 2)), ((8, 8), 4), ((5, 9), (5, 9)), ((3, 4), (7, 5)), ((10, 3), (4, 7)), ((1, 1), 3)],
)


@pytest.mark.usefixtures("float64")
@adaptive_sizes
def test_adaptive_avg_pool_and_its_gradient_equal_the_loops(image_shape, output_shape):
    rng = np.random.default_rng(0)
    x, direction = rng.normal(size=(2, *image_shape, 2))
    expected = reference.adaptive_avg_pool(x, output_shape)
    weights = rng.normal(size=expected.shape)

    def loss(x):
        y = ops.adaptive_avg_pool(x, output_shape)
        return jnp.sum(weights * y), y

    gradient, y = jax.jit(jax.grad(loss, has_aux=True))(x)
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
    slope = np.sum(weights * reference.adaptive_avg_pool(direction, output_shape))
    np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=1e-10)


@pytest.mark.usefixtures("float64")
@adaptive_sizes
def test_adaptive_max_pool_equals_the_loops_and_its_gradient_goes_to_the_first_maximum(image_shape, output_shape):
    rng = np.random.default_rng(0)
    x = rng.integers(-4, 0, (*image_shape, 2)).astype(float)
    expected, places = reference.adaptive_max_pool_with_indices(x, output_shape)
    weights = rng.normal(size=expected.shape)

    def loss(x):
        y = ops.adaptive_max_pool(x, output_shape)
        return jnp.sum(weights * y), y

    gradient, y = jax.jit(jax.grad(loss, has_aux=True))(x)
    np.testing.assert_array_equal(y, expected)
    maxima, indices = ops.adaptive_max_pool_with_indices(x, output_shape)
    assert indices.dtype == jnp.int32
    np.testing.assert_array_equal(maxima, expected)
    np.testing.assert_array_equal(indices, places)
    expected = reference.scatter_add(weights, places, x.shape)
    np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("window", "strides"), [(2, None), (3, 2), ((1, 3), (2, 1))])
def test_max_unpool_puts_each_maximum_back_in_its_place(window, strides):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 5, (7, 8, 2)).astype(float)
    y, indices = reference.max_pool_with_indices(x, window, strides=strides)
    image = np.asarray(jax.jit(lambda *a: ops.max_unpool(*a, (7, 8)))(y, indices))
    expected = np.zeros((56, 2))
    for i, j, channel in np.ndindex(y.shape):
        expected[indices[i, j, channel], channel] = y[i, j, channel]
    np.testing.assert_array_equal(image, expected.reshape(7, 8, 2))
    # Pooling the image again finds the same maxima, since nothing between them is larger.
    np.testing.assert_array_equal(reference.max_pool(image, window, strides=strides), y)


def test_max_unpool_drops_places_outside_the_output():
    indices = jnp.array([-1, 2, 4, 100]).reshape(2, 2, 1)
    image = ops.max_unpool(jnp.array([1.0, 2.0, 3.0, 4.0]).reshape(2, 2, 1), indices, 2)
    np.testing.assert_array_equal(image[..., 0], [[0, 0], [2, 0]])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint32, np.int64, np.uint64])
def test_max_unpool_takes_indices_of_any_integer_type(dtype):
    # More channels and pixels than the smallest of these types can count; the last place is outside the image.
    y = jnp.ones((1, 2, 300))
    indices = np.broadcast_to(np.array([[[100], [np.iinfo(dtype).max]]], dtype), y.shape)
    image = jax.vmap(lambda y, indices: ops.max_unpool(y, indices, (30, 9)))(y[None], indices[None])[0]
    expected = np.zeros((270, 300))
    expected[[place for place in (100, np.iinfo(dtype).max) if place < 270]] = 1
    np.testing.assert_array_equal(image.reshape(270, 300), expected)


@pytest.mark.usefixtures("float64")
def test_the_gradient_of_max_unpool_is_read_back_from_each_place():
    rng = np.random.default_rng(0)
    y, indices = reference.max_pool_with_indices(rng.normal(size=(6, 8, 2)), 2)
    weights = rng.normal(size=(6, 8, 2))
    gradient = jax.jit(jax.grad(lambda y: jnp.sum(weights * ops.max_unpool(y, jnp.asarray(indices), (6, 8)))))(y)
    expected = np.take_along_axis(weights.reshape(-1, 2), indices.reshape(-1, 2), 0).reshape(y.shape)
    np.testing.assert_allclose(gradient, expected, rtol=1e-12)


POOLS = {
    "max_pool": lambda x: ops.max_pool(x, 3, strides=2, padding="SAME"),
    "max_pool_with_indices": lambda x: ops.max_pool_with_indices(x, 3, strides=2, padding=1)[0],
    "max_unpool": lambda x: ops.max_unpool(x, jnp.arange(x.size).reshape(x.shape) * 2 % 120, (10, 12)),
    "avg_pool": lambda x: ops.avg_pool(x, 3, strides=2, padding=1, count_include_pad=False),
    "global_avg_pool": ops.global_avg_pool,
    "global_max_pool": ops.global_max_pool,
    "adaptive_avg_pool": lambda x: ops.adaptive_avg_pool(x, (3, 4)),
    "adaptive_max_pool": lambda x: ops.adaptive_max_pool(x, (3, 4)),
}


@pytest.mark.parametrize("name", ["max_pool", "max_pool_with_indices", "max_unpool", "avg_pool", "adaptive_max_pool"])
def test_vmap_equals_a_loop_in_values_and_gradients(name):
    # Integers, so that windows hold ties.
    images = np.random.default_rng(0).integers(0, 4, (2, 5, 7, 3)).astype(np.float32)

    def value_and_gradient(x):
        y, pull_back = jax.vjp(POOLS[name], x)
        return y, pull_back(jnp.cos(y))[0]

    together = jax.jit(jax.vmap(value_and_gradient))(images)
    one = jax.jit(value_and_gradient)
    for i, image in enumerate(images):
        for joint, alone in zip(together, one(image), strict=True):
            np.testing.assert_allclose(joint[i], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_in_is_half_precision_out_and_jit_equals_eager(name, dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 7, 3)), dtype)
    y = jax.jit(POOLS[name])(x)
    assert y.dtype == dtype
    expected = POOLS[name](x.astype(jnp.float32))
    tolerance = 2 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(y.astype(jnp.float32), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "pool",
    [lambda x: ops.avg_pool(x, 32), ops.global_avg_pool, lambda x: ops.adaptive_avg_pool(x, 1)],
    ids=["avg_pool", "global_avg_pool", "adaptive_avg_pool"],
)
def test_means_of_half_precision_neither_overflow_nor_stall(pool):
    # 1024 times 1000 is past float16's 65504; in bfloat16 a running sum of ones stops growing at 256.
    y = pool(jnp.full((32, 32, 1), 1000, jnp.float16))
    np.testing.assert_allclose(np.asarray(y, np.float32).ravel(), [1000], rtol=2e-3)
    y = pool(jnp.ones((32, 32, 1), jnp.bfloat16))
    np.testing.assert_allclose(np.asarray(y, np.float32).ravel(), [1], rtol=1e-2)


SIZED = {
    "max_pool": lambda x, n: ops.max_pool(x, n, strides=n // 2, padding=n // 2),
    "max_pool_with_indices": lambda x, n: ops.max_pool_with_indices(x, n, strides=n // 2, padding=n // 2)[0],
    "avg_pool": lambda x, n: ops.avg_pool(x, n, strides=n // 2, padding=n // 2, count_include_pad=False),
    "global_avg_pool": lambda x, n: ops.global_avg_pool(x),
    "global_max_pool": lambda x, n: ops.global_max_pool(x),
    "adaptive_avg_pool": lambda x, n: ops.adaptive_avg_pool(x, x.shape[0] // n),
    "adaptive_max_pool": lambda x, n: ops.adaptive_max_pool(x, x.shape[0] // n),
}


@pytest.mark.parametrize("name", SIZED)
def test_the_size_of_the_program_grows_with_neither_the_window_nor_the_image_nor_the_batch(name):
    def instructions(window, size, images):
        gradient = jax.grad(lambda x: jnp.sum(SIZED[name](x, window) ** 2))
        program = jax.jit(jax.vmap(gradient)).lower(jax.ShapeDtypeStruct((images, size, size, 3), jnp.float32))
        return program.as_text().count(" = ")

    few = instructions(8, 64, 2)
    assert instructions(64, 64, 2) <= few
    assert instructions(8, 256, 2) <= few
    assert instructions(8, 64, 32) <= few


def test_the_gradient_of_a_large_window_compiles_to_as_many_instructions_as_that_of_a_larger_one():
    def instructions(window):
        image = jnp.zeros((window, 2 * window, 1), jnp.float32)
        program = jax.jit(jax.grad(lambda x: jnp.sum(ops.max_pool(x, window, padding=1)))).lower(image).compile()
        return program.as_text().count(" = ")

    assert instructions(64) <= instructions(8) + 2


IMAGE = np.zeros((8, 8, 4), np.float32)
WINDOW_POOLS = {
    "max_pool": ops.max_pool,
    "max_pool_with_indices": ops.max_pool_with_indices,
    "avg_pool": ops.avg_pool,
}
SIZED_POOLS = {"adaptive_avg_pool": ops.adaptive_avg_pool, "adaptive_max_pool": ops.adaptive_max_pool}
GLOBAL_POOLS = {
    "global_avg_pool": lambda x, _: ops.global_avg_pool(x),
    "global_max_pool": lambda x, _: ops.global_max_pool(x),
}


@pytest.mark.parametrize(("name", "op"), (WINDOW_POOLS | SIZED_POOLS | GLOBAL_POOLS).items())
def test_pools_refuse_anything_but_one_floating_image(name, op):
    message = (
        rf"^{name} expects one image of shape \(height, width, channels\), got \(2, 8, 8, 4\); "
        r"map it over a batch with jaxcnn\.batched or jax\.vmap"
    )
    with pytest.raises(ValueError, match=message):
        op(np.zeros((2, 8, 8, 4), np.float32), 2)
    with pytest.raises(ValueError, match=rf"^{name} expects one image of .*, got \(8, 8\)$"):
        op(np.zeros((8, 8), np.float32), 2)
    with pytest.raises(ValueError, match=rf"^{name} expects an image with pixels and channels, got .*\(8, 0, 4\)"):
        op(np.zeros((8, 0, 4), np.float32), 2)
    with pytest.raises(TypeError, match=rf"^{name} expects floating point values, got uint8; convert first"):
        op(np.zeros((8, 8, 4), np.uint8), 2)


@pytest.mark.parametrize("op", WINDOW_POOLS.values())
@pytest.mark.parametrize(
    ("window", "options", "message"),
    [
        (0, {}, r"window_shape expects an int or a pair of ints, each at least 1, got 0"),
        ((2, 2, 1), {}, r"window_shape expects .*, got \(2, 2, 1\)"),
        (2, {"strides": 0}, r"strides expects an int or a pair of ints, each at least 1, got 0"),
        (2, {"strides": -1}, r"strides expects .*, got -1"),
        (2, {"padding": "REFLECT"}, r"padding expects 'VALID', 'SAME', 'SAME_LOWER', an int .*, got 'REFLECT'"),
        (2, {"padding": -1}, r"padding expects .*, got -1"),
        (
            (2, 3),
            {"padding": 2},
            r"expected a padding smaller than the window of \(2, 3\) pixels, got \(\(2, 2\), \(2, 2\)\): "
            r"a window wholly in the border has no value",
        ),
        (
            (9, 2),
            {},
            r"expected a window that fits the padded image, got a window of \(9, 2\) for an image of \(8, 8\) "
            r"with padding \(\(0, 0\), \(0, 0\)\); use a smaller window, more padding or a larger image",
        ),
    ],
)
def test_pools_refuse_windows_that_do_not_fit(op, window, options, message):
    with pytest.raises(ValueError, match=message):
        op(IMAGE, window, **options)


@pytest.mark.parametrize("op", SIZED_POOLS.values())
def test_adaptive_pools_refuse_an_empty_output(op):
    with pytest.raises(
        ValueError, match=r"output_shape expects an int or a pair of ints, each at least 1, got \(2, 0\)"
    ):
        op(IMAGE, (2, 0))


def test_max_unpool_refuses_what_does_not_fit():
    y, indices = np.zeros((4, 4, 2), np.float32), np.zeros((4, 4, 2), np.int32)
    with pytest.raises(ValueError, match=r"max_unpool expects one index for each value .*\(4, 4, 2\), got \(4, 2, 4\)"):
        ops.max_unpool(y, indices.reshape(4, 2, 4), 8)
    with pytest.raises(TypeError, match=r"max_unpool expects integer indices, got float32"):
        ops.max_unpool(y, y, 8)
    with pytest.raises(TypeError, match=r"max_unpool expects floating point values, got int32"):
        ops.max_unpool(indices, indices, 8)
    with pytest.raises(ValueError, match=r"max_unpool expects one image .*, got \(1, 4, 4, 2\); map it over a batch"):
        ops.max_unpool(y[None], indices[None], 8)
    with pytest.raises(ValueError, match=r"output_shape expects .*, got 0"):
        ops.max_unpool(y, indices, 0)
