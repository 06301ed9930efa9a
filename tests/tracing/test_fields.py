"""What the traced program says a pixel sees, against the support of its derivative."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcnn import ops
from jaxcnn.tracing import ReceptiveField, Span, follow, receptive_fields, seen_by_image

SHAPE = (12, 10, 4)


def traced(function, shape=SHAPE):
    """Returns the first and last row, and the first and last column, that each pixel of the output may see."""
    program, result = jax.make_jaxpr(function, return_shape=True)(jax.ShapeDtypeStruct(shape, jnp.float32))
    (seen,) = follow(program, [seen_by_image(shape)])
    bounds = []
    channels = (-1,) if result.ndim == 3 else ()
    for line in seen:
        if line.axis is None:
            index = np.zeros(result.shape, int)
        else:
            along = np.arange(result.shape[line.axis]) // line.inner % line.count
            index = np.broadcast_to(np.expand_dims(along, tuple({*range(result.ndim)} - {line.axis})), result.shape)
        bounds.append((line.first[index].min(channels), line.last[index].max(channels)))
    return bounds


def supported(function, shape=SHAPE):
    """Returns the same by the derivative, joined over several random images; first > last where it is zero."""
    images = jax.random.uniform(jax.random.key(1), (6, *shape), minval=0.1)
    # Forwards: XLA's CPU compiler gets the reverse Jacobian of a layer norm of this size wrong.
    slopes = np.asarray(jax.jit(jax.vmap(jax.jacfwd(function)))(images))
    seen = (slopes != 0).any((0, -1))
    seen = seen.any(2) if seen.ndim == 5 else seen
    bounds = []
    for others in (-1, -2):
        rows = seen.any(others)
        size = rows.shape[-1]
        first = np.where(rows.any(-1), rows.argmax(-1), size)
        bounds.append((first, np.where(rows.any(-1), size - 1 - rows[..., ::-1].argmax(-1), -1)))
    return bounds


def check(function, shape=SHAPE, *, exact=True):
    """Compares both for each element: in the image, the bounds are those of the derivative, or at least hold them."""
    for (first, last), (low, high), size in zip(
        traced(function, shape), supported(function, shape), shape[:2], strict=True
    ):
        seen = low <= high
        assert np.all(first[seen] <= low[seen])
        assert np.all(last[seen] >= high[seen])
        if exact:
            # Where padding is read, the bounds reach beyond what the derivative shows.
            inside = seen & (first >= 0) & (last < size)
            assert inside.any()
            assert np.array_equal(first[inside], low[inside])
            assert np.array_equal(last[inside], high[inside])


def kernel(*shape):
    return jnp.asarray(np.random.default_rng(0).uniform(0.5, 1, shape), jnp.float32)


def conv(x, *shape, **options):
    """Convolves by XLA's own operation, in the layout of images."""
    options = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": ("NHWC", "HWIO", "NHWC"), **options}
    return lax.conv_general_dilated(x[None], kernel(*shape), **options)[0]


