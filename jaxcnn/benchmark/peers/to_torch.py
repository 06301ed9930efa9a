"""PyTorch: eager with channels_last and all cores, or `torch.compile`; on CUDA with cuDNN's search for algorithms."""

# Pyright also checks this file without the peer.
# pyright: reportMissingImports=false

from collections.abc import Callable
from functools import partial, singledispatch
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from jax.extend import core
from torch import nn
from torch._dynamo.exc import TorchDynamoException
from torch.fx import Graph, GraphModule, Node

from jaxcnn import environment, layers, ops
from jaxcnn.benchmark.peers.common import (
    IDENTITY,
    channels_of,
    conv_sides,
    declared_sides,
    pair,
    plain_average,
    pointwise,
    refuse,
    taps_apart,
    window_sides,
)
from jaxcnn.benchmark.peers.plan import ELEMENTWISE, Call, Plan, Step, make_plan
from jaxcnn.benchmark.peers.torch_operations import add_operation
from jaxcnn.benchmark.program import (
    LEARNING_RATE,
    MOMENTUM,
    Program,
    Stopwatch,
    Unavailable,
    Untranslatable,
    draw_batch,
)
from jaxcnn.benchmark.spec import Spec
from jaxcnn.models.inception import AuxiliaryPool
from jaxcnn.models.resnet import ZeroPadShortcut
from jaxcnn.models.segmentation.u_net import check_size, check_valid_size
from jaxcnn.ops.arithmetic import pad_sides, transpose_padding_sides
from jaxcnn.ops.check import Sides
from jaxcnn.types import Layer, Shape

_PADDED = {
    "zeros": nn.ZeroPad2d,
    "edge": nn.ReplicationPad2d,
    "reflect": nn.ReflectionPad2d,
    "circular": nn.CircularPad2d,
}

_FUNCTIONS: dict[Any, Callable[..., nn.Module]] = {
    IDENTITY: nn.Identity,
    jax.nn.relu: nn.ReLU,
    jax.nn.relu6: nn.ReLU6,
    jax.nn.gelu: lambda approximate=True: nn.GELU("tanh" if approximate else "none"),
    jax.nn.silu: nn.SiLU,
    jax.nn.hard_swish: nn.Hardswish,
    jax.nn.hard_sigmoid: nn.Hardsigmoid,
    jax.nn.sigmoid: nn.Sigmoid,
    jax.nn.tanh: nn.Tanh,
    jnp.tanh: nn.Tanh,
    jax.nn.elu: lambda alpha=1.0: nn.ELU(alpha),
    jax.nn.leaky_relu: lambda negative_slope=1e-2: nn.LeakyReLU(negative_slope),
    jax.nn.softplus: nn.Softplus,
    check_size: lambda **options: nn.Identity(),
    check_valid_size: lambda **options: nn.Identity(),
    ops.gelu: nn.GELU,
    ops.channel_slice: lambda start, stop: ChannelSlice(start, stop),
    ops.channel_shuffle: nn.ChannelShuffle,
    ops.resize: lambda **options: Resize(layers.Resize(**options)),
}


def make_program(spec: Spec) -> Program:
    """Builds PyTorch's program.

    Args:
      spec: what to measure.

    Returns:
      The program; torch-compile has already compiled in a first step.

    Raises:
      Unavailable: several devices are requested, or torch.compile has no compiler here.
      Untranslatable: a layer has no translation.
    """
    plan = make_plan("torch", spec.model, spec.image_shape, train=spec.mode == "train")
    return TorchProgram(spec, partial(build, plan))


