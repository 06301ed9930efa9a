"""Laws that hold for every op with weights or sums, in values, gradients and batches, with the C++ kernels and without.

Those of pooling, resizing and padding are in test_image_laws.py; rounding is compared with torch's in tests/parity.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import ops

HEIGHT, WIDTH, CHANNELS = 10, 9, 6
SHAPE = (HEIGHT, WIDTH, CHANNELS)


def weights(*shape):
    """Draws numbers of either sign, none of them near zero."""
    rng = np.random.default_rng(sum(shape))
    return jnp.asarray(rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1], shape), jnp.float32)


def conv(window, outputs, *, bias=True, groups=1, **options):
    """Returns a convolution as a function of image and weights, and its weights."""
    shape = (window, window, CHANNELS // groups, outputs)
    parameters = (weights(*shape), *([weights(outputs)] if bias else []))
    return functools.partial(ops.conv, groups=groups, **options), parameters


def conv_transpose(window, outputs, *, groups=1, **options):
    shape = (window, window, CHANNELS // groups, outputs)
    return functools.partial(ops.conv_transpose, groups=groups, **options), (weights(*shape), weights(outputs))


def wide_winograd(x, kernel):
    """Goes by Winograd's algorithm where there are C++ kernels: 48 channels and enough tiles, whole or in a batch."""
    return ops.conv(jnp.concatenate([x] * 8, -1), kernel, padding=1)


def batch_norm(x, scale, bias):
    """In training, on the pixels of one image as a batch."""

    def one(pixel):
        return ops.normalize(pixel, *ops.batch_moments(pixel, "pixels"), scale, bias, epsilon=1e-5)

    pixels = x.reshape(-1, x.shape[-1])
    return jax.vmap(one, axis_name="pixels")(pixels).reshape(x.shape)


AFFINE = (weights(CHANNELS), weights(CHANNELS) + 1)

# Functions of an image and weights, with the weights.
OPS = {
    "conv": conv(3, 8),
    "conv, valid": conv(3, 8, padding="VALID", bias=False),
    "conv, strided": conv(3, 8, strides=2, padding=1),
    "conv, dilated": conv(3, 8, dilation=2),
    "conv 1x1": conv(1, 8),
    "conv 1x1, strided": conv(1, 8, strides=(2, 3)),
    "conv, grouped": conv(3, 12, groups=3, padding=1),
    "conv, grouped, strided": conv(2, 6, groups=2, strides=2),
    "conv, depthwise": conv(3, 6, groups=6),
    "conv, depthwise, multiplied": conv(3, 12, groups=6, strides=2, padding=1),
    "conv, depthwise, large": conv(9, 6, groups=6),
    "conv, one output": conv(5, 1),
    "conv, reflected": conv(3, 8, border="reflect"),
    "conv, circular": conv(3, 8, border="circular"),
    "conv, winograd": (wide_winograd, (weights(3, 3, 48, 48),)),
    "conv_transpose": conv_transpose(3, 8, strides=2, output_padding=1),
    "conv_transpose, grouped": conv_transpose(2, 6, groups=3, strides=2),
    "dense": (ops.dense, (weights(CHANNELS, 5), weights(5))),
    "batch norm": (batch_norm, AFFINE),
    "normalize": (
        lambda x, *affine: ops.normalize(x, weights(CHANNELS), jnp.ones(CHANNELS), *affine, epsilon=1e-5),
        AFFINE,
    ),
    "group_norm": (functools.partial(ops.group_norm, num_groups=3), ()),
    "layer_norm": (ops.layer_norm, AFFINE),
    "layer_norm, all axes": (functools.partial(ops.layer_norm, num_axes=3), (weights(*SHAPE), weights(*SHAPE))),
    "local_response_norm": (functools.partial(ops.local_response_norm, alpha=1.0), ()),
    "gelu": (ops.gelu, ()),
}
each_op = pytest.mark.parametrize("name", OPS)


@pytest.fixture(params=["native", "plain"], autouse=True)
def rules(request, monkeypatch):
    """Runs each law with the C++ kernels and with the rules in plain JAX."""
    if request.param == "plain":
        if not request.node.callspec.params.get("name", "conv").startswith(("conv", "batch norm", "normalize")):
            pytest.skip("does not apply: this op has one rule")
        monkeypatch.setattr("jaxcnn.ops.lowering.native.ready", lambda: False)


def function(name):
    """Returns an op as a new function, for which JAX has no program of other rules in its cache, and its weights."""
    op, parameters = OPS[name]
    return lambda x, *p: op(x, *p), parameters


def image(seed=0, shape=SHAPE, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def results(op, x, parameters, cotangent=None):
    """Returns the value, and the gradients with respect to image and weights of its product with `cotangent`."""
    y, transpose = jax.vjp(op, x, *parameters)
    return (
        y,
        *transpose(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape) if cotangent is None else cotangent),
    )


def changed(before, after):
    """Marks where two arrays differ; NaN differs from all numbers."""
    return ~np.isclose(np.asarray(before), np.asarray(after), rtol=1e-3, atol=1e-4)


