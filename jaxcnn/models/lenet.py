"""LeNet-5 in its modern form and in its form of 1998.

Source: LeCun, Bottou, Bengio & Haffner, "Gradient-based learning applied to document recognition", 1998.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import ops
from jaxcnn.layers import Conv, Dense, Flatten, Function, Initializer, MaxPool, Sequential, output_shape
from jaxcnn.layers.parameters import check_names
from jaxcnn.models.blocks import relu
from jaxcnn.ops.check import Size, as_pair, at_least_float32
from jaxcnn.ops.wide import add_bias, scale_channels
from jaxcnn.types import Params, Shape, State
from jaxcnn.values import Value

_HE_NORMAL = Initializer(jax.nn.initializers.he_normal)

C3_TABLE = (
    (0, 1, 2),
    (1, 2, 3),
    (2, 3, 4),
    (3, 4, 5),
    (0, 4, 5),
    (0, 1, 5),
    (0, 1, 2, 3),
    (1, 2, 3, 4),
    (2, 3, 4, 5),
    (0, 3, 4, 5),
    (0, 1, 4, 5),
    (0, 1, 2, 5),
    (0, 1, 3, 4),
    (1, 2, 4, 5),
    (0, 2, 3, 5),
    (0, 1, 2, 3, 4, 5),
)
"""The maps of S2 from which each map of C3 is computed (table I of the paper)."""


def lenet5(
    num_classes: int = 10, *, in_channels: int = 1, activation: Function = relu, image_size: Size = 32
) -> Sequential:
    """Builds LeNet-5 in its modern form: ReLU, max pooling, a dense head.

    On 32x32x1: maps of 28x28x6, 14x14x6, 10x10x16, 5x5x16, then 120, 84 and 10; 61,706 parameters.

    Args:
      num_classes: number of logits.
      in_channels: channels of the image.
      activation: the nonlinearity.
      image_size: (height, width) of the image, in pixels, at least 16.

    Returns:
      The model; its head is a `Dense(84, num_classes)`.
    """
    maps = {
        "conv1": Conv(in_channels, 6, 5, padding="VALID", kernel_init=_HE_NORMAL),
        "relu1": activation,
        "pool1": MaxPool(2),
        "conv2": Conv(6, 16, 5, padding="VALID", kernel_init=_HE_NORMAL),
        "relu2": activation,
        "pool2": MaxPool(2),
        "flatten": Flatten(),
    }
    width = prod(output_shape(Sequential(**maps), (*as_pair("image_size", image_size), in_channels)))
    return Sequential(
        **maps,
        dense1=Dense(width, 120, kernel_init=_HE_NORMAL),
        relu3=activation,
        dense2=Dense(120, 84, kernel_init=_HE_NORMAL),
        relu4=activation,
        head=Dense(84, num_classes),
    )


def lenet5_1998(num_classes: int = 10, *, partial_connections: bool = True, gaussian_output: bool = True) -> Sequential:
    """Builds LeNet-5 as in the paper, for 32x32x1 images (section II.B).

    Scaled tanh after every layer up to F6, subsampling with a trained coefficient and bias for each map. With both
    options it has the paper's 60,000 parameters; by layer: 156, 12, 1,516, 32, 48,120 and 10,164.

    Args:
      num_classes: number of logits.
      partial_connections: whether each map of C3 sees only some maps of S2 (table I), or all.
      gaussian_output: whether the output is the distance to a fixed code for each class (equation 7), or a dense layer.

    Returns:
      The model; its head is a `Gaussian` or a `Dense` of 84 features.
    """
    squash, uniform = Function(scaled_tanh), fan_in_uniform
    c3 = TableConv(6, C3_TABLE) if partial_connections else Conv(6, 16, 5, padding="VALID", kernel_init=uniform)
    return Sequential(
        c1=Conv(1, 6, 5, padding="VALID", kernel_init=uniform),
        tanh1=squash,
        s2=Subsampling(6),
        tanh2=squash,
        c3=c3,
        tanh3=squash,
        s4=Subsampling(16),
        tanh4=squash,
        c5=Conv(16, 120, 5, padding="VALID", kernel_init=uniform),
        tanh5=squash,
        flatten=Flatten(),
        f6=Dense(120, 84, kernel_init=uniform),
        tanh6=squash,
        head=Gaussian(84, num_classes) if gaussian_output else Dense(84, num_classes, kernel_init=uniform),
    )


def scaled_tanh(x: jax.Array) -> jax.Array:
    """Computes 1.7159 tanh(2 x / 3), which maps 1 to 1 and -1 to -1 (LeCun et al. 1998, appendix A).

    Args:
      x: any shape.

    Returns:
      Same shape and dtype.
    """
    return 1.7159 * jnp.tanh(2 / 3 * x)


def fan_in_uniform(key: jax.Array, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
    """Draws uniformly between -2.4 / F and 2.4 / F, where F is the fan-in (LeCun et al. 1998, appendix A).

    Args:
      key: typed random key, consumed.
      shape: shape of the kernel; its last axis is the output.
      dtype: dtype of the kernel.

    Returns:
      The kernel.
    """
    limit = 2.4 / prod(shape[:-1])
    return jax.random.uniform(key, shape, dtype, -limit, limit)


@dataclass(frozen=True, repr=False)
class Subsampling(Value):
    """Sum of each 2x2 window times a trained coefficient, plus a trained bias, for each map (layers S2 and S4).

    Attributes:
      channels: number of maps.
    """

    channels: int

    def init(self, key: jax.Array) -> tuple[Params, State]:
        """Draws the coefficients (`scale`) as weights of fan-in 4; the biases are zero."""
        scale = jax.random.uniform(key, (self.channels,), jnp.float32, -2.4 / 4, 2.4 / 4)
        return {"scale": scale, "bias": jnp.zeros((self.channels,), jnp.float32)}, {}

    def apply(
        self, params: Params, state: State, x: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, State]:
        """Halves the size of one image (height, width, channels)."""
        del train, key
        check_names("Subsampling parameters", params, ("scale", "bias"))
        if x.shape[2:] != (self.channels,):
            raise ValueError(f"Subsampling expects an image of {self.channels} channels, got shape {x.shape}")
        return add_bias(scale_channels(4 * ops.avg_pool(x, 2), params["scale"]), params["bias"]), state


@dataclass(frozen=True, repr=False)
class TableConv(Value):
    """5x5 convolution in which each output map sees only the input maps of a table (layer C3).

    Only the connections of the table are parameters: the kernel has shape (5, 5, connections).

    Attributes:
      in_channels: number of input maps.
      table: for each output map, the input maps it sees.
    """

    in_channels: int
    table: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        for row in self.table:
            if not row or len(set(row)) != len(row) or not all(0 <= i < self.in_channels for i in row):
                raise ValueError(
                    f"TableConv expects rows of different input maps among 0 to {self.in_channels - 1}, got {row}"
                )

    def init(self, key: jax.Array) -> tuple[Params, State]:
        """Draws the kernel, each connection with the fan-in of its map; the biases are zero."""
        fan_in = np.repeat([25 * len(row) for row in self.table], [len(row) for row in self.table])
        kernel = jax.random.uniform(key, (5, 5, fan_in.size), jnp.float32, -2.4, 2.4)
        return {
            "kernel": kernel / jnp.asarray(fan_in, jnp.float32),
            "bias": jnp.zeros((len(self.table),), jnp.float32),
        }, {}

    def apply(
        self, params: Params, state: State, x: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, State]:
        """Convolves one image (height, width, in_channels), without padding."""
        del train, key
        check_names("TableConv parameters", params, ("kernel", "bias"))
        # One convolution for each connection, then sums: a dense kernel with zeros for missing connections would spread
        # NaN and infinity to maps that are not connected.
        inputs = np.concatenate([np.asarray(row) for row in self.table])
        wide = x.astype(at_least_float32(x.dtype))[:, :, inputs]
        maps = ops.conv(wide, params["kernel"][:, :, None], groups=len(inputs), padding="VALID")
        ends = np.cumsum([len(row) for row in self.table])
        sums = [jnp.sum(maps[:, :, end - len(row) : end], axis=-1) for row, end in zip(self.table, ends, strict=True)]
        return add_bias(jnp.stack(sums, axis=-1), params["bias"]).astype(x.dtype), state


@dataclass(frozen=True, repr=False)
class Gaussian(Value):
    """Log-density of the features under a Gaussian of unit variance around a fixed code for each class.

    The logits are -1/2 of the squared distance of equation 7, so that their softmax weights the classes as the paper's
    units do. The codes are drawn from {-1, 1} and not trained, one of the paper's choices besides its hand-drawn 7x12
    bitmaps.

    Attributes:
      in_features: number of features.
      num_classes: number of classes.
    """

    in_features: int
    num_classes: int

    def init(self, key: jax.Array) -> tuple[Params, State]:
        """Draws the codes, the state's `mean`, shape (in_features, num_classes)."""
        return {}, {"mean": jax.random.rademacher(key, (self.in_features, self.num_classes), jnp.float32)}

    def apply(
        self, params: Params, state: State, x: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, State]:
        """Computes one logit for each class from features of shape (in_features,)."""
        del params, train, key
        check_names("Gaussian state", state, ("mean",))
        if x.shape != (self.in_features,):
            raise ValueError(f"Gaussian expects features of shape ({self.in_features},), got {x.shape}")
        wide = x.astype(at_least_float32(x.dtype))
        squares = jnp.square(wide[:, None] - state["mean"].astype(wide.dtype))
        return (-0.5 * jnp.sum(squares, axis=0)).astype(x.dtype), state
