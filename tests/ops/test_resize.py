import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from jaxcnn import ops

METHODS = [("nearest", False), ("bilinear", False), ("bilinear", True), ("bicubic", False), ("bicubic", True)]
METHODS += [("nearest-exact", False), ("area", False)]
each_method = pytest.mark.parametrize(("method", "antialias"), METHODS)


@pytest.mark.usefixtures("float64")
@each_method
@pytest.mark.parametrize("seed", range(4))
def test_resize_and_its_gradient_equal_the_loops(method, antialias, seed):
    rng = np.random.default_rng(seed)
    height, width, *output_shape = rng.integers(1, 13, 4).tolist()
    x, direction = rng.normal(size=(2, height, width, 2))
    weights = rng.normal(size=(*output_shape, 2))

    def loss(x):
        y = ops.resize(x, tuple(output_shape), method=method, antialias=antialias)
        return jnp.sum(weights * y), y

    gradient, y = jax.jit(jax.grad(loss, has_aux=True))(x)
    assert y.dtype == jnp.float64
    expected = reference.resize(x, output_shape, method=method, antialias=antialias)
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12, err_msg=f"{x.shape} to {output_shape}")
    slope = np.sum(weights * reference.resize(direction, output_shape, method=method, antialias=antialias))
    np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("method", "antialias", "values", "expected"),
    [
        ("nearest", False, [1, 2, 3], [1, 1, 2, 2, 3, 3]),
        ("nearest", False, [1, 2, 3, 4, 5], [1, 2, 4]),
        # Output pixel i looks at (i + 1/2) / 2 - 1/2 = -1/4, 1/4, 3/4, ...; beyond the border the last pixel goes on.
        ("bilinear", False, [0, 4, 8], [0, 1, 3, 5, 7, 8]),
        ("bilinear", False, [0, 4, 8, 12], [2, 10]),
        # The triangle, twice as wide, weighs 3/4, 3/4, 1/4 of the pixels that are left of it, over their sum 7/4.
        ("bilinear", True, [0, 7, 7, 7], [4, 7]),
        # Keys' cubic with a = -3/4 is 225, 67, -27, -9 of 256 at a distance of 1/4, 3/4, 5/4, 7/4.
        ("bicubic", False, [0, 0, 256, 0, 0], [0, -9, -27, 67, 225, 225, 67, -27, -9, 0]),
    ],
)
def test_resize_computes_golden_rows(method, antialias, values, expected):
    row = jnp.array(values, jnp.float32)
    n = len(expected)

    @jax.jit
    def across_and_down(row):
        across = ops.resize(row[None, :, None], (1, n), method=method, antialias=antialias)
        down = ops.resize(row[:, None, None], (n, 1), method=method, antialias=antialias)
        return across[0, :, 0], down[:, 0, 0]

    for y in across_and_down(row):
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("float64")
@each_method
@pytest.mark.parametrize("output_shape", [(1, 1), (3, 8), 6, (17, 5)])
def test_resizing_an_image_of_one_value_keeps_it(method, antialias, output_shape):
    y = ops.resize(jnp.full((6, 7, 2), 3.25), output_shape, method=method, antialias=antialias)
    assert y.shape == (*reference.pair(output_shape), 2)
    np.testing.assert_allclose(y, np.full(y.shape, 3.25), rtol=1e-12)


@pytest.mark.usefixtures("float64")
@each_method
def test_resizing_to_the_same_size_changes_nothing(method, antialias):
    x = np.random.default_rng(0).normal(size=(6, 7, 2))
    np.testing.assert_allclose(ops.resize(x, (6, 7), method=method, antialias=antialias), x, rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "values", "expected"),
    [
        ({"output_shape": (1, 5), "align_corners": True}, [0, 4, 8], [0, 2, 4, 6, 8]),
        ({"output_shape": (1, 1), "align_corners": True}, [3, 4, 8], [3]),
        # Keys' cubic with a = -3/4 is 19, -3 of 32 at distances of 1/2 and 3/2.
        (
            {"output_shape": (1, 7), "align_corners": True, "method": "bicubic"},
            [0, 32, 0, 0],
            [0, 19, 32, 19, 0, -3, 0],
        ),
        ({"output_shape": (1, 2), "method": "nearest-exact"}, [1, 2, 3, 4, 5], [2, 4]),
        ({"output_shape": (1, 2), "method": "area"}, [1, 2, 6, 5, 5], [3, 16 / 3]),
        # Output pixel i looks at (i + 1/2) / 0.4 - 1/2 = 3/4, 13/4, as the factor says; 5 / 2 is its quotient too.
        ({"scale_factor": (1, 0.4)}, [0, 4, 8, 12, 16], [3, 13]),
        # Of 5 * 0.5 pixels 2 are left, and the scale is 2: (i + 1/2) 2 - 1/2 = 1/2, 5/2. By size it would be 5 / 2.
        ({"scale_factor": (1, 0.5)}, [0, 4, 8, 12, 16], [2, 10]),
        ({"scale_factor": (1, 0.5), "method": "nearest"}, [0, 4, 8, 12, 16], [0, 8]),
        ({"scale_factor": (1, 0.5), "method": "nearest-exact"}, [0, 4, 8, 12, 16], [4, 12]),
        # 1 / 0.1 is 10 in floating point, though 0.1 is a little more than a tenth.
        ({"scale_factor": (1, 0.1), "method": "nearest"}, list(range(20)), [0, 10]),
    ],
    ids=str,
)
def test_corners_factors_and_areas_are_as_defined(options, values, expected):
    y = ops.resize(jnp.array(values, jnp.float32)[None, :, None], **options)
    np.testing.assert_allclose(y[0, :, 0], expected, atol=1e-5)


