"""The ops on torch's own test cases: the samples that `torch.testing` keeps for its operators, values and gradients.

Every sample is either run, and then equal to torch in float64, or counted under the reason why it is not. torch's
layouts are kept: images are (batch, channels, height, width) or lack the batch.
"""

import functools
import importlib.util
import sys
import types
import unittest
import warnings
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import ops
from jaxcnn.tasks import cross_entropy

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.usefixtures("float64")


class Unsupported(Exception):
    """Says why a sample asks for what the ops do not have."""


@functools.cache
def op_infos():
    """Returns torch's operators under test by name and variant. The import takes seconds."""
    if importlib.util.find_spec("expecttest") is None:
        # torch's own tests need it; their samples only its name.
        stub = types.ModuleType("expecttest")
        stub.TestCase = unittest.TestCase
        sys.modules["expecttest"] = stub
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db
    named = {f"{info.name} {info.variant_test_name}".strip().removeprefix("nn.functional."): info for info in op_db}
    return named


def samples_of(name):
    torch.manual_seed(0)
    # torch draws some of its samples from the random numbers of Python and NumPy.
    return list(op_infos()[name].sample_inputs("cpu", torch.float64, requires_grad=True))


def pair(value):
    value = (value,) if isinstance(value, int | float) else tuple(value)
    return value * 2 if len(value) == 1 else value


def sides(padding):
    vertical, horizontal = pair(padding)
    return (vertical, vertical), (horizontal, horizontal)


def over_images(op):
    """Lifts an op on (height, width, channels) to torch's layout; of a row, the height is 1."""

    def lifted(x, *others):
        rows = x.ndim == 3 and op.rows
        # Indices, where there are any, have the layout of the images.
        batches = (a if a.ndim == 4 else a[:, :, None] if rows else a[None] for a in (x, *others))
        moved = [jnp.moveaxis(a, 1, -1) for a in batches]
        y = jax.tree.map(lambda y: jnp.moveaxis(y, -1, 1), jax.vmap(op)(*moved))
        return y if x.ndim == 4 else jax.tree.map(lambda y: y[:, :, 0] if rows else y[0], y)

    op.rows = getattr(op, "rows", False)
    return lifted


def check_not_empty(x):
    if 0 in x.shape[1:]:
        raise Unsupported("an image has pixels and channels")


def conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    padding = padding.upper() if isinstance(padding, str) else sides(padding)
    options = {"strides": pair(stride), "padding": padding, "dilation": pair(dilation), "groups": groups}

    def op(x, weight, bias=None):
        kernel = weight.transpose(2, 3, 1, 0)
        return over_images(lambda x: ops.conv(x, kernel, bias, **options))(x)

    return op


