import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from jaxcnn import ops


def arithmetic_problem(seed):
    rng = np.random.default_rng(seed)
    size, window = rng.integers(1, 40, 2).tolist(), rng.integers(1, 8, 2).tolist()
    strides, dilation = rng.integers(1, 5, (2, 2)).tolist()
    padding = ("VALID", "SAME", int(rng.integers(0, 4)), tuple(map(tuple, rng.integers(0, 4, (2, 2)).tolist())))
    return tuple(size), tuple(window), tuple(strides), tuple(dilation), padding[rng.integers(4)]


@pytest.mark.parametrize("seed", range(60))
def test_conv_output_size_counts_the_places_of_the_kernel(seed):
    size, window, strides, dilation, padding = arithmetic_problem(seed)
    expected = reference.conv_output_size(size, window, strides, padding, dilation)
    options = {"strides": strides, "padding": padding, "dilation": dilation}
    if min(expected) == 0:
        with pytest.raises(ValueError, match=r"expected a kernel that fits the padded image of"):
            ops.conv_output_size(size, window, **options)
    else:
        assert ops.conv_output_size(size, window, **options) == expected
        sides = reference.explicit_padding(size, window, strides, padding, dilation)
        assert ops.padding_sides(size, window, strides, padding, dilation) == sides


@pytest.mark.parametrize("seed", range(60))
def test_conv_transpose_output_size_inverts_conv_output_size(seed):
    size, window, strides, dilation, _ = arithmetic_problem(seed)
    sides = reference.explicit_padding(size, window, strides, "SAME", dilation)
    options = {"strides": strides, "padding": sides, "dilation": dilation}
    output = ops.conv_output_size(size, window, **options)
    reach = [n + sum(side) - d * (k - 1) - 1 for n, side, d, k in zip(size, sides, dilation, window, strict=True)]
    left_over = tuple(r % s for r, s in zip(reach, strides, strict=True))
    assert ops.conv_transpose_output_size(output, window, output_padding=left_over, **options) == size


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_pool_output_size_counts_the_windows(seed, ceil_mode):
    size, window, strides, _, padding = arithmetic_problem(seed)
    sides = reference.explicit_padding(size, window, strides, padding)
    options = {"strides": strides, "padding": padding, "ceil_mode": ceil_mode}
    if max(sides[0]) >= window[0] or max(sides[1]) >= window[1]:
        with pytest.raises(ValueError, match=r"expected a padding smaller than the window"):
            ops.pool_output_size(size, window, **options)
    # Ceil mode takes a window that hangs over the image and its padding by less than its step.
    elif any(
        n + sum(side) + (s - 1 if ceil_mode else 0) < k
        for n, side, k, s in zip(size, sides, window, strides, strict=True)
    ):
        with pytest.raises(ValueError, match=r"expected a window that fits the padded image"):
            ops.pool_output_size(size, window, **options)
    else:
        expected = tuple(
            len(reference.pool_starts(n, k, s, side, ceil_mode))
            for n, k, s, side in zip(size, window, strides, sides, strict=True)
        )
        assert ops.pool_output_size(size, window, **options) == expected


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        # Dumoulin & Visin 2016, the figures of chapters 2 to 5.
        (ops.conv_output_size(4, 3), 2),
        (ops.conv_output_size(5, 4, padding=2), 6),
        (ops.conv_output_size(5, 3, padding="SAME"), 5),
        (ops.conv_output_size(5, 3, padding=2), 7),
        (ops.conv_output_size(5, 3, strides=2), 2),
        (ops.conv_output_size(5, 3, strides=2, padding=1), 3),
        (ops.conv_output_size(6, 3, strides=2, padding=1), 3),
        (ops.conv_output_size(7, 3, dilation=2), 3),
        (ops.pool_output_size(5, 3, strides=1), 3),
        (ops.conv_transpose_output_size(2, 3), 4),
        (ops.conv_transpose_output_size(6, 4, padding=2), 5),
        (ops.conv_transpose_output_size(2, 3, strides=2), 5),
        (ops.conv_transpose_output_size(3, 3, strides=2, padding=1), 5),
        (ops.conv_transpose_output_size(3, 3, strides=2, padding=1, output_padding=1), 6),
        # The stem of a ResNet and of an AlexNet.
        (ops.conv_output_size(224, 7, strides=2, padding=3), 112),
        (ops.pool_output_size(112, 3, strides=2, padding=1), 56),
        (ops.conv_output_size(224, 11, strides=4, padding=2), 55),
        (ops.pool_output_size(55, 3, strides=2), 27),
        # The pools of SqueezeNet and GoogLeNet count in ceil mode.
        (ops.pool_output_size(112, 3, strides=2, ceil_mode=True), 56),
    ],
)
def test_output_sizes_are_those_of_the_literature(output, expected):
    assert output == (expected, expected)


