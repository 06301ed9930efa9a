"""Inception v3: factorised convolutions, batch norm everywhere, an auxiliary head.

Source: Szegedy, Vanhoucke, Ioffe, Shlens & Wojna, "Rethinking the Inception architecture for computer vision", 2016;
the numbers of channels, which the paper leaves open, are those of its published weights, and so are the names of the
modules: mixed5b is the paper's first module at 35x35.
"""

from dataclasses import dataclass
from typing import Literal

import jax

from jaxcnn.layers import (
    AdaptiveAvgPool,
    AuxiliaryHeads,
    AvgPool,
    BatchNorm,
    Concat,
    Dense,
    Dropout,
    Function,
    GlobalAvgPool,
    Initializer,
    MaxPool,
    Sequential,
)
from jaxcnn.layers.stateless import Pure
from jaxcnn.models.blocks import Norm, PaddingRule, check_padding, conv_norm, relu
from jaxcnn.ops.check import Size
from jaxcnn.types import Layer, Shape
from jaxcnn.values import Partial, Value

_batch_norm = Partial(BatchNorm, epsilon=1e-3)
_init = Initializer(jax.nn.initializers.normal, stddev=0.1)


def inception_v3(
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    norm: Norm = _batch_norm,
    activation: Function = relu,
    aux_heads: bool = True,
    dropout_rate: float = 0.5,
    padding: PaddingRule = "symmetric",
) -> Sequential | AuxiliaryHeads:
    """Builds Inception v3 (Szegedy et al. 2016, section 6 and table 1); 27,161,264 parameters, 23,834,568 in use.

    In training it gives a dict of the logits of two heads, "main" and "aux"; in evaluation the logits of the main head
    alone. Train it with `make_train_step(..., auxiliary_weight=0.4)` and label smoothing of 0.1 (section 7). The paper
    leaves initialisation, dropout and that weight open: they are torchvision's. Kernels are normal with a standard
    deviation of 0.1, and in the auxiliary head of 0.01 (its second convolution) and 0.001 (its last layer).

    Args:
      num_classes: number of logits.
      in_channels: channels of the image.
      norm: makes the normalisation for a number of channels.
      activation: the nonlinearity.
      aux_heads: whether there is the auxiliary head, aux (section 4).
      dropout_rate: probability of dropping a feature before the head, in [0, 1).
      padding: "symmetric": average pooling in the modules counts the padded pixels as zeros, as in torch. "same": it
        leaves them out, as in TensorFlow and Keras. Everything else is the same.

    Returns:
      The model: stem, mixed5b to mixed7c, pool, dropout, head, and aux after mixed6e; parameters are named like
      `mixed5b/branch3x3/conv2/conv/kernel`. An image has at least 75x75 pixels; the model was made for 299x299.

    Raises:
      ValueError: the padding is unknown, or the rate is outside [0, 1).
    """
    check_padding("inception_v3", padding)
    make = _Maker(norm, activation, AvgPool(3, strides=1, padding=1, count_include_pad=padding == "symmetric"))
    stem = Sequential(
        conv1=make.conv(in_channels, 32, 3, 2, "VALID"),
        conv2=make.conv(32, 32, 3, 1, "VALID"),
        conv3=make.conv(32, 64, 3),
        pool1=MaxPool(3, strides=2),
        conv4=make.conv(64, 80),
        conv5=make.conv(80, 192, 3, 1, "VALID"),
        pool2=MaxPool(3, strides=2),
    )
    layers: dict[str, Layer] = {
        "stem": stem,
        "mixed5b": make.module_a(192, 32),
        "mixed5c": make.module_a(256, 64),
        "mixed5d": make.module_a(288, 64),
        "mixed6a": make.reduction_a(288),
        "mixed6b": make.module_b(768, 128),
        "mixed6c": make.module_b(768, 160),
        "mixed6d": make.module_b(768, 160),
        "mixed6e": make.module_b(768, 192),
        **({"aux": make.auxiliary_head(768, num_classes)} if aux_heads else {}),
        "mixed7a": make.reduction_b(768),
        "mixed7b": make.module_c(1280),
        "mixed7c": make.module_c(2048),
        "pool": GlobalAvgPool(),
        "dropout": Dropout(dropout_rate),
        "head": Dense(2048, num_classes, kernel_init=_init),
    }
    return AuxiliaryHeads("aux", **layers) if aux_heads else Sequential(**layers)