def conv_transpose2d(x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    options = {
        "strides": pair(stride),
        "padding": sides(padding),
        "output_padding": pair(output_padding),
        "dilation": pair(dilation),
        "groups": groups,
    }

    def op(x, weight, bias=None):
        inputs, outputs, height, width = weight.shape
        split = weight.reshape(groups, inputs // groups, outputs, height, width).transpose(3, 4, 1, 0, 2)
        kernel = split.reshape(height, width, inputs // groups, groups * outputs)
        return over_images(lambda x: ops.conv_transpose(x, kernel, bias, **options))(x)

    return op


def max_pool2d(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    op = ops.max_pool_with_indices if return_indices else ops.max_pool
    options = {
        "strides": None if stride is None else pair(stride),
        "padding": sides(padding),
        "dilation": pair(dilation),
        "ceil_mode": ceil_mode,
    }
    return over_images(lambda x: op(x, pair(kernel_size), **options))


def avg_pool2d(x, kernel_size, stride=(), padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None):
    if divisor_override is not None:
        raise Unsupported("divisor_override: multiply the mean")
    options = {"strides": pair(stride) if stride else None, "padding": sides(padding), "ceil_mode": ceil_mode}
    return over_images(lambda x: ops.avg_pool(x, pair(kernel_size), count_include_pad=count_include_pad, **options))


def adaptive_avg_pool2d(x, output_size):
    return over_images(lambda x: ops.adaptive_avg_pool(x, output_size))


def adaptive_max_pool2d(x, output_size, return_indices=False):
    op = ops.adaptive_max_pool_with_indices if return_indices else ops.adaptive_max_pool
    return over_images(lambda x: op(x, output_size))


def max_unpool2d(x, indices, kernel_size, stride=None, padding=0, output_size=None):
    kernel, padding = pair(kernel_size), pair(padding)
    stride = kernel if stride is None else pair(stride)
    if output_size is None:
        output_size = [
            (n - 1) * s - 2 * p + k for n, s, p, k in zip(x.shape[-2:], stride, padding, kernel, strict=True)
        ]
    places = jnp.asarray(indices.numpy())
    return lambda x: over_images(lambda x, places: ops.max_unpool(x, places, tuple(output_size[-2:])))(x, places)


def as_pixels(x):
    """Turns (batch, channels, ...) into (batch, height, width, channels) of height 1 for a row; features stay."""
    if x.ndim == 2:
        return x
    return jnp.moveaxis(x if x.ndim == 4 else x[:, :, None], 1, -1)


def as_channels(y, shape):
    return y if y.ndim == 2 else jnp.moveaxis(y, -1, 1).reshape(shape)


def check_eps(eps):
    if eps < 0:
        raise Unsupported("epsilon is at least 0")


def batch_norm(x, mean, var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    check_not_empty(x[None])
    mean, var = (None if moment is None else jnp.asarray(moment.detach().numpy()) for moment in (mean, var))

    def op(x, weight=None, bias=None):
        def normalized(image):
            moments = ops.batch_moments(image, "batch") if training else (mean, var)
            return ops.normalize(image, *moments, weight, bias, epsilon=eps)

        return as_channels(jax.vmap(normalized, axis_name="batch")(as_pixels(x)), x.shape)

    return op


def group_norm(x, num_groups, weight=None, bias=None, eps=1e-5):
    check_eps(eps)

    def op(x, weight=None, bias=None):
        pixels = as_pixels(x if x.ndim > 2 else x.reshape(*x.shape, 1))
        y = jax.vmap(lambda image: ops.group_norm(image, num_groups, weight, bias, epsilon=eps))(pixels)
        return as_channels(y, x.shape)

    return op


def instance_norm(
    x, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True, momentum=0.1, eps=1e-5
):
    if not use_input_stats:
        raise Unsupported("running moments of instance norm")
    return group_norm(x, x.shape[1], weight, bias, eps)


def layer_norm(x, normalized_shape, weight=None, bias=None, eps=1e-5):
    check_eps(eps)
    num_axes = len(normalized_shape)
    return lambda x, weight=None, bias=None: ops.layer_norm(x, weight, bias, num_axes=num_axes, epsilon=eps)


def local_response_norm(x, size, alpha=1e-4, beta=0.75, k=1.0):
    def op(x):
        y = jax.vmap(lambda x: ops.local_response_norm(x, size=size, alpha=alpha, beta=beta, k=k))(as_pixels(x))
        return as_channels(y, x.shape)

    return op


def interpolate(
    x, size=None, scale_factor=None, mode="nearest", align_corners=None, recompute_scale_factor=None, antialias=False
):
    if x.ndim == 5:
        raise Unsupported("volumes")
    known = x.shape[2:]
    if scale_factor is not None:
        scale_factor = pair(scale_factor) if x.ndim == 4 else (scale_factor,)
        if recompute_scale_factor:
            size, scale_factor = tuple(int(n * factor) for n, factor in zip(known, scale_factor, strict=True)), None
    else:
        size = tuple(size)
    if x.ndim == 3:
        size, scale_factor = (None if pair is None else (1, *pair) for pair in (size, scale_factor))

    def op(x):
        method = "bilinear" if mode == "linear" else mode
        return ops.resize(
            x, size, scale_factor=scale_factor, method=method, align_corners=bool(align_corners), antialias=antialias
        )

    op.rows = True
    return over_images(op)


def upsample_bilinear(x, size=None, scale_factor=None):
    return interpolate(x, size, scale_factor, "bilinear", align_corners=True)


def upsample_bilinear_aa(x, output_size=None, align_corners=False, scale_factors=None, scales_h=None, scales_w=None):
    if align_corners:
        raise Unsupported("align_corners with antialias")
    if scales_h is not None:
        raise Unsupported("a size and another scale")
    return interpolate(x, output_size, scale_factors, "bilinear", antialias=True)


BORDERS = {"reflect": "reflect", "replicate": "edge", "circular": "circular"}


def pad(x, padding, mode="constant", value=0):
    if min(padding) < 0:
        raise Unsupported("negative padding crops")
    if len(padding) > 4:
        raise Unsupported("padding of channels or depth")
    left, right, top, bottom = (*padding, 0, 0)[:4]

    def op(x):
        # All axes but the last two are batches of images of one channel.
        images = x.reshape(int(np.prod(x.shape[:-2])), *x.shape[-2:], 1)
        border = BORDERS.get(mode, value)
        y = jax.vmap(lambda x: ops.pad(x, ((top, bottom), (left, right)), border=border))(images)
        return y.reshape(*x.shape[:-2], *y.shape[1:3])

    return op


def pixel_shuffle(x, upscale_factor):
    check_not_empty(x)
    return over_images(lambda x: ops.pixel_shuffle(x, upscale_factor))


def pixel_unshuffle(x, downscale_factor):
    check_not_empty(x)
    return over_images(lambda x: ops.pixel_unshuffle(x, downscale_factor))


def entropy(x, labels, weight=None, ignore_index=None, reduction="mean"):
    if x.ndim > 2:
        raise Unsupported("labels of pixels")
    if labels.is_floating_point():
        raise Unsupported("labels are integers, not probabilities")
    if weight is not None or ignore_index is not None:
        raise Unsupported("weights of classes, ignored labels")
    reduce = {"mean": jnp.mean, "sum": jnp.sum, "none": lambda losses: losses}[reduction]
    return lambda x: reduce(cross_entropy(x, jnp.asarray(labels.numpy(), jnp.int32)))


def gelu(x, approximate="none"):
    if approximate != "none":
        raise Unsupported("jax.nn.gelu has the tanh approximation")
    return ops.gelu


def dropout(x, p=0.5, training=True):
    if not training:
        raise Unsupported("evaluation has no dropout")
    if p == 1:
        raise Unsupported("a rate is less than 1")
    if p > 0:
        raise Unsupported("other random numbers")
    return lambda x: ops.dropout(jax.random.key(0), x, 0.0)


slow = pytest.mark.slow
EMPTY, VOLUMES, CROPS = "an image has pixels and channels", "volumes", "negative padding crops"
CHANNELS = "padding of channels or depth"

# Of each operator: its translation, how many samples are run, and why how many others are not.
OPERATORS = {
    "conv2d": (conv2d, 30, {}),
    "conv_transpose2d": (conv_transpose2d, 12, {}),
    "avg_pool2d": (avg_pool2d, 2, {"divisor_override: multiply the mean": 5}),
    "adaptive_avg_pool2d": (adaptive_avg_pool2d, 10, {}),
    "adaptive_max_pool2d": (adaptive_max_pool2d, 24, {}),
    "max_unpool2d grad": (max_unpool2d, 35, {}),
    "batch_norm": (batch_norm, 10, {EMPTY: 2}),
    "group_norm": (group_norm, 17, {"epsilon is at least 0": 4}),
    "instance_norm": (instance_norm, 9, {}),
    "layer_norm": (layer_norm, 5, {"epsilon is at least 0": 1}),
    "local_response_norm": (local_response_norm, 11, {}),
    "interpolate nearest": (interpolate, 14, {VOLUMES: 9}),
    "interpolate nearest-exact": (interpolate, 14, {VOLUMES: 9}),
    "interpolate linear": (interpolate, 18, {}),
    "interpolate bilinear": (interpolate, 24, {}),
    "interpolate bicubic": (interpolate, 24, {}),
    "interpolate trilinear": (interpolate, 0, {VOLUMES: 24}),
    "interpolate area": (interpolate, 14, {VOLUMES: 8}),
    "upsample_bilinear": (upsample_bilinear, 4, {}),
    "upsample_nearest": (interpolate, 8, {VOLUMES: 4}),
    "_upsample_bilinear2d_aa": (
        upsample_bilinear_aa,
        4,
        {"align_corners with antialias": 2, "a size and another scale": 1},
    ),
    "pad constant": (pad, 37, {CROPS: 4, CHANNELS: 10}),
    "pad reflect": (pad, 9, {CROPS: 1, CHANNELS: 2}),
    "pad replicate": (pad, 9, {CROPS: 1, CHANNELS: 2}),
    "pad replicate_negative": (pad, 0, {CROPS: 6}),
    "pad circular": (pad, 6, {CROPS: 1, CHANNELS: 1}),
    "pixel_shuffle": (pixel_shuffle, 2, {EMPTY: 3}),
    "pixel_unshuffle": (pixel_unshuffle, 2, {EMPTY: 3}),
    "cross_entropy": (
        entropy,
        4,
        {
            "labels of pixels": 6,
            "labels are integers, not probabilities": 7,
            "weights of classes, ignored labels": 4,
        },
    ),
    "gelu": (gelu, 4, {"jax.nn.gelu has the tanh approximation": 4}),
    "dropout": (dropout, 3, {"evaluation has no dropout": 9, "other random numbers": 4, "a rate is less than 1": 3}),
}
# Those of many samples, all of which are run: one in so many by default.
MANY = {"max_pool2d": (max_pool2d, 1440, 45), "max_unpool2d": (max_unpool2d, 288, 24)}
PARTS = 12

# Of each operator, how many inputs that torch refuses are refused, and how many have no translation.
REFUSED = {
    "conv2d": (conv2d, 10, 0),
    "avg_pool2d": (avg_pool2d, 4, 1),
    "max_pool2d": (max_pool2d, 7, 0),
    "adaptive_avg_pool2d": (adaptive_avg_pool2d, 3, 0),
    "adaptive_max_pool2d": (adaptive_max_pool2d, 3, 0),
    "max_unpool2d": (max_unpool2d, 1, 0),
    "group_norm": (group_norm, 2, 0),
    "gelu": (gelu, 0, 1),
}


def arguments_of(translate, sample):
    """Names the image and the parameters of a sample, so that a missing weight is not taken for a bias."""
    names = translate.__code__.co_varnames[: translate.__code__.co_argcount]
    arguments = dict(zip(names, (sample.input, *sample.args), strict=False)) | sample.kwargs
    return {n: a for n, a in arguments.items() if n in ("x", "weight", "bias") and isinstance(a, torch.Tensor)}


def has_repeats(indices):
    """Tells whether windows share their maximum. torch then gives each the whole gradient of the pixel, which one of
    them alone has written; so its gradient is not that of its values.
    """
    return any(
        len(set(places)) < len(places) for places in indices.reshape(-1, *indices.shape[-2:]).flatten(1).tolist()
    )


def disagreements(name, translate, samples):
    """Runs samples as one program; returns the samples that differ from torch, and why others are not run."""
    cases, reasons = [], Counter()
    for sample in samples:
        try:
            op = translate(sample.input, *sample.args, **sample.kwargs)
        except Unsupported as reason:
            reasons[str(reason)] += 1
            continue
        tensors = arguments_of(translate, sample)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            expected = op_infos()[name].op(sample.input, *sample.args, **sample.kwargs)
        expected, *places = expected if isinstance(expected, tuple) else (expected,)
        weights = torch.randn_like(expected)
        gradients = torch.autograd.grad(
            expected,
            list(tensors.values()),
            weights,
        )
        arrays = {n: jnp.asarray(t.detach().numpy()) for n, t in tensors.items()}
        results = [expected.detach().numpy(), [p.numpy() for p in places]]
        shared = translate is max_unpool2d and has_repeats(*sample.args)
        results.append({n: g.numpy() for n, g in zip(tensors, gradients, strict=True)} if not shared else None)
        cases.append((sample, op, arrays, jnp.asarray(weights.numpy()), results))

    def value_and_gradients(op, arrays, weights):
        def valued(arrays):
            y = op(**arrays)
            return (y[0], list(y[1:])) if isinstance(y, tuple) else (y, [])

        y, pull_back, places = jax.vjp(valued, arrays, has_aux=True)
        return [y, places, *pull_back(weights.astype(y.dtype))]

    @jax.jit
    def run(inputs):
        return [value_and_gradients(case[1], *arrays) for case, arrays in zip(cases, inputs, strict=True)]

    wrong = []
    for (sample, *_, expected), actual in zip(cases, run([case[2:4] for case in cases]), strict=True):
        # The loss is float32 whatever it is given.
        tolerance = 1e-10 if actual[0].dtype == jnp.float64 else 1e-6
        if expected[-1] is None:
            actual[-1] = None
        assert jax.tree.structure(actual) == jax.tree.structure(expected)
        for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            if a.shape != b.shape or not np.allclose(a, b, rtol=tolerance, atol=tolerance):
                wrong.append(f"{name}: {tuple(sample.input.shape)} {sample.args} {sample.kwargs}\n{a}\n{b}")
    return wrong, len(cases), dict(reasons)


def assert_equal(name, translate, samples, run, unsupported):
    wrong, cases, reasons = disagreements(name, translate, samples)
    assert (wrong[:1], len(wrong)) == ([], 0)
    assert (cases, reasons) == (run, unsupported)


# The convolutions take the longest to compile, and test_ops_torch.py has some like them.
@pytest.mark.parametrize("name", [pytest.param(n, marks=slow if n == "conv2d" else ()) for n in OPERATORS])
def test_the_samples_of_torch_give_what_they_give_in_torch(name):
    translate, run, unsupported = OPERATORS[name]
    assert_equal(name, translate, samples_of(name), run, unsupported)


@pytest.mark.parametrize("name", MANY)
def test_a_share_of_the_many_samples_of_torch_gives_what_it_gives_in_torch(name):
    translate, count, step = MANY[name]
    samples = samples_of(name)
    assert len(samples) == count
    assert_equal(name, translate, samples[::step], count // step, {})


@slow
@pytest.mark.heavy
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("name", MANY)
def test_the_many_samples_of_torch_give_what_they_give_in_torch(name, part):
    translate, count, _ = MANY[name]
    assert_equal(name, translate, samples_of(name)[part::PARTS], count // PARTS, {})


@pytest.mark.parametrize("name", REFUSED)
def test_what_torch_refuses_is_refused(name):
    translate, refused, unsupported = REFUSED[name]
    outcomes = Counter()
    for case in op_infos()[name].error_inputs("cpu"):
        sample = case.sample_input
        try:
            op = translate(sample.input, *sample.args, **sample.kwargs)
            arrays = {n: jnp.asarray(t.detach().numpy()) for n, t in arguments_of(translate, sample).items()}
            jax.eval_shape(lambda arrays, op=op: op(**arrays), arrays)
        except (Unsupported, ValueError, TypeError) as error:
            outcomes[Unsupported if isinstance(error, Unsupported) else "refused"] += 1
        else:
            outcomes["taken"] += 1
    assert outcomes == Counter({"refused": refused, Unsupported: unsupported})
