import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from jaxcnn import ops

BORDERS = ("zeros", "edge", "reflect", "circular")


def random_size(rng, low, high):
    """Draws (vertical, horizontal), now and then the same for both and written as one int."""
    if rng.random() < 0.25:
        return int(rng.integers(low, high))
    return tuple(rng.integers(low, high, 2).tolist())


def random_padding(rng):
    spelling = rng.choice(["VALID", "SAME", "int", "sides"], p=[0.2, 0.2, 0.2, 0.4])
    if spelling == "int":
        return int(rng.integers(0, 4))
    if spelling == "sides":
        (top, bottom), (left, right) = rng.integers(0, 4, (2, 2)).tolist()
        return ((top, bottom), (left, right))
    return str(spelling)


def random_groups(rng):
    """Draws (groups, channels in, channels out): dense, grouped, depthwise or depthwise with a multiplier."""
    kind = rng.integers(4)
    if kind == 0:
        return 1, int(rng.integers(1, 5)), int(rng.integers(1, 5))
    groups = int(rng.integers(2, 5))
    if kind == 1:
        return groups, groups * int(rng.integers(2, 4)), groups * int(rng.integers(1, 4))
    return groups, groups, groups * (1 if kind == 2 else int(rng.integers(2, 4)))


def conv_problem(seed):
    """Draws images, kernels and options until the kernel fits the padded image."""
    rng = np.random.default_rng(seed)
    while True:
        image_shape = tuple(rng.integers(5, 13, 2).tolist())
        window_shape = tuple(rng.integers(1, 6, 2).tolist())
        groups, inputs, outputs = random_groups(rng)
        options = {
            "strides": random_size(rng, 1, 4),
            "dilation": random_size(rng, 1, 4),
            "padding": random_padding(rng),
            "groups": groups,
            "border": BORDERS[rng.integers(4)],
        }
        sides = reference.explicit_padding(
            image_shape, window_shape, options["strides"], options["padding"], options["dilation"]
        )
        reach = [r * (k - 1) + 1 for k, r in zip(window_shape, reference.pair(options["dilation"]), strict=True)]
        fits = all(n + sum(side) >= r for n, side, r in zip(image_shape, sides, reach, strict=True))
        # A border can only be filled from pixels that the image has.
        filled = all(max(side) < n for n, side in zip(image_shape, sides, strict=True))
        if fits and (filled or options["border"] in ("zeros", "edge")):
            x = rng.normal(size=(*image_shape, inputs))
            kernel = rng.normal(size=(*window_shape, inputs // groups, outputs))
            return x, kernel, rng.normal(size=outputs), options


def conv_transpose_problem(seed):
    rng = np.random.default_rng(seed)
    while True:
        image_shape = tuple(rng.integers(1, 7, 2).tolist())
        window_shape = tuple(rng.integers(1, 5, 2).tolist())
        groups, inputs, outputs = random_groups(rng)
        strides, dilation = rng.integers(1, 4, (2, 2)).tolist()
        padding = 0 if rng.random() < 0.2 else random_padding(rng)
        extra = [int(rng.integers(0, max(pair))) for pair in zip(strides, dilation, strict=True)]
        if padding == "SAME":
            continue
        sides = reference.explicit_padding(image_shape, window_shape, 1, padding)
        outputs_left = [
            (n - 1) * s + r * (k - 1) + 1 + e - sum(side)
            for n, s, r, k, e, side in zip(image_shape, strides, dilation, window_shape, extra, sides, strict=True)
        ]
        if min(outputs_left) >= 1:
            options = {
                "strides": tuple(strides),
                "dilation": tuple(dilation),
                "padding": padding,
                "output_padding": tuple(extra),
                "groups": groups,
            }
            x = rng.normal(size=(*image_shape, inputs))
            kernel = rng.normal(size=(*window_shape, inputs // groups, outputs))
            return x, kernel, rng.normal(size=outputs), options


CONVOLUTIONS = {
    "conv": (conv_problem, ops.conv, reference.conv),
    "conv_transpose": (conv_transpose_problem, ops.conv_transpose, reference.conv_transpose),
}
both = pytest.mark.parametrize("name", CONVOLUTIONS)


def test_conv_computes_the_golden_example():
    image = jnp.array(
        [[7, 2, 8, 8, 4], [3, 6, 6, 6, 2], [1, 6, 3, 0, 5], [0, 3, 8, 5, 2], [3, 9, 4, 3, 6]], jnp.float32
    )
    kernel = jnp.array([[5, 9, 1], [3, 8, 3], [3, 4, 6]], jnp.float32)
    y = ops.conv(image[..., None], kernel[..., None, None], padding="VALID")
    np.testing.assert_array_equal(y[..., 0], [[181, 204, 227], [195, 203, 166], [179, 206, 150]])


def test_conv_transpose_computes_the_golden_example():
    grid = jnp.array([[0, 1], [2, 3]], jnp.float32)
    y = ops.conv_transpose(grid[..., None], grid[..., None, None])
    np.testing.assert_array_equal(y[..., 0], [[0, 0, 1], [0, 4, 6], [4, 12, 9]])
    y = ops.conv_transpose(grid[..., None], grid[..., None, None], strides=2)
    np.testing.assert_array_equal(y[..., 0], [[0, 0, 0, 1], [0, 0, 2, 3], [0, 2, 0, 3], [4, 6, 6, 9]])


@pytest.mark.parametrize(
    ("border", "expected"),
    [
        ("zeros", [0, 0, 1, 2, 3, 4, 0]),
        ("edge", [1, 1, 1, 2, 3, 4, 4]),
        ("reflect", [3, 2, 1, 2, 3, 4, 3]),
        ("circular", [3, 4, 1, 2, 3, 4, 1]),
    ],
)
def test_conv_fills_the_border_as_named(border, expected):
    image = jnp.array([[1, 2, 3, 4]], jnp.float32)[..., None]
    y = ops.conv(image, jnp.ones((1, 1, 1, 1)), padding=((0, 0), (2, 1)), border=border)
    np.testing.assert_array_equal(y[0, :, 0], expected)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("seed", range(80))
def test_conv_equals_the_loops(seed):
    x, kernel, bias, options = conv_problem(seed)
    y = jax.jit(lambda *arrays: ops.conv(*arrays, **options))(x, kernel, bias)
    assert y.dtype == jnp.float64
    expected = reference.conv(x, kernel, bias, **options)
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12, err_msg=str(options))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("seed", range(32))
def test_conv_transpose_equals_stamping_the_kernel(seed):
    x, kernel, bias, options = conv_transpose_problem(seed)
    y = jax.jit(lambda *arrays: ops.conv_transpose(*arrays, **options))(x, kernel, bias)
    expected = reference.conv_transpose(x, kernel, bias, **options)
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12, err_msg=str(options))


@both
@pytest.mark.parametrize("seed", range(1000, 1004))
def test_convolutions_in_float32_equal_the_loops(name, seed):
    problem, op, loops = CONVOLUTIONS[name]
    x, kernel, _, options = problem(seed)
    y = op(jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32), **options)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, loops(x, kernel, **options), rtol=1e-4, atol=1e-4, err_msg=str(options))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("name", "seed"),
    [("conv", seed) for seed in range(2000, 2012)] + [("conv_transpose", seed) for seed in range(2020, 2026)],
)
def test_gradients_equal_differences_of_the_loops(name, seed):
    problem, op, loops = CONVOLUTIONS[name]
    *arrays, options = problem(seed)
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=loops(*arrays, **options).shape)
    gradients = jax.jit(jax.grad(lambda *a: jnp.sum(weights * op(*a, **options)), argnums=(0, 1, 2)))(*arrays)
    for i, (point, gradient) in enumerate(zip(arrays, gradients, strict=True)):
        direction = rng.normal(size=point.shape)

        def loss(value, i=i):
            return np.sum(weights * loops(*arrays[:i], value, *arrays[i + 1 :], **options))

        expected = reference.directional_derivative(loss, point, direction)
        np.testing.assert_allclose(np.sum(gradient * direction), expected, rtol=1e-10, err_msg=str(options))