# Floating point puts one of these pixels before its whole quotient: 24 / 94 * 47 comes to less than 12.
@pytest.mark.parametrize(("size", "outputs"), [(3, 7), (7, 49), (49, 7), (24, 94), (30, 22), (45, 33)])
def test_nearest_takes_the_pixel_at_the_whole_quotient(size, outputs):
    y = ops.resize(jnp.arange(size, dtype=jnp.float32).reshape(1, size, 1), (1, outputs), method="nearest")
    np.testing.assert_array_equal(y[0, :, 0], [i * size // outputs for i in range(outputs)])


@pytest.mark.usefixtures("float64")
@each_method
def test_vmap_equals_a_loop_and_jit_equals_eager(method, antialias):
    images = np.random.default_rng(0).normal(size=(3, 6, 5, 2))

    def resize(x):
        return ops.resize(x, (4, 9), method=method, antialias=antialias)

    batched = jax.jit(jax.vmap(resize))(images)
    for joint, image in zip(batched, images, strict=True):
        np.testing.assert_allclose(joint, resize(image), rtol=1e-12, atol=1e-12)


@each_method
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_in_is_half_precision_out(method, antialias, dtype):
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(9, 8, 2)), dtype)
    y = jax.jit(lambda x: ops.resize(x, (5, 13), method=method, antialias=antialias))(x)
    assert y.dtype == dtype
    expected = reference.resize(np.asarray(x, np.float64), (5, 13), method=method, antialias=antialias)
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=0, atol=4 * float(jnp.finfo(dtype).eps))


IMAGE = np.zeros((8, 8, 3), np.float32)


@pytest.mark.parametrize(
    ("error", "image", "output_shape", "options", "message"),
    [
        (
            ValueError,
            np.zeros((2, 8, 8, 3), np.float32),
            4,
            {},
            r"resize expects one image of shape \(height, width, channels\), got \(2, 8, 8, 3\); map it over a batch",
        ),
        (TypeError, np.zeros((8, 8, 3), np.uint8), 4, {}, r"resize expects floating point values, got uint8"),
        (ValueError, IMAGE, 0, {}, r"output_shape expects an int or a pair of ints, each at least 1, got 0"),
        (ValueError, IMAGE, (4, 4, 3), {}, r"output_shape expects .*, got \(4, 4, 3\)"),
        (
            ValueError,
            IMAGE,
            4,
            {"method": "lanczos"},
            r"resize expects a method among 'bilinear', 'bicubic', 'nearest', 'nearest-exact', 'area', got 'lanczos'",
        ),
        (
            ValueError,
            IMAGE,
            4,
            {"method": "nearest", "antialias": True},
            r"resize expects antialias=False with method 'nearest', which has no filter, got True",
        ),
        (
            ValueError,
            IMAGE,
            4,
            {"method": "area", "align_corners": True},
            r"resize supports align_corners=True only for .*, got method 'area' and antialias=False",
        ),
        (
            ValueError,
            IMAGE,
            4,
            {"align_corners": True, "antialias": True},
            r"resize supports align_corners=True only for .*, got method 'bilinear' and antialias=True",
        ),
        (ValueError, IMAGE, None, {}, r"resize expects either output_shape or scale_factor, got output_shape=None and"),
        (ValueError, IMAGE, 4, {"scale_factor": 2}, r"resize expects either .*, got output_shape=4 and scale_factor=2"),
        (ValueError, IMAGE, None, {"scale_factor": 0}, r"scale_factor expects a number or .* more than 0, got 0"),
        (ValueError, IMAGE, None, {"scale_factor": (1, 2, 3)}, r"scale_factor expects .*, got \(1, 2, 3\)"),
        (ValueError, IMAGE, None, {"scale_factor": (1, np.inf)}, r"scale_factor expects .*, got \(1, inf\)"),
        (
            ValueError,
            IMAGE,
            None,
            {"scale_factor": 0.1},
            r"resize expects a scale_factor that gives at least one pixel of \(8, 8\), got 0.1",
        ),
    ],
)
def test_resize_refuses_nonsense(error, image, output_shape, options, message):
    with pytest.raises(error, match=message):
        ops.resize(image, output_shape, **options)
