import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import ops

torch = pytest.importorskip("torch")
F = torch.nn.functional

pytestmark = pytest.mark.usefixtures("float64")

TORCH_BORDER = {"zeros": "constant", "edge": "replicate", "reflect": "reflect", "circular": "circular"}


@pytest.fixture(autouse=True)
def one_torch_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def batch_of_one(image):
    """Turns (height, width, channels) into torch's (1, channels, height, width)."""
    return image.permute(2, 0, 1)[None]


def image_of(batch):
    return batch[0].permute(1, 2, 0)


def check_values_and_gradients(op, peer, arrays, seed, tolerance=1e-12):
    """Compares op(*arrays) with peer(*tensors), and the gradients of a random weighting of their outputs."""
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    expected = peer(*tensors)
    weights = np.random.default_rng(seed).normal(size=tuple(expected.shape))
    expected.backward(torch.from_numpy(weights))

    @jax.jit
    def value_and_gradients(*arrays):
        y, pull_back = jax.vjp(op, *arrays)
        return y, pull_back(jnp.asarray(weights))

    y, gradients = value_and_gradients(*arrays)
    assert y.dtype == jnp.float64
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=tolerance, atol=tolerance)
    for gradient, tensor in zip(gradients, tensors, strict=True):
        np.testing.assert_allclose(gradient, tensor.grad.numpy(), rtol=tolerance, atol=10 * tolerance)


