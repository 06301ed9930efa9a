"""What holds for every op that pools, resizes or pads one image, or moves its channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import ops

MEANS = {
    "avg_pool": lambda x: ops.avg_pool(x, 3, strides=2, padding=1),
    "avg_pool, inside": lambda x: ops.avg_pool(x, (4, 3), strides=1, padding="SAME", count_include_pad=False),
    "avg_pool, large": lambda x: ops.avg_pool(x, 7, strides=2, padding=3, ceil_mode=True),
    "global_avg_pool": ops.global_avg_pool,
    "adaptive_avg_pool": lambda x: ops.adaptive_avg_pool(x, (4, 3)),
    "adaptive_avg_pool, larger": lambda x: ops.adaptive_avg_pool(x, (2, 11)),
    "bilinear": lambda x: ops.resize(x, (5, 16)),
    "bilinear, corners": lambda x: ops.resize(x, (5, 15), align_corners=True),
    "bilinear, antialias": lambda x: ops.resize(x, (5, 3), antialias=True),
    "bilinear, factor": lambda x: ops.resize(x, scale_factor=(0.7, 2.3)),
    "bicubic": lambda x: ops.resize(x, (18, 5), method="bicubic"),
    "bicubic, antialias": lambda x: ops.resize(x, (1, 5), method="bicubic", antialias=True),
    "nearest": lambda x: ops.resize(x, (18, 5), method="nearest"),
    "nearest-exact": lambda x: ops.resize(x, (5, 13), method="nearest-exact"),
    "area": lambda x: ops.resize(x, (4, 3), method="area"),
}
BORDERS = {
    "pad, zeros": lambda x: ops.pad(x, 1),
    "pad, value": lambda x: ops.pad(x, 1, border=-2.5),
    "pad, edge": lambda x: ops.pad(x, ((7, 0), (2, 9)), border="edge"),
    "pad, reflect": lambda x: ops.pad(x, ((8, 2), (0, 7)), border="reflect"),
    "pad, circular": lambda x: ops.pad(x, ((9, 0), (3, 8)), border="circular"),
    "channel_slice": lambda x: ops.channel_slice(x, 1, 3),
    "channel_shuffle": lambda x: ops.channel_shuffle(x, 2),
}
# Of each maximum, the mean over the same windows.
MAXIMA = {
    "max_pool": (lambda x: ops.max_pool(x, 3, strides=2, padding=1), MEANS["avg_pool"]),
    "max_pool, large": (
        lambda x: ops.max_pool(x, 7, strides=2, padding=3, ceil_mode=True),
        MEANS["avg_pool, large"],
    ),
    "max_pool_with_indices": (
        lambda x: ops.max_pool_with_indices(x, (4, 3), strides=1, padding="SAME")[0],
        MEANS["avg_pool, inside"],
    ),
    "max_pool_with_indices, large": (
        lambda x: ops.max_pool_with_indices(x, 7, strides=2, padding=3, ceil_mode=True)[0],
        MEANS["avg_pool, large"],
    ),
    "global_max_pool": (ops.global_max_pool, ops.global_avg_pool),
    "adaptive_max_pool": (lambda x: ops.adaptive_max_pool(x, (4, 3)), MEANS["adaptive_avg_pool"]),
}
OPS = MEANS | BORDERS | {name: op for name, (op, _) in MAXIMA.items()}
OPS["max_unpool"] = lambda x: ops.max_unpool(*ops.max_pool_with_indices(x, 2), (9, 8))
SHAPE = (9, 8, 4)


def value_and_gradient(op, x):
    y, pull_back = jax.vjp(op, x)
    return y, pull_back(y)[0]


def image(dtype=np.float32):
    return np.random.default_rng(0).normal(size=SHAPE).astype(dtype)


@pytest.mark.parametrize("name", OPS)
def test_no_op_promotes_ranks_or_types(name):
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(jax.vmap(lambda x: value_and_gradient(OPS[name], x)), image()[None])
        jax.eval_shape(lambda x: jax.jvp(OPS[name], (x,), (x,)), image())


@pytest.mark.parametrize("name", OPS)
def test_a_batch_may_be_empty(name):
    y, gradient = jax.jit(jax.vmap(lambda x: value_and_gradient(OPS[name], x)))(np.zeros((0, *SHAPE), np.float32))
    assert y.shape == (0, *jax.eval_shape(OPS[name], image()).shape)
    assert gradient.shape == (0, *SHAPE)


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", [*MEANS, *BORDERS, *MAXIMA])
def test_what_is_not_finite_reaches_what_depends_on_it_and_nothing_else(name):
    op = OPS[name]
    x = image(np.float64)
    pixels = x.size

    @jax.jit
    def run(x):
        y, pull_back = jax.vjp(op, x)
        # What each output depends on: for a maximum, its window, as the mean over it does.
        linear = MAXIMA[name][1] if name in MAXIMA else op
        read = jax.jacobian(linear)(x).reshape(y.size, pixels) != 0
        chosen = jax.jacobian(op)(x).reshape(y.size, pixels) != 0
        at_pixel = jnp.eye(pixels, dtype=bool).reshape(pixels, *x.shape)
        at_output = jnp.eye(y.size, dtype=bool).reshape(y.size, *y.shape)
        spoiled = [jax.vmap(lambda at, bad=bad: op(jnp.where(at, bad, x)))(at_pixel) for bad in (jnp.nan, jnp.inf)]
        gradients = [
            jax.vmap(lambda at, bad=bad: pull_back(jnp.where(at, bad, jnp.cos(y)))[0])(at_output)
            for bad in (jnp.nan, -jnp.inf)
        ]
        return read, chosen, spoiled, gradients

    read, chosen, spoiled, gradients = run(x)
    for y in spoiled:
        np.testing.assert_array_equal(~np.isfinite(y).reshape(pixels, -1), read.T)
    for gradient in gradients:
        np.testing.assert_array_equal(~np.isfinite(gradient).reshape(-1, pixels), chosen)


@pytest.mark.parametrize("name", [*MEANS, *BORDERS, *MAXIMA])
def test_half_precision_is_rounded_once_in_values_and_gradients(name):
    dtype = jnp.bfloat16
    x = jnp.asarray(image(), dtype)
    cotangent = jnp.asarray(np.random.default_rng(1).normal(size=jax.eval_shape(OPS[name], x).shape), dtype)

    def run(x, cotangent):
        y, pull_back = jax.vjp(OPS[name], x)
        return y, pull_back(cotangent)[0]

    results = jax.jit(run)(x, cotangent)
    with jax.enable_x64(True):
        exact = jax.device_get(jax.jit(run)(*(np.asarray(a).astype(np.float64) for a in (x, cotangent))))
    for result, expected in zip(results, exact, strict=True):
        assert result.dtype == dtype
        # Half of the last place, and what the sums in float32 add to it.
        allowed = np.abs(expected) * float(jnp.finfo(dtype).eps) / 2 + 1e-5 * np.max(np.abs(expected))
        assert np.all(np.abs(np.asarray(result).astype(np.float64) - expected) <= allowed)


@pytest.mark.parametrize("name", [*MEANS, *BORDERS, *MAXIMA])
def test_the_error_stays_a_few_roundings_of_the_largest_pixel(name):
    op = jax.jit(OPS[name])
    for scale, offset in ((1e-30, 0), (1e30, 0), (1, 1e6)):
        x = (image() * np.float32(scale) + np.float32(offset)).astype(np.float32)
        y = np.asarray(op(x)).astype(np.float64)
        with jax.enable_x64(True):
            expected = np.asarray(op(x.astype(np.float64)))
        # Stated so that NaN is an error too.
        assert np.max(np.abs(y - expected)) <= 4 * np.finfo(np.float32).eps * np.max(np.abs(x)), (scale, offset)
