import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import batched
from jaxcnn.layers import BatchNorm, Conv, ConvTranspose, Dense, Flatten, GroupNorm, LayerNorm, Sequential

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(autouse=True)
def one_torch_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def to_torch(images):
    return torch.from_numpy(np.moveaxis(images, -1, 1).copy())


def from_torch(batch):
    return np.moveaxis(batch.detach().numpy(), 1, -1)


def draw(layer, seed=0):
    """Draws parameters and state, all different."""
    rng = np.random.default_rng(seed)
    params, state = jax.eval_shape(layer.init, jax.random.key(0))
    return (
        jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), params),
        jax.tree.map(lambda leaf: rng.uniform(0.5, 2, leaf.shape), state),
    )


def assign(module, **tensors):
    with torch.no_grad():
        for name, value in tensors.items():
            getattr(module, name).copy_(torch.from_numpy(np.ascontiguousarray(value)))


@pytest.mark.parametrize(("decay", "epsilon"), [(0.9, 1e-5), (0.7, 0.1)])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("shape", [(3, 5, 4, 6), (8, 6)])
def test_batch_norm_trains_and_evaluates_as_torch_does(decay, epsilon, affine, shape):
    layer = BatchNorm(6, decay=decay, epsilon=epsilon, use_scale=affine, use_bias=affine)
    params, state = draw(layer)
    kind = torch.nn.BatchNorm1d if len(shape) == 2 else torch.nn.BatchNorm2d
    peer = kind(6, eps=epsilon, momentum=1 - decay, affine=affine, dtype=torch.float64)
    assign(peer, running_mean=state["mean"], running_var=state["var"])
    if affine:
        assign(peer, weight=params["scale"], bias=params["bias"])

    def loss(params, images, weights, state):
        outputs, new_state = batched(layer)(params, state, images, train=True)
        return jnp.sum(weights * outputs), (outputs, new_state)

    step = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    for seed in range(3):
        rng = np.random.default_rng(seed)
        images, weights = rng.normal(size=shape) * (seed + 1) + seed, rng.normal(size=shape)
        (gradients, image_gradients), (outputs, state) = step(params, images, weights, state)
        batch = to_torch(images).requires_grad_()
        expected = peer(batch)
        peer.zero_grad()
        torch.sum(to_torch(weights) * expected).backward()
        np.testing.assert_allclose(outputs, from_torch(expected), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(image_gradients, from_torch(batch.grad), rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(state["mean"], peer.running_mean.numpy(), rtol=1e-10)
        np.testing.assert_allclose(state["var"], peer.running_var.numpy(), rtol=1e-10)
        if affine:
            np.testing.assert_allclose(gradients["scale"], peer.weight.grad.numpy(), rtol=1e-8, atol=1e-9)
            np.testing.assert_allclose(gradients["bias"], peer.bias.grad.numpy(), rtol=1e-8, atol=1e-9)
    peer.eval()
    outputs, _ = batched(layer)(params, state, jnp.asarray(images), train=False)
    np.testing.assert_allclose(outputs, from_torch(peer(to_torch(images))), rtol=1e-10)


def test_the_running_variance_of_torch_is_the_unbiased_one():
    images = np.random.default_rng(0).normal(size=(2, 1, 2, 3))
    peer = torch.nn.BatchNorm2d(3, momentum=1.0, dtype=torch.float64)
    peer(to_torch(images))
    for unbiased in (True, False):
        layer = BatchNorm(3, decay=0.0, unbiased=unbiased)
        _, state = batched(layer)(*draw(layer), jnp.asarray(images), train=True)
        np.testing.assert_allclose(state["var"], peer.running_var.numpy() * (1 if unbiased else 3 / 4), rtol=1e-10)


def test_defaults_of_batch_norm_are_those_of_torch():
    layer, peer = BatchNorm(3), torch.nn.BatchNorm2d(3)
    assert (layer.epsilon, 1 - layer.decay) == (peer.eps, pytest.approx(peer.momentum))


@pytest.mark.parametrize("num_groups", [1, 2, 6])
def test_group_norm_is_that_of_torch(num_groups):
    layer, peer = GroupNorm(6, num_groups), torch.nn.GroupNorm(num_groups, 6, dtype=torch.float64)
    params, state = draw(layer)
    assign(peer, weight=params["scale"], bias=params["bias"])
    images = np.random.default_rng(1).normal(size=(2, 5, 4, 6))
    outputs, _ = batched(layer)(params, state, jnp.asarray(images), train=False)
    np.testing.assert_allclose(outputs, from_torch(peer(to_torch(images))), rtol=1e-9, atol=1e-9)


def test_layer_norm_is_that_of_torch_over_the_channels():
    layer, peer = LayerNorm(6), torch.nn.LayerNorm(6, eps=1e-6, dtype=torch.float64)
    params, state = draw(layer)
    assign(peer, weight=params["scale"], bias=params["bias"])
    images = np.random.default_rng(1).normal(size=(2, 5, 4, 6))
    outputs, _ = batched(layer)(params, state, jnp.asarray(images), train=False)
    np.testing.assert_allclose(outputs, peer(torch.from_numpy(images)).detach().numpy(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_is_that_of_torch_with_its_weights(groups):
    layer = Conv(4, 6, (3, 5), (2, 1), 2, (1, 2), groups)
    peer = torch.nn.Conv2d(4, 6, (3, 5), (2, 1), 2, (1, 2), groups, dtype=torch.float64)
    params, state = draw(layer)
    assign(peer, weight=params["kernel"].transpose(3, 2, 0, 1), bias=params["bias"])
    images = np.random.default_rng(1).normal(size=(2, 9, 12, 4))
    outputs, _ = batched(layer)(params, state, jnp.asarray(images), train=False)
    np.testing.assert_allclose(outputs, from_torch(peer(to_torch(images))), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution_is_that_of_torch_with_its_weights(groups):
    layer = ConvTranspose(4, 6, (3, 4), (2, 3), 1, output_padding=(1, 2), groups=groups)
    peer = torch.nn.ConvTranspose2d(4, 6, (3, 4), (2, 3), 1, (1, 2), groups, dtype=torch.float64)
    params, state = draw(layer)
    # (height, width, in / groups, out) and (in, out / groups, height, width) are the same numbers.
    kernel = params["kernel"].reshape(3, 4, 4 // groups, groups, 6 // groups)
    assign(peer, weight=kernel.transpose(3, 2, 4, 0, 1).reshape(4, 6 // groups, 3, 4), bias=params["bias"])
    images = np.random.default_rng(1).normal(size=(2, 5, 4, 4))
    outputs, _ = batched(layer)(params, state, jnp.asarray(images), train=False)
    np.testing.assert_allclose(outputs, from_torch(peer(to_torch(images))), rtol=1e-9, atol=1e-9)


def test_a_dense_layer_after_flatten_is_that_of_torch_with_its_rows_permuted():
    layer = Sequential(flatten=Flatten(), dense=Dense(3 * 4 * 2, 5))
    peer = torch.nn.Linear(3 * 4 * 2, 5, dtype=torch.float64)
    params, state = draw(layer)
    channels_first = params["dense"]["kernel"].reshape(3, 4, 2, 5).transpose(2, 0, 1, 3).reshape(24, 5)
    assign(peer, weight=channels_first.T, bias=params["dense"]["bias"])
    images = np.random.default_rng(1).normal(size=(2, 3, 4, 2))
    outputs, _ = batched(layer)(params, state, jnp.asarray(images), train=False)
    np.testing.assert_allclose(outputs, peer(to_torch(images).flatten(1)).detach().numpy(), rtol=1e-9)
