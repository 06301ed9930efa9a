import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import batched, trees
from jaxcnn.models import cifar_resnet, resnet18
from jaxcnn.models.resnet import bottleneck_block, resnet

torch = pytest.importorskip("torch")
nn = torch.nn

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(autouse=True)
def one_torch_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# The networks once more, written from the paper; modules are named as in jaxcnn, so that weights go by name.


class BasicBlock(nn.Module):
    def __init__(self, inputs, outputs, stride, shortcut):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = shortcut(inputs, outputs, stride)

    def forward(self, x):
        y = torch.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return torch.relu(y + self.shortcut(x))


class Bottleneck(nn.Module):
    def __init__(self, inputs, outputs, stride, shortcut):
        super().__init__()
        width = outputs // 4
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(outputs)
        self.shortcut = shortcut(inputs, outputs, stride)

    def forward(self, x):
        y = torch.relu(self.norm1(self.conv1(x)))
        y = torch.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        return torch.relu(y + self.shortcut(x))


class Projection(nn.Module):
    """The shortcut of option B: a 1x1 convolution where the shape changes."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.project = stride != 1 or inputs != outputs
        if self.project:
            self.conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return self.norm(self.conv(x)) if self.project else x


class ZeroPad(nn.Module):
    """The shortcut of option A: every other pixel, and zeros in the new channels."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.new, self.stride = outputs - inputs, stride

    def forward(self, x):
        x = x[:, :, :: self.stride, :: self.stride]
        return torch.cat([x, torch.zeros(x.shape[0], self.new, *x.shape[2:], dtype=x.dtype)], 1)


class ResNet(nn.Module):
    def __init__(self, block, shortcut, sizes, channels, first, classes, *, small_images):
        super().__init__()
        self.stem = nn.Module()
        self.stem.conv = nn.Conv2d(3, first, *((3, 1, 1) if small_images else (7, 2, 3)), bias=False)
        self.stem.norm = nn.BatchNorm2d(first)
        self.stem_pool = nn.Identity() if small_images else nn.MaxPool2d(3, 2, 1)
        self.stages = len(sizes)
        for i, (size, outputs) in enumerate(zip(sizes, channels, strict=True), start=1):
            stage = nn.Module()
            for j in range(size):
                stage.add_module(f"block{j}", block(first, outputs, 2 if j == 0 and i > 1 else 1, shortcut))
                first = outputs
            self.add_module(f"stage{i}", stage)
        self.head = nn.Linear(first, classes)

    def forward(self, x):
        x = self.stem_pool(torch.relu(self.stem.norm(self.stem.conv(x))))
        for i in range(1, self.stages + 1):
            for block in getattr(self, f"stage{i}").children():
                x = block(x)
        return self.head(x.mean((2, 3)))


NETWORKS = {
    "resnet18": (
        lambda: resnet18(10),
        lambda: ResNet(BasicBlock, Projection, (2, 2, 2, 2), (64, 128, 256, 512), 64, 10, small_images=False),
        (63, 70),
    ),
    "bottlenecks": (
        lambda: resnet(bottleneck_block, (1, 2, 1, 1), 10, 3, "cifar", False),
        lambda: ResNet(Bottleneck, Projection, (1, 2, 1, 1), (256, 512, 1024, 2048), 64, 10, small_images=True),
        (15, 18),
    ),
    "option A": (
        lambda: cifar_resnet(14),
        lambda: ResNet(BasicBlock, ZeroPad, (2, 2, 2), (16, 32, 64), 16, 10, small_images=True),
        (15, 18),
    ),
}

LEAF_NAMES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def draw(model, seed=0):
    """Draws parameters and moments, so that no scale is one and no mean zero."""
    rng = np.random.default_rng(seed)

    def leaf(path, spec):
        name = path[-1].key
        if name == "kernel":
            return rng.normal(size=spec.shape) / np.sqrt(np.prod(spec.shape[:-1]))
        return rng.uniform(0.5, 1.5, spec.shape) if name in ("scale", "var") else 0.1 * rng.normal(size=spec.shape)

    return jax.tree_util.tree_map_with_path(leaf, jax.eval_shape(model.init, jax.random.key(0)))


def torch_layout(leaf):
    """Turns a kernel of jaxcnn into torch's order of axes."""
    leaf = np.asarray(leaf)
    return {4: lambda: leaf.transpose(3, 2, 0, 1), 2: lambda: leaf.T, 1: lambda: leaf}[leaf.ndim]()


def torch_name(path):
    *parents, leaf = path.split("/")
    return ".".join([*parents, LEAF_NAMES[leaf]])


def load(module, params, state):
    """Copies parameters and moments into the module, and checks that none is left over on either side."""
    tensors = {torch_name(path): leaf for tree in (params, state) for path, leaf in trees.named_leaves(tree).items()}
    own = {name for name in module.state_dict() if not name.endswith("num_batches_tracked")}
    assert set(tensors) == own
    tensors = {name: torch.from_numpy(np.ascontiguousarray(torch_layout(leaf))) for name, leaf in tensors.items()}
    module.double().load_state_dict(tensors, strict=False)


def assert_agree(name, actual, expected):
    """Compares arrays; the largest value sets the scale, for a gradient may have values near zero."""
    tolerance = 1e-9 * np.abs(expected).max() + 1e-12
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance, err_msg=name)


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    build, build_peer, size = NETWORKS[request.param]
    model, peer = build(), build_peer()
    params, state = draw(model)
    rng = np.random.default_rng(1)
    images, labels = rng.normal(size=(2, *size, 3)), np.array([3, 7])
    load(peer, params, state)
    return model, peer, params, state, images, labels


def test_a_resnet_evaluates_as_in_torch(network):
    model, peer, params, state, images, _ = network
    logits, new_state = jax.jit(lambda p, s, x: batched(model)(p, s, x, train=False))(params, state, images)
    load(peer, params, state)
    peer.eval()
    expected = peer(torch.from_numpy(images).permute(0, 3, 1, 2)).detach().numpy()
    assert_agree("logits", logits, expected)
    for name, leaf in trees.named_leaves(new_state).items():
        np.testing.assert_array_equal(leaf, trees.named_leaves(state)[name])


def test_a_resnet_trains_as_in_torch(network):
    model, peer, params, state, images, labels = network

    @jax.jit
    def step(params, state, images):
        def loss(params):
            logits, new_state = batched(model)(params, state, images, train=True)
            picked = jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels]
            return -jnp.mean(picked), (logits, new_state)

        return jax.grad(loss, has_aux=True)(params)

    gradients, (logits, new_state) = step(params, state, images)
    load(peer, params, state)
    peer.train()
    peer.zero_grad()
    expected = peer(torch.from_numpy(images).permute(0, 3, 1, 2))
    nn.functional.cross_entropy(expected, torch.from_numpy(labels)).backward()
    assert_agree("logits", logits, expected.detach().numpy())
    for name, leaf in trees.named_leaves(new_state).items():
        assert_agree(name, leaf, peer.get_buffer(torch_name(name)).numpy())
    for name, leaf in trees.named_leaves(gradients).items():
        assert_agree(name, torch_layout(leaf), peer.get_parameter(torch_name(name)).grad.numpy())