EXACT = {
    "nothing": lambda x: x,
    "pointwise": lambda x: jax.nn.gelu(x) * 2 + x**2,
    "dense": lambda x: x @ kernel(4, 3),
    "convolution": lambda x: ops.conv(x, kernel(3, 5, 4, 2)),
    "strides": lambda x: ops.conv(x, kernel(3, 2, 4, 2), strides=(2, 3), padding=((1, 0), (2, 2))),
    "dilation": lambda x: ops.conv(x, kernel(3, 3, 4, 2), dilation=(2, 3), padding=2),
    "groups": lambda x: ops.conv(x, kernel(3, 3, 2, 6), groups=2),
    "cut": lambda x: ops.conv(x, kernel(2, 2, 4, 1), padding=0)[2:-1, 1::2],
    "transposed": lambda x: ops.conv_transpose(x, kernel(4, 3, 4, 2), strides=(2, 3), padding=1),
    "transposed, dilated": lambda x: ops.conv_transpose(x, kernel(3, 3, 4, 2), strides=3, dilation=2),
    "general": lambda x: conv(x, 3, 3, 4, 2, window_strides=(2, 1), rhs_dilation=(1, 2)),
    "general, dilated": lambda x: conv(x, 3, 3, 4, 2, lhs_dilation=(2, 2), padding=((2, 1), (1, 2))),
    "channels first": lambda x: lax.conv_general_dilated(
        x.transpose(2, 0, 1)[None], kernel(2, 4, 3, 2), (2, 1), "VALID"
    ),
    "average pool": lambda x: ops.avg_pool(x, (3, 2), strides=(1, 2), padding=((1, 1), (0, 1))),
    "ceil mode": lambda x: ops.avg_pool(x, 3, strides=2, ceil_mode=True),
    "adaptive pool": lambda x: ops.adaptive_avg_pool(x, (5, 3)),
    "global pool": ops.global_avg_pool,
    "zeros": lambda x: ops.pad(x, ((1, 2), (0, 3))),
    "reflected": lambda x: ops.pad(x, 2, border="reflect"),
    "edge": lambda x: ops.conv(ops.pad(x, 2, border="edge"), kernel(3, 3, 4, 1), padding=0),
    "circular": lambda x: ops.pad(x, ((1, 2), (0, 3)), border="circular"),
    "jnp reflect": lambda x: jnp.pad(x, ((2, 1), (1, 3), (0, 0)), mode="reflect"),
    "jnp edge": lambda x: jnp.pad(x, ((2, 1), (1, 3), (0, 0)), mode="edge"),
    "jnp wrap": lambda x: jnp.pad(x, ((2, 1), (1, 3), (0, 0)), mode="wrap"),
    "interior": lambda x: lax.pad(x, 0.0, ((-2, 1, 2), (1, -1, 1), (0, 0, 0))),
    "bilinear": lambda x: ops.resize(x, (7, 17)),
    "bicubic": lambda x: ops.resize(x, (17, 7), method="bicubic"),
    "nearest": lambda x: ops.resize(x, (7, 20), method="nearest"),
    "corners": lambda x: ops.resize(x, (7, 17), align_corners=True),
    "antialias": lambda x: ops.resize(x, (5, 4), antialias=True),
    "scale": lambda x: ops.resize(x, scale_factor=(0.45, 1.7)),
    "taken": lambda x: jnp.take(x, jnp.asarray([3, 1, 7]), axis=0),
    "indexed": lambda x: x[np.asarray([3, -1, 7])][:, 2],
    "reversed": lambda x: ops.conv(x[::-1, ::-2], kernel(3, 3, 4, 1), strides=2),
    "shuffled": lambda x: ops.pixel_shuffle(x, 2),
    "unshuffled": lambda x: ops.pixel_unshuffle(x, 2),
    "channels shuffled": lambda x: x.reshape(12, 10, 2, 2).swapaxes(2, 3).reshape(12, 10, 4),
    "merged": lambda x: jnp.tanh(x.reshape(120, 4)).reshape(12, 10, 4),
    "half": lambda x: x[:6].mean(0),
    "stacked": lambda x: jnp.concatenate([x[:3], x[5:]], 0),
    "zeros by concatenation": lambda x: ops.conv(jnp.concatenate([jnp.zeros((2, 10, 4)), x]), kernel(3, 3, 4, 1)),
    "branches": lambda x: jnp.concatenate([ops.conv(x, kernel(3, 1, 4, 1)), ops.conv(x, kernel(1, 5, 4, 1))], -1),
    "normalised": lambda x: ops.layer_norm(x, jnp.ones(4), jnp.ones(4)),
    "normalised in groups": lambda x: ops.group_norm(x, 2),
    "gated": lambda x: x * jax.nn.sigmoid(x.mean((0, 1)) @ kernel(4, 4)),
    "split": lambda x: jnp.split(x, 3, axis=0)[1],
    "dynamic slice": lambda x: lax.dynamic_slice(x, (3, 0, 0), (4, 10, 4)),
    "jitted": lambda x: jax.jit(lambda y: jax.checkpoint(jnp.tanh)(y[1:]))(x),
    "looped": lambda x: lax.fori_loop(0, 3, lambda _, y: jnp.tanh(y), x),
    "flattened": lambda x: x.reshape(-1) @ kernel(480, 3),
    "one pixel": lambda x: x[5, 6],
}


@pytest.mark.parametrize("function", EXACT.values(), ids=EXACT)
def test_each_pixel_sees_what_its_derivative_shows(function):
    check(function)