class TorchProgram:
    """A model in PyTorch, channels_last, with `torch.optim.SGD`.

    Args:
      spec: what to measure.
      make_model: builds the model; its time belongs to "build".

    Raises:
      Unavailable: several devices are requested, or torch.compile has no compiler here.
    """

    def __init__(self, spec: Spec, make_model: Callable[[], nn.Module]) -> None:
        if spec.devices > 1:
            raise Unavailable(f"the torch peer runs on one device, not on {spec.devices}")
        watch = Stopwatch()
        with watch.part("build"):
            self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            if self._device.type == "cuda":
                torch.backends.cudnn.benchmark = True
                # As in XLA: float32 matrix products in TF32 if the device supports it.
                torch.set_float32_matmul_precision("high")
            else:
                torch.set_num_threads(environment.usable_cores())
            torch.manual_seed(0)
            model: Any = make_model()
            model = model.to(self._device, memory_format=torch.channels_last)
            self.parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
            images, labels = draw_batch(spec)
            self._images = to_torch_images(images).to(self._device)
            self._labels = jax.tree.map(lambda array: torch.from_numpy(array).to(self._device), labels)
            self._optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
            self._train = spec.mode == "train"
            model.train(self._train)
            self._bfloat16 = spec.precision == "bfloat16"
            self._model = model
            self.wait()
        if spec.contestant == "torch-compile":
            with watch.part("compile"):
                self._compile()
        self.cold_start = watch.seconds
        self.facts = {"device": _device_facts(self._device), "threads": torch.get_num_threads()}

    def step(self) -> None:
        """Starts a step."""
        if not self._train:
            with torch.inference_mode(), self._autocast():
                self.infer(self._model, self._images)
            return
        self._optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            loss = self.loss(self._model, self._images, self._labels)
        loss.backward()
        self._optimizer.step()

    def infer(self, model: nn.Module, images: torch.Tensor) -> Any:
        """Computes the results of a batch."""
        return model(images)

    def loss(self, model: nn.Module, images: torch.Tensor, labels: Any) -> torch.Tensor:
        """Computes the mean loss of a batch."""
        # Auxiliary heads give several results for one label, which all have the same weight.
        results = jax.tree.leaves(model(images))
        return torch.stack([F.cross_entropy(logits, labels.long()) for logits in results]).mean()

    def wait(self) -> None:
        """Waits for the CUDA device; on CPU calls are synchronous."""
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def peak_device_bytes(self) -> int | None:
        """Returns the peak memory of torch's tensors on the CUDA device; None on CPU."""
        return torch.cuda.max_memory_allocated() if self._device.type == "cuda" else None

    def _compile(self) -> None:
        """Compiles the model by a first step."""
        self._model = torch.compile(self._model)
        try:
            self.step()
            self.wait()
        except TorchDynamoException as error:
            reason = str(error).strip().partition("\n")[0]
            raise Unavailable(f"torch.compile found no working compiler: {reason}") from error

    def _autocast(self) -> Any:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16)


def to_torch_images(images: Any) -> torch.Tensor:
    """Turns images (batch, height, width, channels) into a channels_last tensor (batch, channels, height, width)."""
    tensor = torch.from_numpy(images)
    if tensor.ndim < 4:
        return tensor
    return tensor.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def build(plan: Plan) -> GraphModule:
    """Builds the module of a model.

    Args:
      plan: its plan, from `make_plan("torch", ...)`.

    Returns:
      The module, from a batch (batch, channels, height, width) to the tree of results. The module of a layer is
      `module.get_submodule("model/" + path)`, with PyTorch's own initial parameters.

    Raises:
      Untranslatable: there is no translation of a layer, or of an operation between the layers.
    """
    if plan.draws():
        raise Untranslatable("torch has no counterpart of random numbers that a forward draws; draw them in a layer")
    root, graph = nn.Module(), Graph()
    for path, (layer, shape) in plan.layers.items():
        root.add_module(f"model/{path}", translate(layer, shape))
    overwritable = _overwritable(plan)

    def do(step: Step, operands: list[Any]) -> list[Any]:
        if isinstance(step.does, core.JaxprEqn):
            return add_operation(graph, step.does, [_operand(root, graph, step.does, one) for one in operands])
        if isinstance(step.does, Call):
            name = f"model/{step.does.path}"
        else:
            name = f"activation{len(graph.nodes)}"
            root.add_module(name, translate(step.does, step.inputs[0].aval.shape))
        if step.inputs[0] in overwritable:
            _in_place(root.get_submodule(name))
        return [graph.call_module(name, tuple(operands))]

    graph.output(plan.run(graph.placeholder("x"), None, do))
    module = GraphModule(root, graph)
    # Also layers that only training calls, such as auxiliary heads.
    for path in plan.layers:
        module.add_submodule(f"model/{path}", root.get_submodule(f"model/{path}"))
    return module


def _operand(root: nn.Module, graph: Graph, equation: core.JaxprEqn, operand: Any) -> Any:
    """Turns a constant into a number if possible, otherwise into a buffer."""
    if isinstance(operand, Node):
        return operand
    array = np.asarray(operand)
    if array.ndim == 0 or (equation.primitive.name in ELEMENTWISE and (array == array.flat[0]).all()):
        return array.flat[0].item()
    name = f"constant{len(graph.nodes)}"
    root.register_buffer(name, to_torch_images(array[None].copy()))
    return graph.get_attr(name)


