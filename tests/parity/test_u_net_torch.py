import numpy as np
import pytest
from torch_peer import check_evaluation, check_training, nn, torch

from jaxcnn.models import unet, unet_2015

pytestmark = pytest.mark.usefixtures("float64")


class Convolutions(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return torch.relu(self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))))


class UNet(nn.Module):
    """The network with its weights in a list for each level, as it is drawn in the paper: down, then up."""

    convolutions = Convolutions

    def __init__(self, classes, inputs, width, depth):
        super().__init__()
        self.depth = depth
        parent = self
        for i in range(depth):
            level, deeper = nn.Module(), nn.Module()
            outputs = width * 2**i
            level.encode = self.convolutions(inputs, outputs)
            level.decode = self.convolutions(2 * outputs, outputs)
            level.join = nn.Module()
            level.join.deeper = deeper
            deeper.up = nn.ConvTranspose2d(2 * outputs, outputs, 2, 2)
            parent.add_module(f"level{i}", level)
            parent, inputs = deeper, outputs
        parent.add_module(f"level{depth}", self.convolutions(inputs, 2 * inputs))
        self.head = nn.Conv2d(width, classes, 1)

    def levels(self):
        parent = self
        for i in range(self.depth):
            level = getattr(parent, f"level{i}")
            parent = level.join.deeper
            yield level, parent

    def joined(self, skip, up):
        return torch.cat([skip, up], 1)

    def forward(self, x):
        skips, levels = [], list(self.levels())
        for level, _ in levels:
            skips.append(level.encode(x))
            x = nn.functional.max_pool2d(skips[-1], 2)
        x = getattr(levels[-1][1], f"level{self.depth}")(x)
        for level, deeper in reversed(levels):
            x = level.decode(self.joined(skips.pop(), deeper.up(x)))
        return self.head(x)


@pytest.mark.parametrize("check", [check_evaluation, check_training])
def test_a_u_net_is_that_of_torch(check):
    x = np.random.default_rng(1).normal(size=(2, 8, 12, 3))
    check(unet(4, width=4, depth=2), UNet(4, 3, 4, 2), x)


class ValidConvolutions(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(inputs, outputs, 3), nn.Conv2d(outputs, outputs, 3)

    def forward(self, x):
        return torch.relu(self.conv2(torch.relu(self.conv1(x))))


class UNet2015(UNet):
    """The network of figure 1, which crops each skip to the map that comes up."""

    convolutions = ValidConvolutions

    def joined(self, skip, up):
        top, left = ((before - after) // 2 for before, after in zip(skip.shape[2:], up.shape[2:], strict=True))
        return torch.cat([skip[:, :, top : top + up.shape[2], left : left + up.shape[3]], up], 1)


@pytest.mark.parametrize("check", [check_evaluation, check_training])
def test_the_u_net_of_2015_is_that_of_torch(check):
    x = np.random.default_rng(1).normal(size=(2, 44, 52, 3))
    check(unet_2015(4, in_channels=3, width=4, depth=2, dropout_rate=0.0), UNet2015(4, 3, 4, 2), x)
