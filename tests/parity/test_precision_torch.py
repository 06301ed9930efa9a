"""Rounding, against torch's: errors of values and gradients in float32 and bfloat16, for inputs of any size.

Errors are root mean squares against torch in float64, and may be at most twice those of torch in the same dtype. A mean
over so many numbers hardly moves with the order of sums, which the largest error does.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import ops
from jaxcnn.layers import BatchNorm
from jaxcnn.ops.lowering import native

torch = pytest.importorskip("torch")
F = torch.nn.functional

BATCH, HEIGHT, WIDTH, CHANNELS = 8, 12, 11, 32
AS_TORCH = {4: (0, 3, 1, 2), 1: (0,)}
BACK = {4: (0, 2, 3, 1), 1: (0,), 2: (0, 1)}


def draw(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape)


def conv(window, outputs, groups=1, **options):
    """Returns a convolution here and in torch, the kernels of both, and their bias."""
    kernel, bias = draw(window, window, CHANNELS // groups, outputs), draw(outputs)

    def peer(x, kernel, bias):
        return F.conv2d(x, kernel.permute(3, 2, 0, 1), bias, groups=groups, **options)

    ours = {"strides": options.get("stride", 1), "padding": options.get("padding", 0)}
    return functools.partial(ops.conv, groups=groups, **ours), peer, (kernel, bias)


def conv_transpose(window, outputs, stride):
    kernel, bias = draw(window, window, CHANNELS, outputs), draw(outputs)

    def peer(x, kernel, bias):
        return F.conv_transpose2d(x, kernel.permute(2, 3, 0, 1), bias, stride=stride)

    return functools.partial(ops.conv_transpose, strides=stride), peer, (kernel, bias)


def batch_norm(x, scale, bias):
    layer = BatchNorm(CHANNELS, epsilon=1e-5)
    return layer.apply({"scale": scale, "bias": bias}, NEW_MOMENTS, x, train=True)[0]


NEW_MOMENTS = {"mean": jnp.zeros(CHANNELS), "var": jnp.ones(CHANNELS)}


AFFINE = (draw(CHANNELS) + 2, draw(CHANNELS))
OPS = {
    "conv": conv(3, 24, padding=1),
    "conv, strided": conv(3, 24, stride=2),
    "conv 1x1": conv(1, 48),
    "conv, grouped": conv(3, 32, groups=8, padding=1),
    "conv, depthwise": conv(3, 32, groups=32, padding=1),
    "conv_transpose": conv_transpose(3, 24, 2),
    "dense": (
        lambda x, kernel, bias: ops.dense(x.reshape(-1), kernel, bias),
        lambda x, kernel, bias: F.linear(x.permute(0, 2, 3, 1).flatten(1), kernel.T, bias),
        (draw(HEIGHT * WIDTH * CHANNELS, 40), draw(40)),
    ),
    "batch norm": (batch_norm, lambda x, *affine: F.batch_norm(x, None, None, *affine, training=True), AFFINE),
    "group norm": (
        lambda x, *affine: ops.group_norm(x, 4, *affine),
        lambda x, *affine: F.group_norm(x, 4, *affine),
        AFFINE,
    ),
    "layer norm": (
        functools.partial(ops.layer_norm, epsilon=1e-5),
        lambda x, *affine: F.layer_norm(x.permute(0, 2, 3, 1), (CHANNELS,), *affine).permute(0, 3, 1, 2),
        AFFINE,
    ),
    "avg_pool": (functools.partial(ops.avg_pool, window_shape=3), lambda x: F.avg_pool2d(x, 3), ()),
    "global_avg_pool": (ops.global_avg_pool, lambda x: x.mean((2, 3)), ()),
    "gelu": (ops.gelu, F.gelu, ()),
    "local_response_norm": (ops.local_response_norm, lambda x: F.local_response_norm(x, 5), ()),
}
# Inputs that rounding makes nothing of: sums of offsets a million times as large as what differs, squares out of range.
LINEAR = [name for name in OPS if "norm" not in name and name != "gelu"]
NORMS = ["batch norm", "group norm", "layer norm"]
CASES = [(name, "float32", "plain") for name in OPS]
CASES += [(name, "bfloat16", "plain") for name in OPS if name != "local_response_norm"]  # not in torch
CASES += [(name, "float32", kind) for name in LINEAR for kind in ("tiny", "huge")]
CASES += [(name, "float32", "far from zero") for name in NORMS]


def numbers(array, dtype):
    """Rounds numbers to a dtype, so that all that follows starts from the same ones."""
    return np.asarray(jnp.asarray(array, dtype), np.float64)


def root_mean_square(errors):
    return float(np.sqrt(np.mean(np.square(errors))))


@pytest.mark.parametrize(("name", "dtype", "kind"), CASES, ids=lambda part: part)
def test_errors_of_values_and_gradients_are_at_most_twice_those_of_torch(name, dtype, kind):
    op, peer, parameters = OPS[name]
    x = {"plain": 1, "tiny": 1e-30, "huge": 1e30, "far from zero": 1}[kind] * draw(BATCH, HEIGHT, WIDTH, CHANNELS)
    if kind == "far from zero":
        x = x + 1e5
    if kind in ("tiny", "huge"):  # the bias would be all that is left, or nothing
        parameters = (*parameters[:1], *(0 * bias for bias in parameters[1:]))
    arrays = [numbers(array, dtype) for array in (x, *parameters)]

    def in_torch(dtype, weights=None):
        image, *others = (torch.tensor(array, dtype=dtype) for array in arrays)
        tensors = [image.permute(0, 3, 1, 2).contiguous(), *others]
        for tensor in tensors:
            tensor.requires_grad_()
        y = peer(*tensors)
        weights = torch.tensor(weights, dtype=dtype).permute(*AS_TORCH.get(y.ndim, (0, 1)))
        y.backward(weights.reshape(y.shape))
        results = [y.detach(), tensors[0].grad, *(tensor.grad for tensor in tensors[1:])]
        as_ours = [r.permute(*BACK[r.ndim]) if i < 2 else r for i, r in enumerate(results)]
        return [r.double().numpy() for r in as_ours]

    images, *own = (jnp.asarray(array, dtype) for array in arrays)
    forward = jax.jit(lambda x, *p: jax.vmap(lambda one: op(one, *p), axis_name="batch")(x))
    shape = jax.eval_shape(forward, images, *own).shape
    # With a mean, as after a global pooling: the terms of a norm's gradient then nearly cancel.
    weights = numbers(np.random.default_rng(1).normal(size=shape) / 2 + 1, dtype)
    y, transpose = jax.vjp(forward, images, *own)
    ours = [y, *transpose(jnp.asarray(weights, dtype))]
    exact = in_torch(torch.float64, weights)
    theirs = in_torch({"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype], weights)
    for one, other, truth in zip(ours, theirs, exact, strict=True):
        scale = root_mean_square(truth)
        errors = [root_mean_square((np.asarray(array, np.float64) - truth) / scale) for array in (one, other)]
        # One rounding of the result is nobody's fault.
        floor = {"float32": 2.0**-25, "bfloat16": 2.0**-9}[dtype]
        # The sums of a matrix product are XLA's own.
        most = 3 if name == "dense" else 2
        assert errors[0] <= most * max(errors[1], floor), errors


@pytest.mark.parametrize("channels", [64, 256])
def test_winograds_algorithm_rounds_at_most_ten_times_as_coarsely_as_torch(channels):
    if not native.ready():
        pytest.skip("there is no C++ compiler here")
    x, kernel, weights = draw(8, 12, 12, channels), draw(3, 3, channels, channels), draw(8, 12, 12, channels) + 0.5
    rounded = [numbers(array, "float32") for array in (x, kernel, weights)]

    def in_torch(dtype):
        image, kernel, weights = (torch.tensor(array, dtype=dtype) for array in rounded)
        image, kernel = image.requires_grad_(), kernel.requires_grad_()
        y = F.conv2d(image.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1), padding=1).permute(0, 2, 3, 1)
        y.backward(weights)
        return [r.detach().double().numpy() for r in (y, image.grad, kernel.grad)]

    def ours(x, kernel, weights):
        y, transpose = jax.vjp(lambda x, k: jax.vmap(lambda one: ops.conv(one, k, padding=1))(x), x, kernel)
        return y, *transpose(weights)

    single = [jnp.asarray(array, jnp.float32) for array in rounded]
    assert "algorithm = 2" in jax.jit(ours).lower(*single).as_text()
    exact, theirs = in_torch(torch.float64), in_torch(torch.float32)
    for one, other, truth in zip(ours(*single), theirs, exact, strict=True):
        errors = [root_mean_square(np.asarray(array, np.float64) - truth) for array in (one, other)]
        assert errors[0] <= 10 * errors[1], errors