def _overwritable(plan: Plan) -> set[Any]:
    """Returns the variables that only one step reads, and whose own step does not need its result for its gradient."""
    uses = plan.uses()
    made = (step.outputs[0] for step in plan.steps if _forgets(step.does))
    return {variable for variable in made if uses[variable] == 1}


def _forgets(does: Any) -> bool:
    if isinstance(does, core.JaxprEqn):
        return does.primitive.name in ("add", "sub")
    return isinstance(does, Call) and isinstance(
        does.layer, layers.Conv | layers.ConvTranspose | layers.Dense | layers.BatchNorm | layers.GroupNorm
    )


def _in_place(module: Any) -> None:
    """Makes activations in-place, as in torchvision's models."""
    if hasattr(module, "inplace"):
        module.inplace = True


@singledispatch
def translate(layer: Layer, shape: Shape) -> nn.Module:
    """Translates a layer into a PyTorch module of batches (batch, channels, height, width) or (batch, features).

    Args:
      layer: a layer that is not made of layers.
      shape: shape of its input, (height, width, channels) or (features,).

    Returns:
      The module, with PyTorch's own initial parameters.

    Raises:
      Untranslatable: there is no translation; register one.
    """
    raise refuse("torch", layer)


class PerPixel(nn.Module):
    """Applies a module of the last axis to the channels of an image; in channels_last the permutations move no data."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Applies the module to each pixel."""
        return self.module(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class LayerScale(nn.Module):
    """One trained factor for each channel."""

    def __init__(self, shape: Shape, init_value: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((shape[-1], *(1 for _ in shape[:-1])), init_value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scales the channels."""
        return x * self.scale


class DropPath(nn.Module):
    """Stochastic depth: drops the branch for whole images."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Drops images in training."""
        if not self.training or self.rate == 0:
            return x
        keep = x.new_empty((x.shape[0], *(1 for _ in x.shape[1:]))).bernoulli_(1 - self.rate)
        return x * keep.div_(1 - self.rate)


class ChannelSlice(nn.Module):
    """The channels from `start` to `stop`."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start, self.stop = start, stop

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Slices the channels."""
        return x[:, self.start : self.stop]


class Resize(nn.Module):
    """`F.interpolate`, of which `jaxcnn.layers.Resize` has the options."""

    def __init__(self, layer: layers.Resize) -> None:
        super().__init__()
        self.options = {"size": layer.output_shape, "scale_factor": layer.scale_factor, "mode": layer.method}
        if layer.method in ("bilinear", "bicubic"):
            self.options |= {"align_corners": layer.align_corners, "antialias": layer.antialias}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Resizes the images."""
        return F.interpolate(x, **self.options)


class ZeroPad(nn.Module):
    """Every n-th pixel, with channels of zeros after the others."""

    def __init__(self, strides: int, channels: int) -> None:
        super().__init__()
        self.strides, self.channels = strides, channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Slices the pixels and pads the channels."""
        return F.pad(x[:, :, :: self.strides, :: self.strides], (0, 0, 0, 0, 0, self.channels))


@translate.register
def _(layer: layers.Conv, shape: Shape) -> nn.Module:
    sides = conv_sides(layer, shape)
    symmetric = layer.border == "zeros" and all(before == after for before, after in sides)
    conv = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        pair(layer.kernel_size),
        pair(layer.strides),
        padding=(sides[0][0], sides[1][0]) if symmetric else 0,
        dilation=pair(layer.dilation),
        groups=layer.groups,
        bias=layer.use_bias,
    )
    return conv if symmetric else nn.Sequential(_PADDED[layer.border](_from_last(sides)), conv)


@translate.register
def _(layer: layers.ConvTranspose, shape: Shape) -> nn.Module:
    if layer.border != "zeros":
        raise refuse("torch", layer, "only transposed convolutions with border 'zeros' are translated")
    (top, bottom), (left, right) = transpose_padding_sides(layer.padding)
    if top != bottom or left != right:
        raise refuse("torch", layer, "its padding is not symmetric")
    return nn.ConvTranspose2d(
        layer.in_channels,
        layer.out_channels,
        pair(layer.kernel_size),
        pair(layer.strides),
        (top, left),
        pair(layer.output_padding),
        layer.groups,
        layer.use_bias,
        pair(layer.dilation),
    )


@translate.register
def _(layer: layers.Dense, shape: Shape) -> nn.Module:
    return _per_pixel(nn.Linear(layer.in_features, layer.out_features, layer.use_bias), shape)


@translate.register
def _(layer: layers.BatchNorm, shape: Shape) -> nn.Module:
    kind = nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d
    return kind(layer.channels, layer.epsilon, 1 - layer.decay, affine=_affine(layer))


@translate.register
def _(layer: layers.LayerNorm, shape: Shape) -> nn.Module:
    affine = _affine(layer)
    return _per_pixel(nn.LayerNorm(channels_of("torch", layer), layer.epsilon, elementwise_affine=affine), shape)


@translate.register
def _(layer: layers.GroupNorm, shape: Shape) -> nn.Module:
    return nn.GroupNorm(layer.num_groups, layer.channels, layer.epsilon, affine=_affine(layer))


@translate.register
def _(layer: layers.MaxPool, shape: Shape) -> nn.Module:
    window, strides, sides = declared_sides(layer, shape)
    dilation = taps_apart(layer)
    if _takes(window, sides):
        return nn.MaxPool2d(window, strides, (sides[0][0], sides[1][0]), dilation, ceil_mode=layer.ceil_mode)
    _, _, sides = window_sides(layer, shape)
    pooled = nn.MaxPool2d(window, strides, dilation=dilation)
    return nn.Sequential(nn.ConstantPad2d(_from_last(sides), -torch.inf), pooled)


@translate.register
def _(layer: layers.AvgPool, shape: Shape) -> nn.Module:
    window, strides, sides = declared_sides(layer, shape)
    if _takes(window, sides):
        padding = (sides[0][0], sides[1][0])
        return nn.AvgPool2d(window, strides, padding, layer.ceil_mode, layer.count_include_pad)
    window, strides, sides = plain_average("torch", layer, shape)
    return nn.Sequential(nn.ZeroPad2d(_from_last(sides)), nn.AvgPool2d(window, strides))


@translate.register
def _(layer: layers.Pad, shape: Shape) -> nn.Module:
    if isinstance(layer.border, str) and layer.border != "zeros":
        raise refuse("torch", layer, "only paddings with border 'zeros' or a number are translated")
    value = 0.0 if layer.border == "zeros" else layer.border
    return nn.ConstantPad2d(_from_last(pad_sides(layer.padding)), value)


for _kind, _translation in {
    layers.LayerScale: lambda layer, shape: LayerScale(shape, layer.init_value),
    layers.AdaptiveAvgPool: lambda layer, shape: nn.AdaptiveAvgPool2d(layer.output_shape),
    layers.AdaptiveMaxPool: lambda layer, shape: nn.AdaptiveMaxPool2d(layer.output_shape),
    layers.Resize: lambda layer, shape: Resize(layer),
    layers.PixelShuffle: lambda layer, shape: nn.PixelShuffle(layer.factor),
    layers.PixelUnshuffle: lambda layer, shape: nn.PixelUnshuffle(layer.factor),
    AuxiliaryPool: lambda layer, shape: translate(layer.on(shape), shape),
    layers.GlobalAvgPool: lambda layer, shape: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    layers.GlobalMaxPool: lambda layer, shape: nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten()),
    layers.Flatten: lambda layer, shape: nn.Flatten(),
    layers.Dropout: lambda layer, shape: nn.Dropout(layer.rate),
    layers.DropPath: lambda layer, shape: DropPath(layer.rate),
    ZeroPadShortcut: lambda layer, shape: ZeroPad(layer.strides, layer.out_channels - layer.in_channels),
    layers.Function: lambda layer, shape: pointwise("torch", layer, _FUNCTIONS),
}.items():
    translate.register(_kind, _translation)


def _affine(layer: layers.BatchNorm | layers.LayerNorm | layers.GroupNorm) -> bool:
    if layer.use_scale != layer.use_bias:
        raise refuse("torch", layer, "its norms have both scale and bias or neither")
    return layer.use_scale


def _per_pixel(module: nn.Module, shape: Shape) -> nn.Module:
    return PerPixel(module) if len(shape) == 3 else module


def _takes(window: tuple[int, int], sides: Sides) -> bool:
    """Returns whether torch's pooling supports a padding: the same on both sides, at most half a window."""
    return all(before == after <= size // 2 for (before, after), size in zip(sides, window, strict=True))


def _from_last(sides: Sides) -> tuple[int, int, int, int]:
    """Returns a padding as torch lists it: left, right, top, bottom."""
    (top, bottom), (left, right) = sides
    return left, right, top, bottom


def _device_facts(device: torch.device) -> dict[str, Any]:
    cuda = device.type == "cuda"
    kind = torch.cuda.get_device_name() if cuda else "cpu"
    return {"platform": "gpu" if cuda else "cpu", "kind": kind, "count": 1}