@dataclass(frozen=True)
class _Maker:
    """Builds the modules with a normalisation, an activation and an average pooling.

    Attributes:
      norm: makes the normalisation for a number of channels.
      activation: the nonlinearity.
      average: the pooling before a 1x1 convolution; it keeps the size.
    """

    norm: Norm
    activation: Function
    average: AvgPool

    def conv(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 1,
        strides: int = 1,
        padding: Literal["symmetric", "VALID"] = "symmetric",
        kernel_init: Initializer = _init,
    ) -> Sequential:
        """Builds a convolution with its normalisation and activation."""
        return conv_norm(
            in_channels,
            out_channels,
            kernel_size,
            strides,
            norm=self.norm,
            padding=padding,
            kernel_init=kernel_init,
            relu=self.activation,
        )

    def module_a(self, in_channels: int, pool: int) -> Concat:
        """Builds the module at 35x35, with two 3x3 convolutions for a 5x5 one (figure 5)."""
        return Concat(
            branch1x1=self.conv(in_channels, 64),
            branch5x5=Sequential(conv1=self.conv(in_channels, 48), conv2=self.conv(48, 64, 5)),
            branch3x3=Sequential(
                conv1=self.conv(in_channels, 64), conv2=self.conv(64, 96, 3), conv3=self.conv(96, 96, 3)
            ),
            branch_pool=Sequential(pool=self.average, conv=self.conv(in_channels, pool)),
        )

    def reduction_a(self, in_channels: int) -> Concat:
        """Builds the module from 35x35 to 17x17 (figure 10)."""
        return Concat(
            branch3x3=self.conv(in_channels, 384, 3, 2, "VALID"),
            branch3x3_double=Sequential(
                conv1=self.conv(in_channels, 64), conv2=self.conv(64, 96, 3), conv3=self.conv(96, 96, 3, 2, "VALID")
            ),
            branch_pool=MaxPool(3, strides=2),
        )

    def module_b(self, in_channels: int, hidden: int) -> Concat:
        """Builds the module at 17x17, with 1x7 and 7x1 convolutions (figure 6, n = 7)."""
        return Concat(
            branch1x1=self.conv(in_channels, 192),
            branch7x7=Sequential(
                conv1=self.conv(in_channels, hidden),
                conv2=self.conv(hidden, hidden, (1, 7)),
                conv3=self.conv(hidden, 192, (7, 1)),
            ),
            branch7x7_double=Sequential(
                conv1=self.conv(in_channels, hidden),
                conv2=self.conv(hidden, hidden, (7, 1)),
                conv3=self.conv(hidden, hidden, (1, 7)),
                conv4=self.conv(hidden, hidden, (7, 1)),
                conv5=self.conv(hidden, 192, (1, 7)),
            ),
            branch_pool=Sequential(pool=self.average, conv=self.conv(in_channels, 192)),
        )

    def reduction_b(self, in_channels: int) -> Concat:
        """Builds the module from 17x17 to 8x8."""
        return Concat(
            branch3x3=Sequential(conv1=self.conv(in_channels, 192), conv2=self.conv(192, 320, 3, 2, "VALID")),
            branch7x7=Sequential(
                conv1=self.conv(in_channels, 192),
                conv2=self.conv(192, 192, (1, 7)),
                conv3=self.conv(192, 192, (7, 1)),
                conv4=self.conv(192, 192, 3, 2, "VALID"),
            ),
            branch_pool=MaxPool(3, strides=2),
        )

    def module_c(self, in_channels: int) -> Concat:
        """Builds the module at 8x8, with 1x3 and 3x1 convolutions side by side (figure 7)."""

        def split() -> Concat:
            return Concat(conv1x3=self.conv(384, 384, (1, 3)), conv3x1=self.conv(384, 384, (3, 1)))

        return Concat(
            branch1x1=self.conv(in_channels, 320),
            branch3x3=Sequential(conv1=self.conv(in_channels, 384), split=split()),
            branch3x3_double=Sequential(conv1=self.conv(in_channels, 448), conv2=self.conv(448, 384, 3), split=split()),
            branch_pool=Sequential(pool=self.average, conv=self.conv(in_channels, 192)),
        )

    def auxiliary_head(self, in_channels: int, num_classes: int) -> Sequential:
        """Builds the classifier of the last map at 17x17, with batch norm (section 4, figure 8)."""
        return Sequential(
            pool=AuxiliaryPool(),
            conv1=self.conv(in_channels, 128),
            conv2=self.conv(128, 768, 5, 1, "VALID", Initializer(jax.nn.initializers.normal, stddev=0.01)),
            average=GlobalAvgPool(),
            head=Dense(768, num_classes, kernel_init=Initializer(jax.nn.initializers.normal, stddev=0.001)),
        )


@dataclass(frozen=True, repr=False)
class AuxiliaryPool(Pure, Value):
    """Average pooling to at least 5x5 pixels, for the auxiliary head of Inception v3.

    Windows of 5x5 pixels at strides of 3, which make 5x5 of the 17x17 pixels of a 299x299 image (Szegedy et al. 2016,
    figure 8). A map of less than 17 pixels, for which they would not be enough, is pooled to 5x5 as `AdaptiveAvgPool`
    does, so that the model can be trained on smaller images.
    """

    def on(self, shape: Shape) -> AvgPool | AdaptiveAvgPool:
        """Chooses the pooling of a map.

        Args:
          shape: (height, width, channels) of the map.

        Returns:
          The layer that pools it.
        """
        return AvgPool(5, strides=3) if min(shape[:2]) >= 17 else AdaptiveAvgPool(5)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Pools one image (height, width, channels)."""
        return self.on(x.shape)(x)
