import numpy as np
import pytest
from torch_peer import check_evaluation, check_training, nn, torch

from jaxcnn.models.convnext import convnext, convnext_block

pytestmark = pytest.mark.usefixtures("float64")


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (batch, channels, height, width)."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Scale(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), 1e-6))


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = ChannelNorm(channels, eps=1e-6)
        self.expand = nn.Linear(channels, 4 * channels)
        self.project = nn.Linear(4 * channels, channels)
        self.layer_scale = Scale(channels)

    def forward(self, x):
        y = self.norm(self.conv(x)).permute(0, 2, 3, 1)
        y = self.project(nn.functional.gelu(self.expand(y))) * self.layer_scale.weight
        return x + y.permute(0, 3, 1, 2)


class Patches(nn.Module):
    """A convolution whose kernels do not overlap, and a layer norm before or after it."""

    def __init__(self, inputs, outputs, size, *, norm_first):
        super().__init__()
        self.norm_first = norm_first
        self.conv = nn.Conv2d(inputs, outputs, size, size)
        self.norm = ChannelNorm(inputs if norm_first else outputs, eps=1e-6)

    def forward(self, x):
        return self.conv(self.norm(x)) if self.norm_first else self.norm(self.conv(x))


class ConvNeXt(nn.Module):
    def __init__(self, sizes, channels, classes):
        super().__init__()
        self.stem = Patches(3, channels[0], 4, norm_first=False)
        self.stages = len(sizes)
        for i, (size, width) in enumerate(zip(sizes, channels, strict=True)):
            stage = nn.Sequential()
            if i:
                stage.add_module("downsample", Patches(channels[i - 1], width, 2, norm_first=True))
            for j in range(size):
                stage.add_module(f"block{j}", Block(width))
            self.add_module(f"stage{i + 1}", stage)
        self.norm = nn.LayerNorm(channels[-1], eps=1e-6)
        self.head = nn.Linear(channels[-1], classes)

    def forward(self, x):
        x = self.stem(x)
        for i in range(1, self.stages + 1):
            x = getattr(self, f"stage{i}")(x)
        return self.head(self.norm(x.mean((2, 3))))


@pytest.mark.parametrize("check", [check_evaluation, check_training])
def test_a_convnext_block_is_that_of_torch(check):
    # Values of some hundredths: beside them the epsilon of the layer norm is not lost in rounding.
    x = 0.03 * np.random.default_rng(1).normal(size=(2, 9, 8, 6))
    check(convnext_block(6), Block(6), x)


@pytest.mark.parametrize("check", [check_evaluation, check_training])
def test_a_convnext_is_that_of_torch(check):
    sizes, channels = (1, 1), (4, 6)
    # 21 and 26 are no multiples of the patches.
    x = np.random.default_rng(1).normal(size=(2, 21, 26, 3))
    check(convnext(sizes, channels, 5, drop_path=0.0), ConvNeXt(sizes, channels, 5), x)