def conv_problem(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(6, 11, 2).tolist()
    window = rng.integers(1, 5, 2).tolist()
    strides, dilation = map(tuple, rng.integers(1, 4, (2, 2)).tolist())
    # Large enough for the widest kernel, of 4 taps 3 pixels apart, and small enough for every border.
    padding = tuple(map(tuple, rng.integers(2, 5, (2, 2)).tolist())) if rng.random() < 0.7 else "VALID"
    if padding == "VALID":
        dilation = (1, 1)
    groups, (group_inputs, group_outputs) = int(rng.choice([1, 1, 2, 3])), rng.integers(1, 4, 2).tolist()
    x = rng.normal(size=(height, width, groups * group_inputs))
    kernel = rng.normal(size=(*window, group_inputs, groups * group_outputs))
    bias = rng.normal(size=groups * group_outputs)
    return x, kernel, bias, {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}


@pytest.mark.parametrize("border", TORCH_BORDER)
@pytest.mark.parametrize("seed", range(4))
def test_conv(seed, border):
    seed = 10 * seed + list(TORCH_BORDER).index(border)
    *arrays, options = conv_problem(seed)
    (top, bottom), (left, right) = ((0, 0), (0, 0)) if options["padding"] == "VALID" else options["padding"]

    def peer(x, kernel, bias):
        padded = F.pad(batch_of_one(x), (left, right, top, bottom), mode=TORCH_BORDER[border])
        weight = kernel.permute(3, 2, 0, 1)
        y = F.conv2d(padded, weight, bias, options["strides"], 0, options["dilation"], options["groups"])
        return image_of(y)

    check_values_and_gradients(lambda *a: ops.conv(*a, border=border, **options), peer, arrays, seed)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("window", [(3, 3), (4, 1), (2, 5)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_same_padding_at_stride_one(window, dilation):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(8, 9, 4)), rng.normal(size=(*window, 2, 6))]

    def peer(x, kernel):
        weight = kernel.permute(3, 2, 0, 1)
        return image_of(F.conv2d(batch_of_one(x), weight, padding="same", dilation=dilation, groups=2))

    check_values_and_gradients(lambda *a: ops.conv(*a, dilation=dilation, groups=2), peer, arrays, 0)


def transposed_weight(kernel, groups):
    """Turns (height, width, in / groups, out) into torch's (in, out / groups, height, width)."""
    height, width, group_inputs, outputs = kernel.shape
    split = kernel.reshape(height, width, group_inputs, groups, outputs // groups)
    return split.permute(3, 2, 4, 0, 1).reshape(groups * group_inputs, outputs // groups, height, width)


@pytest.mark.parametrize("seed", range(10))
def test_conv_transpose(seed):
    rng = np.random.default_rng(seed)
    groups, (group_inputs, group_outputs) = int(rng.choice([1, 2, 3])), rng.integers(1, 4, 2).tolist()
    height, width, *window = rng.integers([3, 3, 1, 1], [7, 7, 5, 5]).tolist()
    strides, dilation = rng.integers(1, 4, (2, 2)).tolist()
    extra = [int(rng.integers(0, max(pair))) for pair in zip(strides, dilation, strict=True)]
    # torch cuts both sides alike: one padding for each axis.
    padding = [int(rng.integers(0, 1 + d * (k - 1) // 2)) for d, k in zip(dilation, window, strict=True)]
    x = rng.normal(size=(height, width, groups * group_inputs))
    kernel = rng.normal(size=(*window, group_inputs, groups * group_outputs))
    bias = rng.normal(size=groups * group_outputs)

    def op(x, kernel, bias):
        options = {"strides": tuple(strides), "dilation": tuple(dilation), "output_padding": tuple(extra)}
        sides = ((padding[0], padding[0]), (padding[1], padding[1]))
        return ops.conv_transpose(x, kernel, bias, padding=sides, groups=groups, **options)

    def peer(x, kernel, bias):
        weight = transposed_weight(kernel, groups)
        y = F.conv_transpose2d(batch_of_one(x), weight, bias, strides, padding, extra, groups, dilation)
        return image_of(y)

    check_values_and_gradients(op, peer, [x, kernel, bias], seed)


def pool_problem(seed):
    """Draws an image full of ties; torch's padding is at most half the window, and the same on both sides."""
    rng = np.random.default_rng(seed)
    window = rng.integers(1, 5, 2).tolist()
    strides = rng.integers(1, 4, 2).tolist()
    padding = [int(rng.integers(0, k // 2 + 1)) for k in window]
    height, width = rng.integers(4, 11, 2).tolist()
    x = rng.integers(-4, 0, (height, width, 2)).astype(float)
    options = {
        "strides": tuple(strides),
        "padding": ((padding[0], padding[0]), (padding[1], padding[1])),
        "ceil_mode": bool(rng.integers(2)),
    }
    return x, window, strides, padding, options


@pytest.mark.parametrize("seed", range(10))
def test_max_pool_with_ties(seed):
    x, window, strides, padding, options = pool_problem(seed)

    def peer(x):
        y = F.max_pool2d(batch_of_one(x), window, strides, padding, ceil_mode=options["ceil_mode"])
        return image_of(y)

    check_values_and_gradients(lambda x: ops.max_pool(x, tuple(window), **options), peer, [x], seed)


@pytest.mark.parametrize("seed", range(100, 108))
def test_max_pool_with_indices_and_max_unpool(seed):
    x, window, strides, padding, options = pool_problem(seed)
    batch = batch_of_one(torch.tensor(x))
    expected, places = F.max_pool2d(
        batch, window, strides, padding, ceil_mode=options["ceil_mode"], return_indices=True
    )
    y, indices = jax.jit(lambda x: ops.max_pool_with_indices(x, tuple(window), **options))(x)
    np.testing.assert_array_equal(y, image_of(expected).numpy())
    np.testing.assert_array_equal(indices, image_of(places).numpy())
    # max_unpool2d refuses the sizes that padding and ceil mode make, so a scatter stands in for it.
    image = jax.jit(lambda y, indices: ops.max_unpool(y, indices, x.shape[:2]))(y, indices)
    flat = torch.zeros(1, 2, x.shape[0] * x.shape[1], dtype=torch.float64)
    flat.scatter_(2, places.flatten(2), expected.flatten(2))
    np.testing.assert_array_equal(image, image_of(flat.reshape(batch.shape)).numpy())


@pytest.mark.parametrize("window", [2, 3])
def test_max_unpool_of_windows_without_overlap(window):
    rng = np.random.default_rng(0)
    batch = torch.tensor(rng.normal(size=(1, 2, 6, 12)))
    y, places = F.max_pool2d(batch, window, return_indices=True)
    indices = image_of(places).numpy()
    check_values_and_gradients(
        lambda y: ops.max_unpool(y, jnp.asarray(indices), (6, 12)),
        lambda y: image_of(F.max_unpool2d(batch_of_one(y), places, window)),
        [image_of(y).numpy()],
        0,
    )


@pytest.mark.parametrize("seed", range(200, 214))
def test_avg_pool(seed):
    x, window, strides, padding, options = pool_problem(seed)
    rng = np.random.default_rng(seed)
    include = bool(rng.integers(2))

    def peer(x):
        y = F.avg_pool2d(batch_of_one(x), window, strides, padding, options["ceil_mode"], include)
        return image_of(y)

    def op(x):
        return ops.avg_pool(x, tuple(window), count_include_pad=include, **options)

    check_values_and_gradients(op, peer, [rng.normal(size=x.shape)], seed)


@pytest.mark.parametrize(
    ("size", "output_shape"), [((7, 7), (1, 1)), ((7, 5), (3, 2)), ((10, 3), (4, 7)), ((6, 8), (3, 8))]
)
def test_adaptive_pools(size, output_shape):
    x = np.random.default_rng(0).integers(0, 4, (*size, 2)).astype(float)
    check_values_and_gradients(
        lambda x: ops.adaptive_avg_pool(x, output_shape),
        lambda x: image_of(F.adaptive_avg_pool2d(batch_of_one(x), output_shape)),
        [x],
        0,
    )
    check_values_and_gradients(
        lambda x: ops.adaptive_max_pool(x, output_shape),
        lambda x: image_of(F.adaptive_max_pool2d(batch_of_one(x), output_shape)),
        [x],
        0,
    )


def test_dense():
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape) for shape in ((3, 5), (5, 4), (4,))]
    check_values_and_gradients(ops.dense, lambda x, kernel, bias: F.linear(x, kernel.T, bias), arrays, 0)


@pytest.mark.parametrize("shape", [(4, 5, 6, 3), (8, 3)])
def test_batch_norm(shape):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape) * 2 + 1, rng.normal(size=3), rng.normal(size=3)]

    def op(images, scale, bias):
        def normalized(x):
            return ops.normalize(x, *ops.batch_moments(x, "batch"), scale, bias, epsilon=1e-3)

        return jax.vmap(normalized, axis_name="batch")(images)

    def peer(images, scale, bias):
        y = F.batch_norm(images.movedim(-1, 1), None, None, scale, bias, training=True, eps=1e-3)
        return y.movedim(1, -1)

    check_values_and_gradients(op, peer, arrays, 0, tolerance=1e-11)


@pytest.mark.parametrize("num_groups", [1, 3, 6])
def test_group_norm(num_groups):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(4, 5, 6)) * 2 + 1, rng.normal(size=6), rng.normal(size=6)]
    check_values_and_gradients(
        lambda x, scale, bias: ops.group_norm(x, num_groups, scale, bias),
        lambda x, scale, bias: image_of(F.group_norm(batch_of_one(x), num_groups, scale, bias)),
        arrays,
        0,
    )


def test_layer_norm():
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(4, 5, 6)) * 2 + 1, rng.normal(size=6), rng.normal(size=6)]
    check_values_and_gradients(
        ops.layer_norm, lambda x, scale, bias: F.layer_norm(x, (6,), scale, bias, eps=1e-6), arrays, 0
    )


@pytest.mark.parametrize("size", [1, 2, 5, 6])
def test_local_response_norm(size):
    x = np.random.default_rng(0).normal(size=(3, 4, 8)) * 10
    check_values_and_gradients(
        lambda x: ops.local_response_norm(x, size=size, alpha=0.1),
        lambda x: image_of(F.local_response_norm(batch_of_one(x), size, alpha=0.1)),
        [x],
        0,
    )


def test_local_response_norm_has_the_defaults_of_torch():
    x = np.random.default_rng(0).normal(size=(3, 4, 8)) * 10
    expected = image_of(torch.nn.LocalResponseNorm(5)(batch_of_one(torch.tensor(x))))
    np.testing.assert_allclose(ops.local_response_norm(x), expected.numpy(), rtol=1e-12)


@pytest.mark.parametrize(
    ("method", "antialias"),
    [("nearest", False), ("bilinear", False), ("bilinear", True), ("bicubic", False), ("bicubic", True)],
)
@pytest.mark.parametrize(
    ("size", "output_shape"),
    [((7, 9), (4, 3)), ((5, 4), (11, 8)), ((8, 6), (3, 13)), ((6, 5), (1, 5)), ((1, 9), (4, 2))],
)
def test_resize(method, antialias, size, output_shape):
    # torch 2.13 repeats the first row where the width becomes 1 with antialias; no such size is among these.
    options = {} if method == "nearest" else {"align_corners": False, "antialias": antialias}
    check_values_and_gradients(
        lambda x: ops.resize(x, output_shape, method=method, antialias=antialias),
        lambda x: image_of(F.interpolate(batch_of_one(x), output_shape, mode=method, **options)),
        [np.random.default_rng(0).normal(size=(*size, 2))],
        0,
    )
