import jax
import numpy as np
import pytest
from torch_peer import check_evaluation, check_training, nn, torch

from jaxcnn.layers import BatchNorm, Function
from jaxcnn.models import mobilenet_v2, mobilenet_v3_small
from jaxcnn.models.blocks import inverted_residual
from jaxcnn.models.mobilenet import v3_squeeze_excite
from jaxcnn.values import Partial

pytestmark = pytest.mark.usefixtures("float64")

V2_STAGES = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]


class ConvNorm(nn.Module):
    def __init__(self, inputs, outputs, kernel=1, stride=1, groups=1, activation=nn.functional.relu6, epsilon=1e-5):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=epsilon, momentum=0.1 if epsilon == 1e-5 else 0.01)
        self.activation = activation

    def forward(self, x):
        return self.activation(self.norm(self.conv(x)))


class InvertedResidual(nn.Module):
    def __init__(self, inputs, outputs, stride, expansion):
        super().__init__()
        hidden = inputs * expansion
        self.expand = nn.Identity() if expansion == 1 else ConvNorm(inputs, hidden)
        self.depthwise = ConvNorm(hidden, hidden, 3, stride, hidden)
        self.project = ConvNorm(hidden, outputs, activation=nn.Identity())
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x):
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.stem = ConvNorm(3, 32, 3, 2)
        inputs = 32
        for i, (expansion, outputs, blocks, stride) in enumerate(V2_STAGES, start=1):
            stage = nn.Sequential()
            for j in range(blocks):
                stage.add_module(f"block{j}", InvertedResidual(inputs, outputs, stride if j == 0 else 1, expansion))
                inputs = outputs
            self.add_module(f"stage{i}", stage)
        self.last = ConvNorm(320, 1280)
        self.head = nn.Linear(1280, classes)

    def forward(self, x):
        x = self.stem(x)
        for i in range(1, 8):
            x = getattr(self, f"stage{i}")(x)
        return self.head(self.last(x).mean((2, 3)))


class SqueezeExcite(nn.Module):
    def __init__(self, channels, squeezed):
        super().__init__()
        self.reduce, self.expand = nn.Linear(channels, squeezed), nn.Linear(squeezed, channels)

    def forward(self, x):
        weights = self.expand(torch.relu(self.reduce(x.mean((2, 3)))))
        # The gradient of torch's own hardsigmoid is off by 3e-8, since it holds 1/6 in float32.
        return x * (nn.functional.relu6(weights + 3) / 6)[:, :, None, None]


class SqueezedResidual(nn.Module):
    def __init__(self, inputs, hidden, outputs, kernel, stride, squeezed, activation):
        super().__init__()
        options = {"activation": activation, "epsilon": 1e-3}
        self.expand = nn.Identity() if hidden == inputs else ConvNorm(inputs, hidden, **options)
        self.depthwise = ConvNorm(hidden, hidden, kernel, stride, hidden, **options)
        self.squeeze_excite = SqueezeExcite(hidden, squeezed) if squeezed else nn.Identity()
        self.project = ConvNorm(hidden, outputs, activation=nn.Identity(), epsilon=1e-3)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x):
        y = self.project(self.squeeze_excite(self.depthwise(self.expand(x))))
        return x + y if self.residual else y


# Stage, kernel, hidden, outputs, squeezed, whether with hard swish, stride.
V3_SMALL = [
    (1, 3, 16, 16, 8, False, 2),
    (2, 3, 72, 24, 0, False, 2),
    (2, 3, 88, 24, 0, False, 1),
    (3, 5, 96, 40, 24, True, 2),
    (3, 5, 240, 40, 64, True, 1),
    (3, 5, 240, 40, 64, True, 1),
    (4, 5, 120, 48, 32, True, 1),
    (4, 5, 144, 48, 40, True, 1),
    (5, 5, 288, 96, 72, True, 2),
    (5, 5, 576, 96, 144, True, 1),
    (5, 5, 576, 96, 144, True, 1),
]


class MobileNetV3Small(nn.Module):
    def __init__(self, classes):
        super().__init__()
        swish = nn.functional.hardswish
        self.stem = ConvNorm(3, 16, 3, 2, activation=swish, epsilon=1e-3)
        inputs = 16
        for stage, kernel, hidden, outputs, squeezed, swishes, stride in V3_SMALL:
            if not hasattr(self, f"stage{stage}"):
                self.add_module(f"stage{stage}", nn.Sequential())
            blocks, activation = getattr(self, f"stage{stage}"), swish if swishes else torch.relu
            block = SqueezedResidual(inputs, hidden, outputs, kernel, stride, squeezed, activation)
            blocks.add_module(f"block{len(blocks)}", block)
            inputs = outputs
        self.last = ConvNorm(96, 576, activation=swish, epsilon=1e-3)
        self.dense, self.head = nn.Linear(576, 1024), nn.Linear(1024, classes)

    def forward(self, x):
        x = self.stem(x)
        for i in range(1, 6):
            x = getattr(self, f"stage{i}")(x)
        return self.head(nn.functional.hardswish(self.dense(self.last(x).mean((2, 3)))))


def images(*shape):
    return 2 * np.random.default_rng(1).normal(size=shape)


@pytest.mark.parametrize("arguments", [(8, 8, 1, 6), (8, 8, 2, 6), (8, 12, 1, 1)])
@pytest.mark.parametrize("check", [check_evaluation, check_training])
def test_an_inverted_residual_is_that_of_torch(arguments, check):
    inputs, outputs, strides, expansion = arguments
    block = inverted_residual(inputs, expansion * inputs, outputs, strides, activation=Function(jax.nn.relu6))
    check(block, InvertedResidual(*arguments), images(3, 7, 8, 8))


def test_mobilenet_v2_evaluates_as_in_torch():
    with torch.no_grad():
        check_evaluation(mobilenet_v2(10), MobileNetV2(10), images(2, 63, 70, 3))


@pytest.mark.parametrize("arguments", [(8, 24, 8, 5, 1, True), (8, 8, 12, 3, 2, False)])
@pytest.mark.parametrize("check", [check_evaluation, check_training])
def test_a_squeezed_residual_is_that_of_torch(arguments, check):
    inputs, hidden, outputs, kernel, stride, squeeze = arguments
    block = inverted_residual(
        inputs,
        hidden,
        outputs,
        stride,
        activation=Function(jax.nn.hard_swish),
        kernel_size=kernel,
        gate=v3_squeeze_excite(hidden) if squeeze else None,
        norm=Partial(BatchNorm, decay=0.99, epsilon=1e-3),
    )
    peer = SqueezedResidual(*arguments[:-1], 8 if squeeze else 0, nn.functional.hardswish)
    check(block, peer, images(3, 7, 8, 8))


def test_mobilenet_v3_small_evaluates_as_in_torch():
    with torch.no_grad():
        check_evaluation(mobilenet_v3_small(10), MobileNetV3Small(10), images(2, 63, 70, 3))