def shadow(op, parameters, place, draws=3):
    """Marks which results change with the number at a place: what is made of it by the op's definition."""
    op, marks = jax.jit(op), False
    for seed in range(draws):
        base = image(seed + 1)
        marks = marks | changed(op(base, *parameters), op(base.at[place].add(7.0 + seed), *parameters))
    return marks


@each_op
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_reaches_what_is_made_of_it_and_nothing_else(name, value):
    op, parameters = function(name)
    op = jax.jit(op)
    for place in ((4, 5, 2), (0, 0, 0), (HEIGHT - 1, WIDTH - 1, CHANNELS - 1)):
        spoiled = np.asarray(op(image().at[place].set(value), *parameters))
        usual = np.asarray(op(image(), *parameters))
        touched = shadow(op, parameters, place)
        np.testing.assert_allclose(spoiled[~touched], usual[~touched], rtol=1e-4, atol=1e-4)
        if np.isnan(value):
            assert not np.isfinite(spoiled[touched]).any()


@pytest.mark.slow
@pytest.mark.heavy
@each_op
def test_a_gradient_that_is_not_finite_reaches_what_its_result_is_made_of_and_nothing_else(name):
    op, parameters = function(name)
    y = jax.jit(op)(image(), *parameters)
    place = tuple(n // 2 for n in y.shape)
    gradients = jax.jit(lambda dy: results(op, image(), parameters, dy)[1:])
    usual = gradients(jnp.ones_like(y))
    spoiled = gradients(jnp.ones_like(y).at[place].set(jnp.nan))
    larger = gradients(jnp.ones_like(y).at[place].set(1e4))
    for before, after, reached in zip(usual, spoiled, larger, strict=True):
        touched = changed(before, reached) | (np.abs(reached - before) > 0)
        np.testing.assert_allclose(np.asarray(after)[~touched], np.asarray(before)[~touched], rtol=1e-4, atol=1e-4)
        assert not np.isfinite(np.asarray(after)[changed(before, reached)]).any()


@pytest.mark.slow
@pytest.mark.heavy
@each_op
def test_members_of_an_ensemble_do_not_see_each_other(name):
    op, parameters = function(name)
    members = [(image(seed), *(p * (1 + seed / 3) for p in parameters)) for seed in range(3)]
    one = jax.jit(lambda x, *p: results(op, x, p))
    spoiled = [jax.tree.map(lambda a: jnp.full_like(a, jnp.nan), members[0]), *members[1:]]
    joint = jax.jit(jax.vmap(lambda x, *p: results(op, x, p)))(
        *(jnp.stack(arrays) for arrays in zip(*spoiled, strict=True))
    )
    for i in (1, 2):
        for expected, together in zip(one(*members[i]), joint, strict=True):
            scale = max(1.0, float(np.abs(expected).max()))
            np.testing.assert_allclose(together[i], expected, rtol=0, atol=2e-5 * scale)


@each_op
def test_an_empty_batch_gives_an_empty_batch(name):
    op, parameters = function(name)
    empty, members = jnp.zeros((0, *SHAPE)), [jnp.zeros((0, *p.shape)) for p in parameters]

    def loss(parameters, images):
        return jnp.sum(jax.vmap(lambda x: op(x, *parameters))(images))

    @jax.jit
    def run(parameters, members, empty):
        return (
            jax.vmap(lambda x: op(x, *parameters))(empty),
            jax.grad(loss)(parameters, empty),
            jax.vmap(lambda x: jax.grad(loss)(parameters, x[None]))(empty),
            jax.vmap(lambda *p: op(image(), *p))(*members) if members else empty,
        )

    y, gradients, by_image, of_members = run(parameters, members, empty)
    assert y.shape == (0, *jax.eval_shape(op, image(), *parameters).shape)
    for gradient in jax.tree.leaves(gradients):
        np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))
    assert all(gradient.shape[0] == 0 for gradient in jax.tree.leaves(by_image))
    assert of_members.shape[0] == 0


@each_op
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_no_op_relies_on_promotion_of_ranks_or_dtypes(name, dtype):
    op, parameters = function(name)
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        y, gradient, *_ = jax.eval_shape(lambda x: results(op, x, parameters), image(dtype=dtype))
    assert y.dtype == gradient.dtype == dtype


@each_op
def test_weights_of_any_floating_dtype_are_taken(name):
    op, parameters = function(name)
    for dtype in (jnp.bfloat16, jnp.float16):
        y = jax.eval_shape(op, image(), *(p.astype(dtype) for p in parameters))
        assert y.dtype == jnp.float32


@pytest.mark.slow
@pytest.mark.heavy
@each_op
def test_the_length_of_a_program_does_not_grow_with_its_batch(name):
    op, parameters = function(name)

    def length(batch):
        images = jax.ShapeDtypeStruct((batch, *SHAPE), jnp.float32)
        program = jax.jit(jax.vmap(lambda x: results(op, x, parameters)))
        return len(program.lower(images).as_text().splitlines())

    assert length(40) == length(80)
