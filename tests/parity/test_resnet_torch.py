import jax
import numpy as np
import optax
import pytest
from torch_peer import (
    assert_agree,
    channels_first,
    check_evaluation,
    check_training,
    draw,
    load,
    nn,
    torch,
    torch_layout,
    torch_name,
)

from jaxcnn import trees
from jaxcnn.models import cifar_resnet, resnet18
from jaxcnn.models.resnet import bottleneck_block, resnet
from jaxcnn.training import make_train_state, make_train_step

pytestmark = pytest.mark.usefixtures("float64")


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
    def __init__(self, inputs, outputs, stride, shortcut, groups=1, width_per_group=64):
        super().__init__()
        width = groups * (outputs * width_per_group // 256)
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False)
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
        lambda: resnet(bottleneck_block, (1, 2, 1, 1), 10, stem="cifar"),
        lambda: ResNet(Bottleneck, Projection, (1, 2, 1, 1), (256, 512, 1024, 2048), 64, 10, small_images=True),
        (15, 18),
    ),
    "option A": (
        lambda: cifar_resnet(14),
        lambda: ResNet(BasicBlock, ZeroPad, (2, 2, 2), (16, 32, 64), 16, 10, small_images=True),
        (15, 18),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("check", [check_evaluation, check_training])
def test_a_resnet_is_that_of_torch(name, check):
    build, build_peer, size = NETWORKS[name]
    check(build(), build_peer(), np.random.default_rng(1).normal(size=(2, *size, 3)))


@pytest.mark.parametrize(("groups", "width_per_group"), [(4, 8), (1, 128)])
@pytest.mark.parametrize("check", [check_evaluation, check_training])
def test_a_grouped_or_wide_bottleneck_is_that_of_torch(groups, width_per_group, check):
    block = bottleneck_block(8, 64, 2, groups=groups, width_per_group=width_per_group)
    peer = Bottleneck(8, 64, 2, Projection, groups, width_per_group)
    check(block, peer, np.random.default_rng(1).normal(size=(2, 7, 8, 8)))


@pytest.mark.slow
def test_resnet20_trained_in_float64_is_that_of_torch_after_30_steps():
    model = cifar_resnet(20)
    peer = ResNet(BasicBlock, ZeroPad, (3, 3, 3), (16, 32, 64), 16, 10, small_images=True)
    params, state = draw(model)
    load(peer, params, state)
    optimizer = optax.sgd(0.05, momentum=0.9)
    train_state = make_train_state(params, state, optimizer)
    train_step = make_train_step(model, optimizer, precision="float64")
    peer_optimizer = torch.optim.SGD(peer.train().parameters(), lr=0.05, momentum=0.9)
    rng = np.random.default_rng(3)
    for _ in range(30):
        images, labels = rng.normal(size=(8, 16, 16, 3)), rng.integers(0, 10, 8)
        train_state, metrics = train_step(train_state, {"image": images, "label": labels}, jax.random.key(0))
        peer_optimizer.zero_grad()
        loss = nn.functional.cross_entropy(peer(channels_first(images)), torch.from_numpy(labels))
        loss.backward()
        peer_optimizer.step()
        np.testing.assert_allclose(metrics.mean_loss, loss.item(), rtol=1e-9)
    for path, leaf in trees.named_leaves(train_state.params).items():
        expected = peer.get_parameter(torch_name(path)).detach().numpy()
        assert_agree(path, torch_layout(peer, path, leaf), expected, 1e-9)
    for path, leaf in trees.named_leaves(train_state.state).items():
        assert_agree(path, leaf, peer.get_buffer(torch_name(path)).numpy(), 1e-9)
