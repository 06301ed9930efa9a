"""The fully connected layer."""

from collections.abc import Callable
from dataclasses import dataclass

import jax

from jaxcnn import ops
from jaxcnn.layers.initializers import lecun_normal
from jaxcnn.layers.parameters import affine_shapes, check_positive, check_shapes, init_kernel_and_bias
from jaxcnn.types import Params, Shape, State
from jaxcnn.values import Value


@dataclass(frozen=True, repr=False)
class Dense(Value):
    """Fully connected layer: `jaxcnn.ops.dense` with a trained kernel and bias.

    Attributes:
      in_features: size of the last axis of the input.
      out_features: size of the last axis of the result.
      use_bias: whether to add a bias.
      kernel_init: draws the kernel, shape (in_features, out_features).
      bias_init: draws the bias, shape (out_features,).
    """

    in_features: int
    out_features: int
    use_bias: bool = True
    kernel_init: Callable[..., jax.Array] = lecun_normal
    bias_init: Callable[..., jax.Array] = jax.nn.initializers.zeros

    def __post_init__(self) -> None:
        check_positive("Dense", "in_features", self.in_features)
        check_positive("Dense", "out_features", self.out_features)

    @property
    def kernel_shape(self) -> Shape:
        """(in_features, out_features)."""
        return self.in_features, self.out_features

    def init(self, key: jax.Array) -> tuple[Params, State]:
        """Draws kernel and bias."""
        return init_kernel_and_bias(self, key), {}

    def apply(
        self, params: Params, state: State, x: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, State]:
        """Multiplies the last axis of `x`, shape (..., in_features)."""
        del train, key
        check_shapes("Dense parameters", params, affine_shapes(self))
        return ops.dense(x, params["kernel"], params.get("bias")), state