def test_same_padding_puts_the_odd_pixel_at_the_bottom_and_right():
    assert ops.padding_sides((224, 224), (7, 7), (2, 2), "SAME") == ((2, 3), (2, 3))
    assert ops.padding_sides((5, 6), (2, 4), (1, 1), "SAME") == ((0, 1), (1, 2))
    assert ops.padding_sides((4, 4), (1, 1), (3, 3), "SAME") == ((0, 0), (0, 0))


@pytest.mark.parametrize("padding", ["VALID", "SAME", 1, ((2, 0), (1, 3))])
@pytest.mark.parametrize("strides", [1, (2, 3)])
def test_the_sizes_are_those_of_the_arrays(padding, strides):
    image = jnp.zeros((13, 10, 2))
    conv = {"strides": strides, "padding": padding, "dilation": (2, 1)}
    y = jax.eval_shape(lambda x: ops.conv(x, jnp.zeros((3, 4, 2, 1)), **conv), image)
    assert y.shape[:2] == ops.conv_output_size((13, 10), (3, 4), **conv)
    pool = {"strides": strides, "padding": padding, "ceil_mode": True}
    y = jax.eval_shape(lambda x: ops.max_pool(x, (3, 4), **pool), image)
    assert y.shape[:2] == ops.pool_output_size((13, 10), (3, 4), **pool)
    if padding != "SAME":
        y = jax.eval_shape(lambda x: ops.conv_transpose(x, jnp.zeros((3, 4, 2, 1)), **conv), image)
        assert y.shape[:2] == ops.conv_transpose_output_size((13, 10), (3, 4), **conv)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("seed", range(8))