LARGER = {
    "branches of a condition": lambda x: lax.cond(x[0, 0, 0] > 0, lambda y: y[1:], lambda y: y[:-1] * 2, x),
    "cumulative sum": lambda x: jnp.cumsum(x, axis=0),
    "sorted": lambda x: jnp.sort(x, axis=1),
    "transform": lambda x: jnp.fft.fft(x, axis=0).real,
    "loop that moves": lambda x: lax.fori_loop(0, 4, lambda _, y: jnp.roll(y, 1, 0), x),
    "loop of unknown length": lambda x: lax.while_loop(
        lambda y: jnp.sum(y) < 400, lambda y: y + lax.stop_gradient(y[::-1]), x
    ),
    "scan over rows": lambda x: lax.scan(lambda c, row: (c + row, c), jnp.zeros((10, 4)), x)[1],
    "written": lambda x: jnp.zeros((14, 10, 4)).at[1:-1].set(x),
    "updated": lambda x: lax.dynamic_update_slice(x, x[:2] * 2, (5, 0, 0)),
    "read at maxima": lambda x: x[jnp.argmax(x[:, 0, 0])],
    "shuffled and back": lambda x: ops.pixel_shuffle(ops.conv(ops.pixel_unshuffle(x, 2), kernel(3, 3, 16, 4)), 2),
    "turned": lambda x: x[:10] + x[:10].swapaxes(0, 1),
    "kernels of its own": lambda x: ops.conv(x, jnp.broadcast_to(x.mean((0, 1))[:, None], (3, 3, 4, 1))),
    "attention": lambda x: jax.nn.softmax(x.reshape(120, 4) @ x.reshape(120, 4).T) @ x.reshape(120, 4),
    "max pool": lambda x: ops.max_pool(x, (3, 2), strides=(2, 2), padding=((1, 1), (0, 1))),
    "large max pool": lambda x: ops.max_pool(x, 6, strides=2, padding=2),
    "adaptive max pool": lambda x: ops.adaptive_max_pool(x, (5, 3)),
    "unpooled": lambda x: ops.max_unpool(*ops.max_pool_with_indices(x, 2), (12, 10)),
}


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("function", LARGER.values(), ids=LARGER)
def test_no_pixel_sees_more_than_its_field(function):
    check(function, exact=False)


@pytest.mark.parametrize(
    ("window", "options"), [((3, 2), {"strides": 2, "padding": ((1, 1), (0, 1))}), (6, {"strides": 2, "padding": 2})]
)
def test_a_maximum_sees_what_a_mean_sees(window, options):
    maximum = traced(lambda x: ops.max_pool(x, window, **options))
    mean = traced(lambda x: ops.avg_pool(x, window, **options))
    assert all(np.array_equal(a, b) for a, b in zip(maximum, mean, strict=True))
    assert str(receptive_fields(ops.global_max_pool, IMAGE)) == "all"


IMAGE = jax.ShapeDtypeStruct(SHAPE, jnp.float32)


def span(extent, stride, start):
    return Span(Fraction(extent), Fraction(stride), Fraction(start))


@pytest.mark.parametrize(
    ("name", "height", "width"),
    [
        ("nothing", span(0, 1, 0), span(0, 1, 0)),
        ("convolution", span(2, 1, -1), span(4, 1, -2)),
        ("strides", span(2, 2, -1), span(1, 3, -2)),
        ("dilation", span(4, 1, -2), span(6, 1, -2)),
        ("transposed", span("3/2", "1/2", -1), span("2/3", "1/3", "-1/3")),
        ("nearest", span("6/7", "12/7", "-6/7"), span("1/2", "1/2", "-1/2")),
        ("shuffled", span("1/2", "1/2", "-1/2"), span("1/2", "1/2", "-1/2")),
        ("unshuffled", span(1, 2, 0), span(1, 2, 0)),
        ("zeros", span(0, 1, -1), span(0, 1, 0)),
        # Inside, whatever the border repeats.
        ("reflected", span(0, 1, -2), span(0, 1, -2)),
        ("jnp reflect", span(0, 1, -2), span(0, 1, -1)),
        ("jnp edge", span(0, 1, -2), span(0, 1, -1)),
        ("edge", span(2, 1, -2), span(2, 1, -2)),
        ("merged", span(0, 1, 0), span(0, 1, 0)),
        ("half", span(5, 12, 0), span(0, 1, 0)),
        ("one pixel", span(0, 12, 5), span(0, 10, 6)),
    ],
)
def test_fields_have_an_extent_a_stride_and_a_start(name, height, width):
    assert receptive_fields(EXACT[name], IMAGE) == ReceptiveField(height, width)


