"""Convolution layers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax

from jaxcnn import ops
from jaxcnn.layers.initializers import lecun_normal
from jaxcnn.layers.parameters import affine_shapes, check_channels, check_shapes, init_kernel_and_bias
from jaxcnn.ops.arithmetic import transpose_padding_sides
from jaxcnn.ops.check import Padding, Size, as_padding, as_pair, check_image
from jaxcnn.ops.convolution import Border
from jaxcnn.types import Params, Shape, State
from jaxcnn.values import Value


class _WithKernel(Value):
    """What both convolutions share: the shape of the kernel, and the drawing of the parameters."""

    in_channels: int
    out_channels: int
    kernel_size: Size
    groups: int
    use_bias: bool
    kernel_init: Callable[..., jax.Array]
    bias_init: Callable[..., jax.Array]

    @property
    def kernel_shape(self) -> Shape:
        """(height, width, in_channels / groups, out_channels)."""
        return (*as_pair("kernel_size", self.kernel_size), self.in_channels // self.groups, self.out_channels)

    def init(self, key: jax.Array) -> tuple[Params, State]:
        """Draws kernel and bias."""
        return init_kernel_and_bias(self, key), {}


@dataclass(frozen=True, repr=False)
class Conv(_WithKernel):
    """Convolution: `jaxcnn.ops.conv` with a trained kernel and bias.

    Attributes:
      in_channels: channels of the image.
      out_channels: channels of the output.
      kernel_size: (height, width) of the kernel, in taps.
      strides: step of the kernel, in pixels.
      padding: "VALID", "SAME", "SAME_LOWER", an int or ((top, bottom), (left, right)). At stride 2, "SAME" is not
        torch's padding.
      dilation: distance between neighbouring taps, in pixels.
      groups: number of channel groups; equal to the number of channels for a depthwise convolution.
      border: values of padded pixels: "zeros", "edge", "reflect" or "circular".
      use_bias: whether to add a bias; superfluous before a batch norm.
      kernel_init: draws the kernel, shape (height, width, in_channels / groups, out_channels).
      bias_init: draws the bias, shape (out_channels,).
    """

    in_channels: int
    out_channels: int
    kernel_size: Size = (3, 3)
    strides: Size = (1, 1)
    padding: Padding = "SAME"
    dilation: Size = (1, 1)
    groups: int = 1
    border: Border = "zeros"
    use_bias: bool = True
    kernel_init: Callable[..., jax.Array] = lecun_normal
    bias_init: Callable[..., jax.Array] = jax.nn.initializers.zeros

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernel_size", as_pair("kernel_size", self.kernel_size))
        object.__setattr__(self, "strides", as_pair("strides", self.strides))
        object.__setattr__(self, "padding", as_padding(self.padding))
        object.__setattr__(self, "dilation", as_pair("dilation", self.dilation))
        check_channels("Conv", self.in_channels, self.out_channels, self.groups)

    def apply(
        self, params: Params, state: State, x: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, State]:
        """Convolves one image (height, width, in_channels)."""
        del train, key
        check_shapes("Conv parameters", params, affine_shapes(self))
        y = ops.conv(
            x,
            params["kernel"],
            params.get("bias"),
            strides=self.strides,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            border=self.border,
        )
        return y, state


@dataclass(frozen=True, repr=False)
class StackedConv(Conv):
    """A convolution of many small maps, which are stacked into one tall image: rows of one do not reach into the next.

    So the layers around it see one image (maps * height, width, channels); a batch norm has the moments of all maps.

    Attributes:
      height: of each map, in pixels; the result has the same.
    """

    height: int = 7

    def apply(
        self, params: Params, state: State, x: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, State]:
        """Convolves each map of the tall image (maps * height, width, channels)."""
        check_image("StackedConv", x)
        if x.shape[0] % self.height:
            raise ValueError(f"StackedConv expects maps of {self.height} rows each, got {x.shape[0]} rows")

        def one(part: jax.Array) -> jax.Array:
            return Conv.apply(self, params, state, part, train=train, key=key)[0]

        maps = jax.vmap(one)(x.reshape(-1, self.height, *x.shape[1:]))
        return maps.reshape(-1, *maps.shape[2:]), state


@dataclass(frozen=True, repr=False)
class ConvTranspose(_WithKernel):
    """Transposed convolution: `jaxcnn.ops.conv_transpose` with a trained kernel and bias (torch's semantics).

    Attributes:
      in_channels: channels of the image.
      out_channels: channels of the output.
      kernel_size: (height, width) of the kernel, in taps.
      strides: distance between neighbouring copies of the kernel, in pixels of the output.
      padding: pixels removed from the output: "VALID" (none), an int or ((top, bottom), (left, right)).
      output_padding: pixels added at the bottom and at the right.
      dilation: distance between neighbouring taps, in pixels of the output.
      groups: number of channel groups.
      use_bias: whether to add a bias.
      kernel_init: draws the kernel, shape (height, width, in_channels / groups, out_channels).
      bias_init: draws the bias, shape (out_channels,).
      border: "zeros", or "circular" to add the pixels that the padding removes on the opposite side.
    """

    in_channels: int
    out_channels: int
    kernel_size: Size = (2, 2)
    strides: Size = (2, 2)
    padding: Padding = ((0, 0), (0, 0))
    output_padding: Size = (0, 0)
    dilation: Size = (1, 1)
    groups: int = 1
    use_bias: bool = True
    kernel_init: Callable[..., jax.Array] = lecun_normal
    bias_init: Callable[..., jax.Array] = jax.nn.initializers.zeros
    border: Literal["zeros", "circular"] = "zeros"

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernel_size", as_pair("kernel_size", self.kernel_size))
        object.__setattr__(self, "strides", as_pair("strides", self.strides))
        object.__setattr__(self, "padding", transpose_padding_sides(self.padding))
        object.__setattr__(self, "output_padding", as_pair("output_padding", self.output_padding, minimum=0))
        object.__setattr__(self, "dilation", as_pair("dilation", self.dilation))
        check_channels("ConvTranspose", self.in_channels, self.out_channels, self.groups)

    def apply(
        self, params: Params, state: State, x: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, State]:
        """Applies the transposed convolution to one image (height, width, in_channels)."""
        del train, key
        check_shapes("ConvTranspose parameters", params, affine_shapes(self))
        y = ops.conv_transpose(
            x,
            params["kernel"],
            params.get("bias"),
            strides=self.strides,
            padding=self.padding,
            output_padding=self.output_padding,
            dilation=self.dilation,
            groups=self.groups,
            border=self.border,
        )
        return y, state