@pytest.mark.usefixtures("float64")
@both
@pytest.mark.parametrize("seed", range(3000, 3003))
def test_forward_derivatives_equal_the_loops(name, seed):
    problem, op, loops = CONVOLUTIONS[name]
    x, kernel, _, options = problem(seed)
    rng = np.random.default_rng(seed)
    dx, dkernel = rng.normal(size=x.shape), rng.normal(size=kernel.shape)
    tangent = jax.jit(lambda at, along: jax.jvp(lambda x, kernel: op(x, kernel, **options), at, along)[1])
    dy = tangent((x, kernel), (dx, dkernel))
    expected = loops(dx, kernel, **options) + loops(x, dkernel, **options)
    np.testing.assert_allclose(dy, expected, rtol=1e-12, atol=1e-12, err_msg=str(options))


@pytest.mark.usefixtures("float64")
@both
@pytest.mark.parametrize("seed", range(4000, 4002))
def test_second_derivatives_equal_the_loops(name, seed):
    # y is linear in x and in the kernel, so every second derivative of sum(y^2) is a sum of products of outputs.
    problem, op, loops = CONVOLUTIONS[name]
    x, kernel, _, options = problem(seed)
    rng = np.random.default_rng(seed)
    u, v = rng.normal(size=x.shape), rng.normal(size=kernel.shape)

    def energy(x, kernel):
        return jnp.sum(op(x, kernel, **options) ** 2)

    _, (dx, dkernel) = jax.jit(
        lambda x, kernel, v: jax.jvp(lambda k: jax.grad(energy, argnums=(0, 1))(x, k), (jnp.asarray(kernel),), (v,))
    )(x, kernel, v)
    y, along_x, along_kernel, along_both = (
        loops(image, taps, **options) for image, taps in ((x, kernel), (u, kernel), (x, v), (u, v))
    )
    tolerances = {"rtol": 1e-10, "atol": 1e-9, "err_msg": str(options)}
    mixed = 2 * np.sum(along_x * along_kernel) + 2 * np.sum(y * along_both)
    np.testing.assert_allclose(np.sum(dx * u), mixed, **tolerances)
    np.testing.assert_allclose(np.sum(dkernel * v), 2 * np.sum(along_kernel**2), **tolerances)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_kernel_as_large_as_the_image_makes_one_pixel(groups):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(5, 4, 4)), rng.normal(size=(5, 4, 4 // groups, 8))
    y = ops.conv(x, kernel, strides=3, padding="VALID", groups=groups)
    assert y.shape == (1, 1, 8)
    np.testing.assert_allclose(y, reference.conv(x, kernel, padding="VALID", groups=groups), rtol=1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("window", [3, 4, (2, 5)])
@pytest.mark.parametrize("groups", [1, 3])
def test_with_a_circular_border_shifting_the_image_shifts_the_feature_map(window, groups):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 7, 3))
    kernel = rng.normal(size=(*reference.pair(window), 3 // groups, 3))

    def features(x):
        return np.asarray(ops.conv(x, kernel, groups=groups, border="circular"))

    for shift in ((1, 0), (0, 1), (-2, 3)):
        shifted = features(np.roll(x, shift, axis=(0, 1)))
        np.testing.assert_allclose(shifted, np.roll(features(x), shift, axis=(0, 1)), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_shifting_the_image_shifts_the_interior_of_the_feature_map():
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(9, 9, 2)), rng.normal(size=(3, 3, 2, 4))
    before = ops.conv(x, kernel)
    after = ops.conv(np.roll(x, (2, 1), axis=(0, 1)), kernel)
    np.testing.assert_allclose(after[3:-1, 2:-1], before[1:-3, 1:-2], rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_a_dense_layer_scanned_over_the_image_is_a_convolution():
    rng = np.random.default_rng(0)
    x, kernel, bias = rng.normal(size=(6, 7, 3)), rng.normal(size=(3, 2, 3, 4)), rng.normal(size=4)
    scanned = [
        [ops.dense(x[i : i + 3, j : j + 2].reshape(-1), kernel.reshape(-1, 4), bias) for j in range(6)]
        for i in range(4)
    ]
    y = ops.conv(x, kernel, bias, padding="VALID")
    np.testing.assert_allclose(y, np.array(scanned), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_a_grouped_convolution_is_one_convolution_for_each_group():
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(6, 7, 6)), rng.normal(size=(3, 3, 2, 9))
    parts = [ops.conv(x[..., 2 * g : 2 * g + 2], kernel[..., 3 * g : 3 * g + 3]) for g in range(3)]
    np.testing.assert_allclose(ops.conv(x, kernel, groups=3), np.concatenate(parts, -1), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("border", ["zeros", "circular"])
@pytest.mark.parametrize("seed", range(5000, 5004))
def test_conv_transpose_is_the_adjoint_of_conv(seed, border):
    # Sizes are such that the strides leave no pixel over; then <conv(x), y> = <x, conv_transpose(y)>.
    rng = np.random.default_rng(seed)
    stride, rate, window, padding = rng.integers([1, 1, 1, 0], [4, 3, 4, 3]).tolist()
    reach = rate * (window - 1) + 1
    size = int(rng.integers(5, 8)) * stride + reach - 2 * padding
    groups, inputs, outputs = 2, 4, 6
    kernel = rng.normal(size=(window, window, inputs // groups, outputs))
    x = rng.normal(size=(size, size, inputs))
    padding = ((padding, padding), (max(padding - 1, 0), padding + min(padding, 1)))
    options = {"strides": stride, "padding": padding, "dilation": rate, "groups": groups, "border": border}
    y = reference.conv(x, kernel, **options)
    cotangent = rng.normal(size=y.shape)
    swapped = kernel.reshape(window, window, inputs // groups, groups, outputs // groups)
    swapped = swapped.transpose(0, 1, 4, 3, 2).reshape(window, window, outputs // groups, inputs)
    back = np.asarray(ops.conv_transpose(cotangent, swapped, **options))
    assert back.shape == x.shape
    np.testing.assert_allclose(np.sum(y * cotangent), np.sum(x * back), rtol=1e-10)


LAWS = [
    (ops.conv, reference.conv, {"strides": 2, "groups": 4}),
    (ops.conv, reference.conv, {"dilation": 2, "padding": ((1, 2), (0, 3)), "border": "reflect"}),
    (ops.conv, reference.conv, {"strides": (1, 2), "groups": 2, "border": "circular"}),
    (ops.conv_transpose, reference.conv_transpose, {"strides": 2, "groups": 2, "padding": 1}),
]
laws = pytest.mark.parametrize(("op", "loops", "options"), LAWS)


def batch_of_problems(options, count=3):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(count, 6, 7, 4))
    kernels = rng.normal(size=(count, 3, 2, 4 // options.get("groups", 1), 8))
    return images, kernels, rng.normal(size=(count, 8))


@pytest.mark.usefixtures("float64")
@laws
@pytest.mark.parametrize("in_axes", [(0, None, None), (None, 0, None), (0, 0, 0)])
def test_vmap_equals_a_loop_in_values_and_gradients(op, loops, options, in_axes):
    batches = batch_of_problems(options)

    def value_and_gradients(*arrays):
        y, pull_back = jax.vjp(lambda *a: op(*a, **options), *arrays)
        return y, pull_back(jnp.cos(y))

    together, gradients = jax.jit(jax.vmap(value_and_gradients, in_axes))(
        *(a if axis == 0 else a[0] for a, axis in zip(batches, in_axes, strict=True))
    )
    rng = np.random.default_rng(0)
    for i in range(3):
        arrays = [a[i if axis == 0 else 0] for a, axis in zip(batches, in_axes, strict=True)]
        y = loops(*arrays, **options)
        np.testing.assert_allclose(together[i], y, rtol=1e-12, atol=1e-12)
        for j, (array, gradient) in enumerate(zip(arrays, gradients, strict=True)):
            direction = rng.normal(size=array.shape)
            moved = [*arrays[:j], array + direction, *arrays[j + 1 :]]
            expected = np.sum(np.cos(y) * (loops(*moved, **options) - y))
            np.testing.assert_allclose(np.sum(gradient[i] * direction), expected, rtol=1e-10)


@pytest.mark.usefixtures("float64")
@laws
def test_the_gradient_of_a_batch_is_the_sum_over_its_images(op, loops, options):
    images, kernels, _ = batch_of_problems(options)

    def loss(kernel, images):
        return jnp.sum(jax.vmap(lambda x: op(x, kernel, **options))(images) ** 2)

    gradient = jax.jit(jax.grad(loss))(kernels[0], images)
    y, dy = (np.stack([loops(x, kernel, **options) for x in images]) for kernel in kernels[:2])
    np.testing.assert_allclose(np.sum(gradient * kernels[1]), 2 * np.sum(y * dy), rtol=1e-10)


@pytest.mark.usefixtures("float64")
@laws
def test_nested_and_moved_batch_axes_equal_loops(op, loops, options):
    images, kernels, _ = batch_of_problems(options, count=2)
    apply = jax.vmap(jax.vmap(lambda x, kernel: op(x, kernel, **options), (3, None), 1), (None, 0))
    y = jax.jit(apply)(np.moveaxis(images, 0, 3), kernels)
    for i, kernel in enumerate(kernels):
        for j, image in enumerate(images):
            expected = loops(image, kernel, **options)
            np.testing.assert_allclose(y[i, :, j], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("float64")
@laws
def test_eager_equals_jit(op, loops, options):
    images, kernels, biases = batch_of_problems(options)
    eager = op(images[0], kernels[0], biases[0], **options)
    expected = loops(images[0], kernels[0], biases[0], **options)
    np.testing.assert_allclose(eager, expected, rtol=1e-12, atol=1e-12)
    jitted = jax.jit(lambda *a: op(*a, **options))(images[0], kernels[0], biases[0])
    np.testing.assert_allclose(jitted, eager, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("op", "loops", "options"), [LAWS[0], LAWS[-1]])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_in_is_half_precision_out(op, loops, options, dtype):
    x, kernel, bias = (jnp.asarray(a[0], jnp.float32) for a in batch_of_problems(options))
    y = jax.jit(lambda *a: op(*a, **options))(x.astype(dtype), kernel, bias)
    assert y.dtype == dtype
    rounded = [np.asarray(a.astype(dtype), np.float64) for a in (x, kernel, bias)]
    expected = loops(*rounded, **options)
    atol = 4 * float(jnp.finfo(dtype).eps) * np.abs(expected).max()
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("op", [ops.conv, ops.conv_transpose])
def test_gradients_have_the_dtypes_of_their_arrays(op):
    x, kernel, bias = (jnp.asarray(a[0], jnp.float32) for a in batch_of_problems({}))
    loss = jax.jit(jax.grad(lambda *a: jnp.sum(op(*a).astype(jnp.float32)), argnums=(0, 1, 2)))
    gradients = loss(x.astype(jnp.bfloat16), kernel, bias)
    assert [g.dtype for g in gradients] == [jnp.bfloat16, jnp.float32, jnp.float32]
    np.testing.assert_array_equal(gradients[2], np.full(8, np.prod(op(x, kernel).shape[:2])))


IMAGE = np.zeros((8, 8, 4), np.float32)
KERNEL = np.zeros((3, 3, 4, 6), np.float32)


@pytest.mark.parametrize(("name", "op"), [("conv", ops.conv), ("conv_transpose", ops.conv_transpose)])
@pytest.mark.parametrize(
    ("error", "arrays", "options", "message"),
    [
        (
            ValueError,
            (np.zeros((8, 32, 32, 4), np.float32), KERNEL),
            {},
            r"{name} expects one image of shape \(height, width, channels\), got \(8, 32, 32, 4\); "
            r"map it over a batch with jaxcnn\.batched or jax\.vmap",
        ),
        (
            ValueError,
            (np.zeros((32, 32), np.float32), KERNEL),
            {},
            r"{name} expects one image of shape \(height, width, channels\), got \(32, 32\)$",
        ),
        (
            ValueError,
            (np.zeros((0, 8, 4), np.float32), KERNEL),
            {},
            r"{name} expects an image with pixels and channels, got the empty shape \(0, 8, 4\)",
        ),
        (
            TypeError,
            (np.zeros((8, 8, 4), np.uint8), KERNEL),
            {},
            r"{name} expects floating point values, got uint8; convert first, for example image\.astype",
        ),
        (
            ValueError,
            (IMAGE, np.zeros((3, 4, 6), np.float32)),
            {},
            r"{name} expects a kernel of shape \(height, width, in_channels / groups, out_channels\), "
            r"got \(3, 4, 6\)",
        ),
        (
            ValueError,
            (IMAGE, np.zeros((0, 3, 4, 6), np.float32)),
            {},
            r"{name} expects a kernel of shape .*, got \(0, 3, 4, 6\)",
        ),
        (
            ValueError,
            (IMAGE, np.zeros((3, 3, 3, 6), np.float32)),
            {},
            r"{name} expects an image of 3 channels \(a kernel of shape \(3, 3, 3, 6\), groups=1\), "
            r"got 4 \(an image of shape \(8, 8, 4\)\)",
        ),
        (
            ValueError,
            (IMAGE, KERNEL, np.zeros(4, np.float32)),
            {},
            r"{name} expects a bias of shape \(6,\), one for each channel, got \(4,\)",
        ),
        (
            ValueError,
            (IMAGE, KERNEL),
            {"groups": 3},
            r"{name} expects groups to divide the 4 input and 6 output channels, got 3",
        ),
        (
            ValueError,
            (IMAGE, KERNEL),
            {"groups": 4},
            r"{name} expects groups to divide the 4 input and 6 output channels, got 4",
        ),
        (ValueError, (IMAGE, KERNEL), {"groups": 0}, r"{name} expects groups to divide .*, got 0"),
        (ValueError, (IMAGE, KERNEL), {"groups": 2.0}, r"{name} expects groups to divide .*, got 2\.0"),
        (
            ValueError,
            (IMAGE, KERNEL),
            {"strides": -1},
            r"strides expects an int or a pair of ints, each at least 1, got -1",
        ),
        (ValueError, (IMAGE, KERNEL), {"strides": (1, 2, 1)}, r"strides expects .*, got \(1, 2, 1\)"),
        (ValueError, (IMAGE, KERNEL), {"strides": 1.5}, r"strides expects .*, got 1\.5"),
        (ValueError, (IMAGE, KERNEL), {"strides": True}, r"strides expects .*, got True"),
        (
            ValueError,
            (IMAGE, KERNEL),
            {"dilation": 0},
            r"dilation expects an int or a pair of ints, each at least 1, got 0",
        ),
        (
            ValueError,
            (IMAGE, KERNEL),
            {"padding": "FULL"},
            r"padding expects 'VALID', 'SAME', 'SAME_LOWER', an int of at least 0 or \(\(top, bottom\), "
            r"\(left, right\)\) of such ints, got 'FULL'",
        ),
        (ValueError, (IMAGE, KERNEL), {"padding": "same"}, r"padding expects .*, got 'same'"),
        (ValueError, (IMAGE, KERNEL), {"padding": -1}, r"padding expects .*, got -1"),
        (ValueError, (IMAGE, KERNEL), {"padding": (1, 1)}, r"padding expects .*, got \(1, 1\)"),
        (
            ValueError,
            (IMAGE, KERNEL),
            {"padding": ((1, -1), (0, 0))},
            r"padding expects .*, got \(\(1, -1\), \(0, 0\)\)",
        ),
    ],
)
def test_convolutions_refuse_nonsense(name, op, error, arrays, options, message):
    with pytest.raises(error, match="^" + message.replace("{name}", name)):
        op(*arrays, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"padding": "VALID", "dilation": (5, 1)},
            r"expected a kernel that fits the padded image of 8x8 pixels, got one that spans 11x3; "
            r"use a smaller kernel or dilation, more padding or a larger image",
        ),
        ({"border": "mirror"}, r"border expects 'zeros', 'edge', 'reflect' or 'circular', got 'mirror'"),
        (
            {"border": "reflect", "padding": 8},
            r"border 'reflect' expects a padding of at most 7 pixels for an image of \(8, 8\), "
            r"got \(\(8, 8\), \(8, 8\)\)",
        ),
        (
            {"border": "circular", "padding": ((0, 0), (0, 9))},
            r"border 'circular' expects a padding of at most 8 pixels for an image of \(8, 8\), "
            r"got \(\(0, 0\), \(0, 9\)\)",
        ),
    ],
)
def test_conv_refuses_kernels_and_borders_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        ops.conv(IMAGE, KERNEL, **options)


def test_conv_accepts_the_widest_reflect_and_circular_borders():
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(4, 5, 1)).astype(np.float32), rng.normal(size=(2, 2, 1, 1)).astype(np.float32)
    for border, sides in (("reflect", ((3, 3), (4, 4))), ("circular", ((4, 4), (5, 5)))):
        y = ops.conv(x, kernel, padding=sides, border=border)
        expected = reference.conv(x, kernel, padding=sides, border=border)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"padding": "SAME"},
            r"conv_transpose expects a padding in pixels, got 'SAME', which fits several output sizes; "
            r"give an int or \(\(top, bottom\), \(left, right\)\), and output_padding",
        ),
        (
            {"strides": 2, "output_padding": (0, 2)},
            r"expected an output_padding smaller than the strides or the dilation, got output_padding \(0, 2\), "
            r"strides \(2, 2\), dilation \(1, 1\)",
        ),
        (
            {"output_padding": -1},
            r"output_padding expects an int or a pair of ints, each at least 0, got -1",
        ),
        (
            {"padding": ((5, 5), (0, 0))},
            r"expected a padding that leaves some output, got \(\(5, 5\), \(0, 0\)\), which leaves 0x10 pixels; "
            r"use less padding or a larger image",
        ),
    ],
)
def test_conv_transpose_refuses_paddings_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        ops.conv_transpose(IMAGE, KERNEL, **options)


def test_a_circular_transposed_convolution_adds_what_is_cut_off_on_the_opposite_side():
    row = jnp.array([[1.0, 2.0, 3.0]])[..., None]
    kernel = jnp.array([[1.0, 10.0, 100.0]])[..., None, None]
    y = ops.conv_transpose(row, kernel, padding=((0, 0), (1, 1)), border="circular")
    np.testing.assert_array_equal(y[0, :, 0], [312, 123, 231])
    y = ops.conv_transpose(row, kernel, padding=((0, 0), (0, 2)), border="circular")
    np.testing.assert_array_equal(y[0, :, 0], [231, 312, 123])
    with pytest.raises(ValueError, match=r"border 'circular' expects a padding of at most 1 pixels .*\(1, 1\)"):
        ops.conv_transpose(row[:, :1], kernel, padding=((0, 0), (2, 0)), border="circular")
    with pytest.raises(ValueError, match="conv_transpose expects border 'zeros' or 'circular', got 'edge'"):
        ops.conv_transpose(row, kernel, border="edge")


@pytest.mark.parametrize("options", [{}, {"strides": 2, "dilation": 2}])
def test_same_lower_puts_the_odd_pixel_at_the_top_and_left(options):
    rng = np.random.default_rng(0)
    x, kernel = jnp.asarray(rng.normal(size=(7, 8, 2))), jnp.asarray(rng.normal(size=(4, 2, 2, 3)))
    # Turned around, top is bottom and left is right.
    turned = ops.conv(x[::-1, ::-1], kernel[::-1, ::-1], padding="SAME", **options)[::-1, ::-1]
    y = ops.conv(x, kernel, padding="SAME_LOWER", **options)
    np.testing.assert_allclose(y, turned, atol=1e-5)
    assert not np.allclose(y, ops.conv(x, kernel, padding="SAME", **options))
    with pytest.raises(ValueError, match="conv_transpose expects a padding in pixels, got 'SAME_LOWER'"):
        ops.conv_transpose(x, kernel, padding="SAME_LOWER")


@pytest.mark.parametrize("value", [0, -1.5, np.float32(2), -np.inf])
def test_an_image_is_padded_by_a_number(value):
    x = np.random.default_rng(0).normal(size=(3, 4, 2)).astype(np.float32)
    y = ops.pad(jnp.asarray(x), ((1, 0), (2, 3)), border=value)
    np.testing.assert_array_equal(y, np.pad(x, ((1, 0), (2, 3), (0, 0)), constant_values=value))


@pytest.mark.parametrize("border", ["zeros", "edge", "reflect", "circular"])
def test_padding_first_is_padding_in_the_convolution(border):
    rng = np.random.default_rng(0)
    x, kernel = jnp.asarray(rng.normal(size=(5, 6, 2))), jnp.asarray(rng.normal(size=(3, 3, 2, 4)))
    sides = ((1, 2), (0, 3))
    padded = ops.pad(x, sides, border=border)
    assert padded.shape == (8, 9, 2)
    expected = ops.conv(x, kernel, padding=sides, border=border)
    np.testing.assert_allclose(ops.conv(padded, kernel, padding="VALID"), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("padding", "border", "message"),
    [
        ("SAME", "zeros", r"pad expects a number of pixels or \(\(top, bottom\), \(left, right\)\), got 'SAME'"),
        (-1, "zeros", "padding expects 'VALID', 'SAME', 'SAME_LOWER', an int of at least 0"),
        (1, "mirror", "border expects 'zeros', 'edge', 'reflect' or 'circular', got 'mirror'"),
        (1, np.nan, "border expects 'zeros', 'edge', 'reflect' or 'circular', got nan"),
        (1, True, "border expects 'zeros', 'edge', 'reflect' or 'circular', got True"),
        (5, "reflect", "border 'reflect' expects a padding of at most 4 pixels"),
    ],
)
def test_impossible_padding_is_refused(padding, border, message):
    with pytest.raises(ValueError, match=message):
        ops.pad(jnp.zeros((5, 6, 2)), padding, border=border)
