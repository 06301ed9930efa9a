"""The sums over pixels and the factor and term of each channel against plain arithmetic, under every transformation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcnn.ops import lowering
from jaxcnn.ops.lowering import moments, native


def draw(images, pixels, width, shared, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((images, pixels, width)) + 3
    vectors = rng.standard_normal((3, 1 if shared else images, width))
    return jnp.asarray(x), *map(jnp.asarray, vectors)


def normalised(x, a, b, shift, *, own_moments, affine):
    """Takes the moments of x and scales by them: every primitive, and after one derivative all the others."""
    first, second = own_moments(x, shift)
    mean, square = first + lax.stop_gradient(shift), second / x.shape[1] + first**2
    factor = a / jnp.sqrt(1 + square)
    origin = lax.stop_gradient(mean)
    return jnp.tanh(affine(x, factor, b + (origin - mean) * factor, origin))


def ours(x, a, b, shift):
    return normalised(x, a, b, shift, own_moments=lowering.own_moments, affine=lowering.affine)


def plain(x, a, b, shift):
    return normalised(
        x,
        a,
        b,
        shift,
        own_moments=lambda x, s: (jnp.mean(x, 1) - s, jnp.sum((x - jnp.mean(x, 1, keepdims=True)) ** 2, 1)),
        affine=lambda x, a, b, s: (x - s[:, None]) * a[:, None] + b[:, None],
    )


def loss(f):
    weights = jnp.asarray(np.random.default_rng(9).standard_normal(4096))
    return lambda x, a, b, shift: jnp.sum(f(x, a, b, shift).ravel() * jnp.resize(weights, x.size))


def hessian_forward_over_reverse(f, arguments):
    tangents = tuple(jnp.cos(x) for x in arguments[:3])
    return jax.jvp(lambda x, a, b: jax.grad(loss(f), (0, 1, 2))(x, a, b, arguments[3]), arguments[:3], tangents)[1]


def hessian_reverse_over_reverse(f, arguments):
    def slope(*moving):
        gradients = jax.grad(loss(f), (0, 1, 2))(*moving, arguments[3])
        return sum(jnp.vdot(jnp.cos(x), g) for x, g in zip(arguments[:3], gradients, strict=True))

    return jax.grad(slope, (0, 1, 2))(*arguments[:3])


TRANSFORMATIONS = {
    "value": lambda f, arguments: f(*arguments),
    "gradient": lambda f, arguments: jax.grad(loss(f), (0, 1, 2))(*arguments),
    "tangent": lambda f, arguments: jax.jvp(
        lambda x, a, b: f(x, a, b, arguments[3]), arguments[:3], tuple(jnp.sin(x) for x in arguments[:3])
    )[1],
    "tangent of the vectors": lambda f, arguments: jax.jvp(
        lambda a, b: f(arguments[0], a, b, arguments[3]), arguments[1:3], tuple(jnp.sin(x) for x in arguments[1:3])
    )[1],
    "forward over reverse": hessian_forward_over_reverse,
    "reverse over reverse": hessian_reverse_over_reverse,
    "linearized": lambda f, arguments: jax.linearize(lambda x: f(x, *arguments[1:]), arguments[0])[1](arguments[0]),
    "checkpoint": lambda f, arguments: jax.grad(jax.checkpoint(loss(f)))(*arguments),
    "batch of images": lambda f, arguments: jax.vmap(jax.grad(loss(f), (0, 1)), (0, None, None, None))(
        jnp.stack([arguments[0], jnp.flip(arguments[0])]), *arguments[1:]
    ),
    "batch of vectors": lambda f, arguments: jax.vmap(jax.grad(loss(f), (0, 1, 2)), (None, 1, None, 0))(
        arguments[0], jnp.stack([arguments[1], -arguments[1]], 1), arguments[2], jnp.stack([arguments[3]] * 2)
    ),
    "batch of all": lambda f, arguments: jax.vmap(jax.vmap(jax.grad(loss(f), (0, 1, 2))))(
        *(jnp.stack([jnp.stack([x, 2 * x, 3 * x])] * 2) for x in arguments)
    ),
    "scan": lambda f, arguments: lax.scan(lambda x, _: (f(x, *arguments[1:]), None), arguments[0], None, length=3)[0],
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
def test_every_transformation_is_that_of_plain_arithmetic(transformation, shared):
    arguments = draw(3, 10, 5, shared)
    transform = TRANSFORMATIONS[transformation]
    for one, other in zip(
        jax.tree.leaves(jax.jit(lambda *arguments: transform(ours, arguments))(*arguments)),
        jax.tree.leaves(jax.jit(lambda *arguments: transform(plain, arguments))(*arguments)),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12 * np.abs(other).max())


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("pixels", "width"), [(1, 1), (63, 7), (65, 8), (63, 9), (700, 16), (1, 64), (65, 100), (700, 1)]
)
def test_the_moments_are_those_of_numpy(width, pixels):
    if not native.ready():
        pytest.skip("there is no C++ compiler here")
    for shared in (True, False):
        x, y, _, shift = draw(2, pixels, width, shared)
        y = jnp.sin(x)
        first, second = native.own_moments(x, shift)
        np.testing.assert_allclose(first, np.mean(x - shift[:, None], 1), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(second, pixels * np.var(x, 1), rtol=1e-12, atol=1e-12)
        first, second = native.moments(x, y, shift)
        np.testing.assert_allclose(first, np.sum(y, 1), rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(second, np.sum((x - shift[:, None]) * y, 1), rtol=1e-11, atol=1e-11)


def test_a_shift_is_not_differentiated():
    x, _, _, shift = draw(1, 4, 3, True)
    with pytest.raises(ValueError, match=r"the shift of a sum over pixels is a constant.*stop_gradient"):
        jax.grad(lambda s: moments.own_moments(x, s)[0].sum())(shift)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(("pixels", "width"), [(1, 3), (65, 16), (200, 35), (130, 100)])
def test_sums_of_half_precision_are_those_of_float64(pixels, width, dtype):
    if not native.ready() or not native.reads(jnp.dtype(dtype)):
        pytest.skip("there is no C++ compiler here, or no conversion of this dtype")
    rng = np.random.default_rng(pixels)
    x, y = (jnp.asarray(rng.standard_normal((2, pixels, width)) + 3, dtype) for _ in range(2))
    shift = jnp.asarray(rng.standard_normal((1, width)) + 3, jnp.float32)
    wide_x, wide_y, origin = (np.asarray(a, np.float64) for a in (x, y, shift))
    mean, squares = jax.jit(native.own_moments)(x, shift)
    assert mean.dtype == squares.dtype == jnp.float32
    np.testing.assert_allclose(mean, wide_x.mean(1) - origin, rtol=0, atol=1e-5)
    np.testing.assert_allclose(squares, wide_x.var(1) * pixels, rtol=1e-5, atol=1e-5)
    first, second = jax.jit(native.moments)(x, y, shift)
    np.testing.assert_allclose(first, wide_y.sum(1), rtol=1e-5)
    np.testing.assert_allclose(second, ((wide_x - origin[:, None]) * wide_y).sum(1), rtol=1e-5, atol=1e-3)


def sums_read(dtype, other):
    """Returns the dtypes that the C++ sums of x and y read where both are cast to float32 before."""

    def run(x, y):
        pixels = (jnp.sin(x).astype(jnp.float32).reshape(2, 12, 16), jnp.cos(y).astype(jnp.float32).reshape(2, 12, 16))
        return moments._own_moments.bind(pixels[0], jnp.zeros((1, 16))), moments._moments.bind(
            *pixels, jnp.zeros((1, 16))
        )

    images = jnp.ones((2, 3, 4, 16))
    text = jax.jit(run).lower(images.astype(dtype), images.astype(other)).as_text()
    calls = [line.rpartition(": (")[2].partition(")")[0] for line in text.splitlines() if "@jaxcnn_" in line]
    return [[part.rpartition("x")[2].rstrip(">") for part in call.split(", ")] for call in calls]


def test_sums_read_the_image_as_it_was_before_its_cast():
    if not native.ready():
        pytest.skip("there is no C++ compiler here")
    assert sums_read(jnp.bfloat16, jnp.bfloat16) == [["bf16", "f32"], ["bf16", "bf16", "f32"]]
    assert sums_read(jnp.bfloat16, jnp.float32) == [["bf16", "f32"], ["f32", "f32", "f32"]]
    assert sums_read(jnp.float32, jnp.float32) == [["f32", "f32"], ["f32", "f32", "f32"]]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_an_image_that_was_cast_to_float64_is_summed_in_float64(float64, dtype):
    x = jnp.asarray(draw(2, 50, 16, True)[0], dtype)

    def run(x):
        return moments._own_moments.bind(x.astype(jnp.float64), jnp.zeros((1, 16)))

    mean, squares = jax.jit(run)(x)
    assert mean.dtype == squares.dtype == jnp.float64
    wide = np.asarray(x, np.float64)
    np.testing.assert_allclose(mean, wide.mean(1), rtol=1e-13)
    np.testing.assert_allclose(squares, wide.var(1) * 50, rtol=1e-13)