def test_every_result_has_its_field_and_other_arguments_have_none():
    def pyramid(x, weights):
        fine = ops.conv(x, weights["kernel"])
        return {"fine": fine, "coarse": ops.avg_pool(fine, 2), "weights": weights["kernel"] * 2}

    kernels = {"kernel": jax.ShapeDtypeStruct((3, 3, 4, 2), jnp.float32)}
    fields = receptive_fields(pyramid, IMAGE, kernels)
    assert {name: str(field) for name, field in fields.items()} == {"fine": "3x3", "coarse": "4x4", "weights": "0x0"}


def test_a_field_may_be_larger_than_the_image():
    def deep(x):
        for _ in range(10):
            x = ops.conv(x, kernel(3, 3, 4, 4), strides=(2, 1))
        return x

    field = receptive_fields(deep, IMAGE)
    assert field.size == (2**11 - 1, 21)
    assert not field.whole


@pytest.mark.parametrize(
    "function", [ops.global_avg_pool, jnp.sum, lambda x: x.reshape(-1), lambda x: ops.group_norm(x, 2)]
)
def test_what_mixes_all_pixels_sees_the_whole_image_ever_after(function):
    assert receptive_fields(function, IMAGE) == ReceptiveField(span(11, 12, 0), span(9, 10, 0), whole=True)
    after = receptive_fields(lambda x: ops.conv(x + jnp.sum(function(x)), kernel(3, 3, 4, 1)), IMAGE)
    assert after.whole
    assert str(after) == "all"


def operation(rng, channels, size):
    """Draws a function of an image."""
    wide = min(size) > 6
    kind = rng.choice(["conv", "transposed", "pool", "pad", "resize", "slice", "shuffle", "unshuffle", "join", "gate"])
    pair = tuple(rng.integers(1, 4, 2).tolist())
    steps = tuple(rng.integers(1, 3, 2).tolist()) if wide else (1, 1)
    match kind:
        case "conv":
            return lambda x: ops.conv(x, kernel(*pair, channels, 4), strides=steps, padding="SAME")
        case "transposed":
            strides = (1, 1) if max(size) > 30 else steps
            return lambda x: ops.conv_transpose(x, kernel(*pair, channels, 4), strides=strides)
        case "pool" if wide:
            return lambda x: ops.avg_pool(x, pair, strides=steps, ceil_mode=True)
        case "pad":
            border = str(rng.choice(["zeros", "edge", "reflect", "circular"]))
            return lambda x: ops.pad(x, ((1, 2), (2, 0)), border=border)
        case "resize":
            method, shape = str(rng.choice(["nearest", "bilinear", "bicubic", "area"])), rng.integers(5, 16, 2).tolist()
            return lambda x: ops.resize(x, tuple(shape), method=method)
        case "slice" if wide:
            return lambda x: x[1 :: steps[0], : -1 : steps[1]]
        case "shuffle" if channels == 4 and max(size) < 20:
            return lambda x: ops.pixel_shuffle(x, 2)
        case "unshuffle" if size[0] % 2 == size[1] % 2 == 0 and wide:
            return lambda x: ops.pixel_unshuffle(x, 2)
        case "join":
            return lambda x: jnp.concatenate([x, ops.conv(x, kernel(3, 1, channels, 2))], -1)
        case _:
            return lambda x: jax.nn.sigmoid(ops.conv(x, kernel(1, 3, channels, channels))) * x


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(20))
def test_random_compositions_see_no_more_than_their_fields(seed):
    rng = np.random.default_rng(seed)
    steps, shape = [], (13, 11, 2)
    for _ in range(rng.integers(2, 6)):
        step = operation(rng, shape[2], shape[:2])
        steps.append(step)
        shape = jax.eval_shape(step, jax.ShapeDtypeStruct(shape, jnp.float32)).shape
    check(lambda x: [x := step(x) for step in steps][-1], (13, 11, 2), exact=False)
