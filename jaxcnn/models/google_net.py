"""GoogLeNet, the first Inception network, with batch norm and with auxiliary heads.

Source: Szegedy, Liu, Jia, Sermanet, Reed, Anguelov, Erhan, Vanhoucke & Rabinovich, "Going deeper with convolutions",
2015. It has the form of the published weights (torchvision's, from TensorFlow): batch norms (Ioffe & Szegedy 2015)
instead of local response normalisation, poolings that take a last window over the edge, and 3x3 convolutions where the
paper has 5x5 ones.
"""

import functools

import jax

from jaxcnn.layers import (
    AdaptiveAvgPool,
    AuxiliaryHeads,
    BatchNorm,
    Concat,
    Dense,
    Dropout,
    Flatten,
    Function,
    GlobalAvgPool,
    Initializer,
    MaxPool,
    Sequential,
)
from jaxcnn.models.blocks import Norm, conv_norm, relu
from jaxcnn.types import Layer
from jaxcnn.values import Partial

_batch_norm = Partial(BatchNorm, epsilon=1e-3)
_init = Initializer(jax.nn.initializers.normal, stddev=0.01)


def googlenet(
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    norm: Norm = _batch_norm,
    activation: Function = relu,
    aux_heads: bool = True,
    dropout_rate: float = 0.4,
    aux_dropout_rate: float = 0.7,
) -> Sequential | AuxiliaryHeads:
    """Builds GoogLeNet (Szegedy et al. 2015, table 1 and section 5); 13,004,888 parameters, 6,624,904 of them in use.

    In training it gives a dict of the logits of three heads, "main", "aux1" and "aux2"; in evaluation the logits of the
    main head alone. Train it with `make_train_step(..., auxiliary_weight=0.3)`, the weight of section 5. The paper
    leaves the initialisation open: here kernels are normal with a standard deviation of 0.01, as in torchvision.

    Args:
      num_classes: number of logits.
      in_channels: channels of the image.
      norm: makes the normalisation for a number of channels.
      activation: the nonlinearity.
      aux_heads: whether there are the two auxiliary heads, aux1 and aux2.
      dropout_rate: probability of dropping a feature before the head, in [0, 1) (table 1).
      aux_dropout_rate: probability of dropping a feature in the auxiliary heads, in [0, 1) (section 5).

    Returns:
      The model: stem, inception3a to inception5b with pool3 and pool4, pool, dropout, head, and aux1 after inception4a
      and aux2 after inception4d; parameters are named like `inception3a/branch3x3/reduce/conv/kernel`.

    Raises:
      ValueError: a rate is outside [0, 1).
    """

    def auxiliary(name: str, channels: int) -> dict[str, Layer]:
        head = auxiliary_head(channels, num_classes, aux_dropout_rate, norm=norm, activation=activation)
        return {name: head} if aux_heads else {}

    make = functools.partial(conv_norm, norm=norm, kernel_init=_init, relu=activation)
    module = functools.partial(inception_module, norm=norm, activation=activation)
    stem = Sequential(
        conv1=make(in_channels, 64, 7, 2),
        pool1=MaxPool(3, strides=2, ceil_mode=True),
        conv2=make(64, 64),
        conv3=make(64, 192, 3),
        pool2=MaxPool(3, strides=2, ceil_mode=True),
    )
    layers: dict[str, Layer] = {
        "stem": stem,
        "inception3a": module(192, 64, 96, 128, 16, 32, 32),
        "inception3b": module(256, 128, 128, 192, 32, 96, 64),
        "pool3": MaxPool(3, strides=2, ceil_mode=True),
        "inception4a": module(480, 192, 96, 208, 16, 48, 64),
        **auxiliary("aux1", 512),
        "inception4b": module(512, 160, 112, 224, 24, 64, 64),
        "inception4c": module(512, 128, 128, 256, 24, 64, 64),
        "inception4d": module(512, 112, 144, 288, 32, 64, 64),
        **auxiliary("aux2", 528),
        "inception4e": module(528, 256, 160, 320, 32, 128, 128),
        "pool4": MaxPool(2, ceil_mode=True),
        "inception5a": module(832, 256, 160, 320, 32, 128, 128),
        "inception5b": module(832, 384, 192, 384, 48, 128, 128),
        "pool": GlobalAvgPool(),
        "dropout": Dropout(dropout_rate),
        "head": Dense(1024, num_classes, kernel_init=_init),
    }
    return AuxiliaryHeads("aux1", "aux2", **layers) if aux_heads else Sequential(**layers)


def inception_module(
    in_channels: int,
    conv1x1: int,
    reduce3x3: int,
    conv3x3: int,
    reduce5x5: int,
    conv5x5: int,
    pool: int,
    *,
    norm: Norm = _batch_norm,
    activation: Function = relu,
) -> Concat:
    """Builds the inception module with dimension reductions (Szegedy et al. 2015, figure 2b).

    Args:
      in_channels: channels of the input.
      conv1x1: channels of the 1x1 convolution, and so on as in the columns of table 1.
      reduce3x3: channels of the 1x1 convolution before the 3x3 one.
      conv3x3: channels of the 3x3 convolution.
      reduce5x5: channels of the 1x1 convolution before the last one.
      conv5x5: channels of that one, which is 3x3 here, as in the published weights, though 5x5 in the paper.
      pool: channels of the 1x1 convolution after the max pooling.
      norm: makes the normalisation for a number of channels.
      activation: the nonlinearity.

    Returns:
      The module, with branches branch1x1, branch3x3, branch5x5 and branch_pool.
    """
    make = functools.partial(conv_norm, norm=norm, kernel_init=_init, relu=activation)
    return Concat(
        branch1x1=make(in_channels, conv1x1),
        branch3x3=Sequential(reduce=make(in_channels, reduce3x3), conv=make(reduce3x3, conv3x3, 3)),
        branch5x5=Sequential(reduce=make(in_channels, reduce5x5), conv=make(reduce5x5, conv5x5, 3)),
        branch_pool=Sequential(pool=MaxPool(3, strides=1, padding=1), project=make(in_channels, pool)),
    )


def auxiliary_head(
    in_channels: int,
    num_classes: int,
    dropout_rate: float,
    *,
    norm: Norm = _batch_norm,
    activation: Function = relu,
) -> Sequential:
    """Builds a classifier of an intermediate map (Szegedy et al. 2015, section 5).

    Args:
      in_channels: channels of the map.
      num_classes: number of logits.
      dropout_rate: probability of dropping a feature, in [0, 1).
      norm: makes the normalisation for a number of channels.
      activation: the nonlinearity.

    Returns:
      The head, with layers pool, conv, flatten, dense, relu, dropout and head. A map of any size is pooled to 4x4. For
      a map of 14x14, this is torchvision's average pooling, which differs slightly from the paper's.
    """
    return Sequential(
        pool=AdaptiveAvgPool(4),
        conv=conv_norm(in_channels, 128, norm=norm, kernel_init=_init, relu=activation),
        flatten=Flatten(),
        dense=Dense(4 * 4 * 128, 1024, kernel_init=_init),
        relu=activation,
        dropout=Dropout(dropout_rate),
        head=Dense(1024, num_classes, kernel_init=_init),
    )