def test_a_composed_kernel_equals_two_convolutions(seed):
    rng = np.random.default_rng(seed)
    strides, dilation, outer, second_strides = rng.integers(1, 4, (4, 2)).tolist()
    first = rng.normal(size=(*rng.integers(1, 4, 2), 2, 3))
    second = rng.normal(size=(*rng.integers(1, 4, 2), 3, 4))
    dilations = {"first_strides": tuple(strides), "first_dilation": tuple(dilation), "second_dilation": tuple(outer)}
    composed = np.asarray(jax.jit(lambda *kernels: ops.compose_kernels(*kernels, **dilations))(first, second))
    np.testing.assert_allclose(composed, reference.compose_kernels(first, second, **dilations), rtol=1e-12, atol=1e-12)
    x = rng.normal(size=(composed.shape[0] + 7, composed.shape[1] + 5, 2))
    middle = reference.conv(x, first, strides=strides, dilation=dilation, padding="VALID")
    expected = reference.conv(middle, second, strides=second_strides, dilation=outer, padding="VALID")
    both = tuple(s * t for s, t in zip(strides, second_strides, strict=True))
    y = reference.conv(x, composed, strides=both, padding="VALID")
    np.testing.assert_allclose(y, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.usefixtures("float64")
def test_composition_is_associative_and_three_kernels_of_3x3_make_one_of_7x7():
    rng = np.random.default_rng(0)
    f, g, h = (rng.normal(size=(3, 3, i, o)) for i, o in ((2, 3), (3, 4), (4, 2)))
    compose = jax.jit(ops.compose_kernels)
    left, right = compose(compose(f, g), h), compose(f, compose(g, h))
    assert compose(f, g).shape == (5, 5, 2, 4)
    assert left.shape == (7, 7, 2, 2)
    np.testing.assert_allclose(left, right, rtol=1e-12, atol=1e-12)
    x = rng.normal(size=(9, 8, 2))
    in_a_row = x
    for kernel in (f, g, h):
        in_a_row = ops.conv(in_a_row, kernel, padding="VALID")
    np.testing.assert_allclose(ops.conv(x, left, padding="VALID"), in_a_row, rtol=1e-11, atol=1e-11)


def test_compose_kernels_computes_a_golden_example():
    # Polynomials multiply: (1 + 2z)(3 + z) = 3 + 7z + 2z^2.
    first = jnp.array([1.0, 2.0]).reshape(1, 2, 1, 1)
    second = jnp.array([3.0, 1.0]).reshape(1, 2, 1, 1)
    np.testing.assert_array_equal(np.ravel(ops.compose_kernels(first, second)), [3, 7, 2])
    apart = ops.compose_kernels(first, second, first_strides=2)
    np.testing.assert_array_equal(np.ravel(apart), [3, 6, 1, 2])


@pytest.mark.usefixtures("float64")
def test_the_gradient_of_compose_kernels_equals_differences_of_the_loops():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(3, 2, 2, 3)), rng.normal(size=(2, 3, 3, 2))
    weights = rng.normal(size=reference.compose_kernels(first, second, first_strides=2).shape)

    def loss(first, second):
        return jnp.sum(weights * ops.compose_kernels(first, second, first_strides=2))

    by_first, by_second = jax.jit(jax.grad(loss, argnums=(0, 1)))(first, second)
    u, v = rng.normal(size=first.shape), rng.normal(size=second.shape)
    along_first = np.sum(weights * reference.compose_kernels(u, second, first_strides=2))
    along_second = np.sum(weights * reference.compose_kernels(first, v, first_strides=2))
    np.testing.assert_allclose(np.sum(by_first * u), along_first, rtol=1e-10)
    np.testing.assert_allclose(np.sum(by_second * v), along_second, rtol=1e-10)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_composed_kernels_keep_their_dtype(dtype):
    first, second = jnp.ones((3, 3, 1, 2), dtype), jnp.ones((3, 3, 2, 1), dtype)
    assert jax.eval_shape(ops.compose_kernels, first, second).dtype == dtype


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (
            ((3, 3, 2, 4), (3, 3, 2, 4)),
            r"compose_kernels expects kernels of shapes \(height, width, in, mid\) and \(height, width, mid, out\), "
            r"got \(3, 3, 2, 4\) and \(3, 3, 2, 4\)",
        ),
        (((3, 3), (3, 3)), r"compose_kernels expects kernels .*, got \(3, 3\) and \(3, 3\)"),
    ],
)
def test_compose_kernels_refuses_kernels_that_do_not_meet(shapes, message):
    with pytest.raises(ValueError, match=message):
        ops.compose_kernels(*(jnp.zeros(shape) for shape in shapes))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.conv_output_size(0, 3), r"size expects an int or a pair of ints, each at least 1, got 0"),
        (lambda: ops.conv_output_size(8, (3, 0)), r"kernel_size expects .*, got \(3, 0\)"),
        (lambda: ops.conv_output_size(8, 3, strides=0), r"strides expects .* at least 1, got 0"),
        (lambda: ops.conv_output_size(8, 3, dilation=-2), r"dilation expects .* at least 1, got -2"),
        (lambda: ops.conv_output_size(8, 3, padding="same"), r"padding expects 'VALID', 'SAME', .*, got 'same'"),
        (
            lambda: ops.conv_output_size(8, 3, dilation=4),
            r"expected a kernel that fits the padded image of 8x8 pixels, got one that spans 9x9; "
            r"use a smaller kernel or dilation, more padding or a larger image",
        ),
        (
            lambda: ops.conv_transpose_output_size(8, 3, padding="SAME"),
            r"conv_transpose expects a padding in pixels, got 'SAME', which fits several output sizes",
        ),
        (
            lambda: ops.conv_transpose_output_size(8, 3, strides=2, output_padding=2),
            r"expected an output_padding smaller than the strides or the dilation, got output_padding \(2, 2\), "
            r"strides \(2, 2\), dilation \(1, 1\)",
        ),
        (
            lambda: ops.conv_transpose_output_size(1, 1, padding=1),
            r"expected a padding that leaves some output, got \(\(1, 1\), \(1, 1\)\), which leaves -1x-1 pixels",
        ),
        (
            lambda: ops.pool_output_size(8, 2, padding=2),
            r"expected a padding smaller than the window of \(2, 2\) pixels, got \(\(2, 2\), \(2, 2\)\)",
        ),
        (
            lambda: ops.pool_output_size((8, 1), 2),
            r"expected a window that fits the padded image, got a window of \(2, 2\) for an image of \(8, 1\)",
        ),
    ],
)
def test_sizes_that_do_not_exist_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
