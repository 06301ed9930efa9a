"""Layers: frozen dataclasses that pair the ops with parameters and state. See `jaxcnn.types.Layer`."""

from jaxcnn.layers.arithmetic import (
    arithmetic,
    count_parameters,
    multiply_adds,
    output_shape,
    receptive_field,
)
from jaxcnn.layers.batched import Batched, batched
from jaxcnn.layers.containers import Residual, Sequential
from jaxcnn.layers.conv import Conv, ConvTranspose
from jaxcnn.layers.dense import Dense
from jaxcnn.layers.function import Flatten, Function, identity
from jaxcnn.layers.initializers import Initializer
from jaxcnn.layers.norm import BatchNorm, GroupNorm, LayerNorm
from jaxcnn.layers.pool import AdaptiveAvgPool, AvgPool, GlobalAvgPool, GlobalMaxPool, MaxPool
from jaxcnn.layers.regularize import Dropout, DropPath
from jaxcnn.layers.summary import summary

__all__ = [
    "AdaptiveAvgPool",
    "AvgPool",
    "BatchNorm",
    "Batched",
    "Conv",
    "ConvTranspose",
    "Dense",
    "DropPath",
    "Dropout",
    "Flatten",
    "Function",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "GroupNorm",
    "Initializer",
    "LayerNorm",
    "MaxPool",
    "Residual",
    "Sequential",
    "arithmetic",
    "batched",
    "count_parameters",
    "identity",
    "multiply_adds",
    "output_shape",
    "receptive_field",
    "summary",
]
